"""Jobs of real launchers, attacked by another user of the machine, and wrong tokens."""

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.parallel.launches import TOKEN, TWO, end, needs_horovod, wait_until

pytestmark = pytest.mark.processes

HERE = Path(__file__).parent
ONE_RANK = "--processes-per-node 1"


@contextmanager
def attacked(port, store_port=0, rank=0):
    """What came of a stranger's attempts, who keeps 400 connections open meanwhile."""
    stranger = subprocess.Popen(
        [sys.executable, str(HERE / "stranger.py"), str(port), str(store_port), str(rank)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield json.loads(stranger.stdout.readline())
    finally:
        stranger.kill()
        stranger.communicate()


def assert_refused(found):
    expected = {"negative": 400, "huge": 413}
    for what, status in found.items():
        # A connection may also be closed for a newer one.
        assert status in (expected.get(what, 403), 0), found
    assert list(found.values()).count(0) < 3, found


@needs_horovod
@pytest.mark.timeout(180)
def test_strangers_neither_join_nor_end_a_job_that_waits(vit):
    node_0 = vit.start(
        f"--hosts {TWO} --port {vit.port} --index 0 {ONE_RANK} --", script="sum_of_ranks.py"
    )
    wait_until(lambda: listens(vit.port))
    with attacked(vit.port) as found:
        assert_refused(found)
        node_1 = vit.start(
            f"--hosts {TWO} --port {vit.port} --index 1 {ONE_RANK} --", script="sum_of_ranks.py"
        )
        (code_0, out_0, err_0), (code_1, out_1, err_1) = end(node_0, 120), end(node_1, 120)
    assert (code_0, code_1) == (0, 0), err_0 + err_1
    assert "rank 0 of 2 sum 1" in out_0
    assert "rank 1 of 2 sum 1" in out_1
    assert err_0.count("without this job's VIT_LAUNCH_TOKEN") == 1
    assert "\x1b" not in err_0


@needs_horovod
@pytest.mark.timeout(120)
@pytest.mark.skipif(os.geteuid() != 0, reason="to become another user needs root")
def test_another_user_cannot_use_the_store_of_a_running_job(vit):
    node_0, node_1 = vit.start_two(f"{ONE_RANK} -- environment,sleep=8,exit=0")
    environment = json.loads(node_0.stdout.readline())
    port = int(environment["HOROVOD_GLOO_RENDEZVOUS_PORT"])
    rank = next(p for p in vit.left() if b"HOROVOD_RANK=0\0" in read_environment(p))
    with attacked(vit.port, port, rank) as found:
        assert found.pop("environment") == "not permitted"
        assert_refused(found)
        results = [end(node_0), end(node_1)]
    assert [code for code, _, _ in results] == [0, 0], results


def read_environment(process):
    try:
        return Path(f"/proc/{process}/environ").read_bytes()
    except OSError:
        return b""


def listens(port, address="127.0.0.1"):
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def test_node_0_listens_at_its_own_address_alone(vit):
    node_0 = vit.start(f"--hosts {TWO} --port {vit.port} --index 0 {ONE_RANK} -- exit=0")
    wait_until(lambda: listens(vit.port))
    assert not listens(vit.port, "127.0.0.3")
    node_0.terminate()
    assert end(node_0)[0] == 75


def test_a_node_with_another_token_is_told_so_and_ends_alone(vit):
    node_0 = vit.start(f"--hosts {TWO} --port {vit.port} --index 0 {ONE_RANK} -- exit=0")
    wrong = "another-token-of-the-tests-0123456789"
    code, _, err = end(
        vit.start(
            f"--hosts {TWO} --port {vit.port} --index 1 {ONE_RANK} --wait-s 4 -- exit=0",
            VIT_LAUNCH_TOKEN=wrong,
        ),
        30,
    )
    assert code == 2
    assert (
        f"the launcher of node 0 (127.0.0.1:{vit.port}) uses a different VIT_LAUNCH_TOKEN than "
        "this node, 1 (127.0.0.2). Set it to the same value on all nodes"
    ) in err
    assert wrong not in err
    # With the right one it still comes.
    node_1 = vit.start(f"--hosts {TWO} --port {vit.port} --index 1 {ONE_RANK} -- exit=0")
    (code_0, _, err_0), (code_1, _, _) = end(node_0), end(node_1)
    assert (code_0, code_1) == (0, 0)
    assert "without this job's VIT_LAUNCH_TOKEN, the last from 127.0.0.1" in err_0


@pytest.mark.parametrize("token", ["", "short"])
def test_several_nodes_without_a_token_are_refused(vit, token):
    code, out, err = vit.run(
        f"--hosts {TWO} --index 0 {ONE_RANK} -- exit=0", VIT_LAUNCH_TOKEN=token, timeout_s=20
    )
    assert (code, out) == (2, "")
    assert "export VIT_LAUNCH_TOKEN=$(openssl rand -hex 32)" in err
    assert len(err.splitlines()) == 1


def test_the_token_stands_on_no_command_line_and_is_not_for_the_ranks(vit):
    (token,) = TOKEN.values()
    two = vit.start_two(f"{ONE_RANK} -- environment,sleep=3,exit=0")
    lines = [launcher.stdout.readline() for launcher in two]
    for process in vit.left():
        assert token not in Path(f"/proc/{process}/cmdline").read_text()
    for line, launcher in zip(lines, two, strict=True):
        code, out, err = end(launcher)
        assert code == 0
        assert token not in line + out + err


def test_escape_sequences_of_another_node_do_not_reach_the_terminal(vit):
    hostile = "\x1b]0;owned\x07\x1b[2J"
    two = vit.start_two(f"{ONE_RANK} -- sleep=3,exit=76 error={hostile},exit=1")
    (code_0, _, err_0), (code_1, _, _) = (end(launcher) for launcher in two)
    assert (code_0, code_1) == (76, 1)
    assert "  | \\x1b]0;owned\\x07\\x1b[2J\n" in err_0
    assert "\x1b" not in err_0


def test_a_job_on_one_host_needs_no_token_and_opens_ports_to_this_host_alone(vit):
    launcher = vit.start(
        f"--hosts localhost --port {vit.port} {ONE_RANK} -- print=ready,sleep=3,exit=0",
        VIT_LAUNCH_TOKEN="",
    )
    launcher.stdout.readline()
    assert listens(vit.port)
    assert not listens(vit.port, "127.0.0.2")
    code, _, err = end(launcher)
    assert code == 0, err

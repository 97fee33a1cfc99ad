"""`vit launch` with real processes: how they start, find each other, and end together."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.parallel.launches import ROOT, TWO, end, needs_horovod, wait_until

pytestmark = pytest.mark.processes

# What runs without Horovod runs with --runtime multi_worker, whose processes need no rendezvous.
ALONE = "--hosts localhost --processes-per-node 2 --runtime multi_worker"
TRUSTED = "--runtime multi_worker --trust-network"
EITHER = [pytest.param("horovod", marks=needs_horovod), "multi_worker"]


@needs_horovod
def test_each_process_is_told_its_place_by_horovods_own_plan(vit):
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts

    two = vit.start_two(
        "--processes-per-node 2 -- environment", TF_CONFIG="stale", HOROVOD_RANK="9"
    )
    found = {}
    for launcher in two:
        code, out, err = end(launcher)
        assert code == 0, err
        for line in out.splitlines():
            environment = json.loads(line[line.index("{") :])
            found[int(environment["HOROVOD_RANK"])] = environment
    plan = get_host_assignments(parse_hosts("127.0.0.1:2,127.0.0.2:2"), 4)
    for slot in plan:
        environment = found.pop(slot.rank)
        for name in ("size", "local_rank", "local_size", "cross_rank", "cross_size", "hostname"):
            assert environment[f"HOROVOD_{name.upper()}"] == str(getattr(slot, name))
        port = environment["HOROVOD_GLOO_RENDEZVOUS_PORT"]
        address = environment["HOROVOD_GLOO_RENDEZVOUS_ADDR"]
        assert re.fullmatch(rf"127\.0\.0\.1:{port}/[0-9a-f]{{32}}", address)
        assert "VIT_LAUNCH_TOKEN" not in environment
        assert environment["HOROVOD_GLOO_IFACE"] == environment["NCCL_SOCKET_IFNAME"] == "lo"
        assert environment["HOROVOD_CONTROLLER"] == environment["HOROVOD_CPU_OPERATIONS"] == "gloo"
        assert environment["HOROVOD_GLOO_TIMEOUT_SECONDS"] == "120"
        assert "TF_CONFIG" not in environment
    assert not found


@needs_horovod
@pytest.mark.timeout(120)
def test_horovod_adds_up_on_one_host(vit):
    code, out, err = vit.run(
        "--hosts localhost --processes-per-node 2 --", script="sum_of_ranks.py"
    )
    assert code == 0, err
    assert "rank 0 of 2 sum 1" in out.splitlines()
    assert "[rank 1 localhost] rank 1 of 2 sum 1" in out.splitlines()


@needs_horovod
@pytest.mark.timeout(120)
@pytest.mark.parametrize("first", [0, 1])
def test_horovod_adds_up_on_two_hosts_that_come_one_after_the_other(vit, first):
    two = vit.start_two(
        "--processes-per-node 1 --", script="sum_of_ranks.py", first=first, apart_s=3.0
    )
    (code_0, out_0, err_0), (code_1, out_1, err_1) = (end(launcher) for launcher in two)
    assert (code_0, code_1) == (0, 0), err_0 + err_1
    assert "rank 0 of 2 sum 1" in out_0
    assert "[rank 1 127.0.0.2] rank 1 of 2 sum 1" in out_1


@pytest.mark.timeout(120)
def test_tensorflow_adds_up_on_two_hosts(vit):
    two = vit.start_two(f"--processes-per-node 1 {TRUSTED} --", script="sum_of_ranks.py")
    (code_0, out_0, err_0), (code_1, out_1, err_1) = (end(launcher) for launcher in two)
    assert (code_0, code_1) == (0, 0), err_0 + err_1
    assert "rank 0 of 2 sum 1" in out_0
    assert "rank 1 of 2 sum 1" in out_1


@needs_horovod
@pytest.mark.timeout(120)
def test_a_killed_rank_ends_the_job_on_every_host(vit):
    two = vit.start_two("--processes-per-node 1 -- 1", script="sum_of_ranks.py")
    (code_0, _, err_0), (code_1, _, err_1) = (end(launcher) for launcher in two)
    assert code_1 == 137
    assert code_0 == 76
    for err in (err_0, err_1):
        assert "rank 1 on 127.0.0.2 was killed by SIGKILL" in err
    said = "[rank 1 127.0.0.2] vit launch: rank 1 of 2 on 127.0.0.2 ended: it was killed by SIGKILL"
    assert said in err_1.splitlines()
    assert "on this node (127.0.0.1): rank 0 ended with exit code 76" in err_0


@pytest.mark.parametrize(
    ("runtime", "third"),
    [
        # The launcher waits two thirds of --end-within-s before it asks a rank to end.
        pytest.param("horovod", "on=SIGTERM:75,sleep=60", marks=needs_horovod),
        ("multi_worker", "sleep=2,exit=75"),
    ],
)
def test_a_failing_rank_is_named_with_its_last_lines(vit, runtime, third):
    start_s = time.monotonic()
    code, _, err = vit.run(
        f"--hosts localhost --processes-per-node 3 --runtime {runtime} --end-within-s 6 --",
        f"sleep=1,exit=76 error=the_cause,sleep=0.3,exit=5 {third}",
    )
    assert code == 5
    last = err.splitlines()
    assert last[-2] == "rank 1 on localhost ended with exit code 5"
    assert last[-3] == "  | the_cause"
    assert "rank 2 ended with exit code 75" in last[-1]
    assert time.monotonic() - start_s < 15


def test_a_rank_that_ignores_sigterm_is_killed_within_the_time_after_the_failure(vit):
    start_s = time.monotonic()
    code, _, err = vit.run(f"{ALONE} --end-within-s 6 -- ignore=SIGTERM,sleep=60 sleep=0.5,exit=3")
    assert code == 3
    assert time.monotonic() - start_s < 15
    assert "rank 0 was killed by SIGKILL by the launcher" in err


@pytest.mark.parametrize(
    ("ranks", "code"),
    [
        ("exit=0 exit=0", 0),
        ("exit=75 exit=75", 75),
        ("exit=75 sleep=0.3,exit=76", 75),
        ("exit=76 sleep=0.3,exit=2", 2),
        ("exit=76 sleep=0.3,kill=SIGSEGV", 139),
    ],
)
def test_the_code_is_the_causes(vit, ranks, code):
    assert vit.run(f"{ALONE} -- {ranks}")[0] == code


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_a_signal_is_passed_on_to_all(vit, name):
    launcher = vit.start(f"{ALONE} -- on={name}:75,print=ready,sleep=60")
    ready = launcher.stdout.readline() + launcher.stdout.readline()
    assert ready.count("ready") == 2
    launcher.send_signal(getattr(signal, name))
    assert end(launcher)[0] == 75


def test_what_does_not_end_within_the_grace_after_a_signal_is_killed(vit):
    launcher = vit.start(f"{ALONE} --grace-s 1 -- ignore=SIGTERM,print=ready,sleep=60")
    # Both must have come to ignoring it, or the signal ends a rank that is still starting.
    assert (launcher.stdout.readline() + launcher.stdout.readline()).count("ready") == 2
    launcher.send_signal(signal.SIGTERM)
    code, _, err = end(launcher, 10)
    assert code == 137
    assert "not all processes ended within --grace-s 1" in err


def test_a_killed_launcher_takes_its_processes_and_theirs_with_it(vit):
    launcher = vit.start(f"{ALONE} -- child,print=ready,ignore=SIGTERM,sleep=100")
    launcher.stdout.readline()
    launcher.stdout.readline()
    # The launcher, its guard, two ranks, a child of each.
    wait_until(lambda: len(vit.left()) == 6)
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not vit.left(), 3)


def test_what_a_process_leaves_behind_is_ended_with_it(vit):
    code, _, _ = vit.run(f"{ALONE} -- child,exit=0")
    assert code == 0
    assert not vit.left()


@needs_horovod
def test_a_killed_launcher_ends_the_other_hosts(vit):
    launcher_0, launcher_1 = vit.start_two(
        "--processes-per-node 1 --end-within-s 8 -- print=ready,sleep=100"
    )
    launcher_0.stdout.readline()
    launcher_1.stdout.readline()
    launcher_0.kill()
    start_s = time.monotonic()
    code, _, err = end(launcher_1)
    assert code == 76
    assert f"the launcher of node 0 (127.0.0.1:{vit.port}) has not answered for 4 s" in err
    assert time.monotonic() - start_s < 12


def test_a_failure_on_one_host_is_told_on_the_other(vit):
    two = vit.start_two(
        f"--processes-per-node 1 {TRUSTED} --",
        "sleep=3,exit=76 error=the_cause,exit=1",
    )
    (code_0, _, err_0), (code_1, _, err_1) = (end(launcher) for launcher in two)
    assert (code_0, code_1) == (76, 1)
    for err in (err_0, err_1):
        assert "the last lines of rank 1 on 127.0.0.2:\n  | the_cause\n" in err


def test_a_host_that_is_done_is_not_done_while_another_fails(vit):
    two = vit.start_two(f"--processes-per-node 1 {TRUSTED} -- exit=0 sleep=2,exit=1")
    assert [end(launcher)[0] for launcher in two] == [76, 1]


@pytest.mark.parametrize("index", [0, 1])
def test_two_launchers_with_one_index_end_the_attempt(vit, index):
    common = f"--hosts {TWO},127.0.0.3 --port {vit.port} --processes-per-node 1 {TRUSTED}"
    launchers = [vit.start(f"{common} --index {i} -- exit=0") for i in (0, index)]
    if index == 1:
        launchers.append(vit.start(f"{common} --index 1 -- exit=0"))
    for launcher in launchers:
        code, _, err = end(launcher, 30)
        assert code == 76
        assert re.search(rf"two launchers have index {index} \(127.0.0.{index + 1}\): one", err)


def test_a_restarted_node_ends_the_running_attempt_and_joins_the_next(vit):
    actions = f"--processes-per-node 1 {TRUSTED} -- print=ready,on=SIGTERM:75,sleep=100"
    launcher_0, launcher_1 = vit.start_two(actions)
    launcher_0.stdout.readline()
    launcher_1.stdout.readline()
    launcher_1.kill()
    code, _, err = vit.run(f"--hosts {TWO} --port {vit.port} --index 1", actions)
    assert code == 76
    assert "two launchers have index 1" in err
    # The old attempt is still ending: this one waits for the next.
    late = vit.start(
        f"--hosts {TWO} --port {vit.port} --index 1",
        f"--processes-per-node 1 {TRUSTED} -- exit=0",
    )
    assert end(launcher_0)[0] == 76
    again = vit.start(
        f"--hosts {TWO} --port {vit.port} --index 0",
        f"--processes-per-node 1 {TRUSTED} -- exit=0",
    )
    assert end(again)[0] == end(late)[0] == 0


@pytest.mark.parametrize(
    ("zero", "one", "text"),
    [
        (
            "--processes-per-node 1 -- exit=0",
            "--processes-per-node 2 -- exit=0",
            "--processes-per-node 2, and node 0 with --processes-per-node 1",
        ),
        (
            "--processes-per-node 1 -- exit=0",
            "--processes-per-node 1 -- exit=1",
            "COMMAND with the hash",
        ),
    ],
)
def test_a_node_that_was_started_differently_is_named(vit, zero, one, text):
    common = f"--hosts {TWO} --port {vit.port} {TRUSTED}"
    two = [vit.start(f"{common} --index {i}", rest) for i, rest in enumerate((zero, one))]
    for launcher in two:
        code, _, err = end(launcher, 20)
        assert code == 2
        assert "node 1 (127.0.0.2, on" in err
        assert text in err


@pytest.mark.parametrize(
    ("hosts", "index", "text"),
    [
        (TWO, 0, "these nodes have not arrived: 1 (127.0.0.2)"),
        (TWO, 1, "the launcher of node 0 (127.0.0.1:{port}) does not answer"),
        ("no-such.invalid,127.0.0.2", 1, "the name no-such.invalid does not resolve"),
        ("no-such.invalid,127.0.0.2", 0, "From here, the name no-such.invalid does not resolve"),
    ],
)
def test_a_node_that_does_not_come_is_waited_for_and_named(vit, hosts, index, text):
    code, _, err = vit.run(
        f"--hosts {hosts} --index {index} --port {vit.port} --processes-per-node 1",
        f"{TRUSTED} --wait-s 1.5 -- exit=0",
        timeout_s=15,
    )
    assert code == 76
    assert "gave up after --wait-s 1.5" in err
    assert text.format(port=vit.port) in err


def test_a_signal_ends_the_waiting(vit):
    launcher = vit.start(
        f"--hosts {TWO} --index 1 --port {vit.port}",
        f"--processes-per-node 1 {TRUSTED} -- exit=0",
    )
    # The first note shows that it waits.
    assert "does not answer" in launcher.stderr.readline()
    launcher.send_signal(signal.SIGTERM)
    assert end(launcher, 5)[0] == 75


def test_progress_on_a_terminal_is_rank_0s_own(vit, tmp_path):
    script = tmp_path / "terminal.sh"
    script.write_text('case "$TF_CONFIG" in *\'"index": 0\'*) [ -t 1 ] && echo terminal;; esac\n')
    shell = f"{sys.executable} -m jobs.cli launch {ALONE} -- sh {script}"
    done = subprocess.run(
        ["script", "-qec", shell, "/dev/null"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.strip() == "terminal"

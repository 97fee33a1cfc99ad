"""`vit board`: a real TensorBoard, asked over HTTP."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from urllib.parse import urlencode, urlsplit

import pytest

from tests.jobs.boards import ROOT, board, wait_until, write_run

pytestmark = pytest.mark.processes

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(address, path, **query):
    with _opener.open(f"{address}{path}?{urlencode(query)}", timeout=30) as answer:
        return json.loads(answer.read())


def runs_at(address, count):
    """Names of the runs, once so many have been read."""
    wait_until(lambda: len(get(address, "data/runs")) >= count)
    return sorted(get(address, "data/runs"))


def test_one_runs_curves_are_there_and_ctrl_c_ends_it(tmp_path):
    run = write_run(tmp_path / "run")
    with board(run) as (process, address):
        assert urlsplit(address).hostname == "127.0.0.1"
        assert runs_at(address, 2) == ["train", "validation"]
        points = get(address, "data/plugin/scalars/scalars", tag="loss", run="validation")
        assert [step for _, step, _ in points] == list(range(10, 110, 10))
        assert [value for *_, value in points] == pytest.approx(
            [1.2 / step for step in range(10, 110, 10)], rel=1e-6
        )
        # Not on other addresses of this machine.
        with socket.socket() as other:
            assert other.connect_ex(("127.0.0.2", urlsplit(address).port)) != 0
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")
    with socket.socket() as gone:
        assert gone.connect_ex(("127.0.0.1", urlsplit(address).port)) != 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_too(tmp_path, number):
    with board(write_run(tmp_path / "run")) as (process, _):
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")


def test_several_runs_stand_side_by_side_under_their_names(tmp_path):
    paths = [write_run(tmp_path / name) for name in ("one", "two", "deep/one")]
    with board(paths[0], paths[1]) as (_, address):
        names = ["one/train", "one/validation", "two/train", "two/validation"]
        assert runs_at(address, 4) == names
    with board(paths[0], paths[2]) as (_, address):
        # The same name twice: whole paths.
        names = runs_at(address, 4)
        assert [n.removeprefix(str(tmp_path).lstrip("/")) for n in names] == [
            "/deep/one/train",
            "/deep/one/validation",
            "/one/train",
            "/one/validation",
        ]


def test_without_a_run_all_of_runs_are_shown_and_new_ones_appear(tmp_path):
    write_run(tmp_path / "runs" / "one")
    with board("--host", "127.0.0.2", cwd=tmp_path) as (_, address):
        assert urlsplit(address).hostname == "127.0.0.2"
        assert runs_at(address, 2) == ["one/tensorboard/train", "one/tensorboard/validation"]
        write_run(tmp_path / "runs" / "two", shift=1.0)
        assert "two/tensorboard/train" in runs_at(address, 4)


def test_beside_a_job_that_begins_it_waits_for_the_first_curves(tmp_path):
    writing = threading.Timer(4, write_run, [tmp_path / "run"])
    writing.start()
    with board(tmp_path / "run", "--wait") as (process, address):
        assert not writing.is_alive()
        assert runs_at(address, 2) == ["train", "validation"]
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
    assert (
        told
        == f"waiting: there is no folder {tmp_path}/run. Give the one that `vit train` printed\n"
    )


def fails(*arguments, cwd=ROOT):
    """Its one line of complaint."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "board", *map(str, arguments)],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_folder_that_is_no_run_or_has_no_curves_is_named(tmp_path):
    assert "there is no folder runs" in fails(cwd=tmp_path)
    assert f"there is no folder {tmp_path}/nowhere" in fails(tmp_path / "nowhere")
    assert f"{tmp_path} is not a run folder and contains none" in fails(tmp_path)
    run = write_run(tmp_path / "run")
    assert "each run can be given once" in fails(run, run)
    for file in run.glob("tensorboard/*/*"):
        file.unlink()
    assert f"{run} has no curves yet" in fails(run)


def test_a_port_or_address_that_cannot_be_had_is_named(tmp_path):
    run = write_run(tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert re.search(f"port {port}, it was already in use", fails(run, "--port", port))
    assert "cannot listen on nowhere.invalid" in fails(run, "--host", "nowhere.invalid")
    assert "--port must be in 1..65535" in fails(run, "--port", 70_000)

"""`vit mpi-launch` with a stand-in for horovodrun; test_pods.py runs it with the real one."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname

import pytest

from k8s import mpi_launcher
from k8s.mpi_launcher import read_hostfile
from pipeline.errors import SettingsError
from pipeline.runs.lock import RunLock

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]


@contextmanager
def sshd():
    """A port that answers, as the workers' sshd does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def start(tmp_path, horovodrun, port, *options):
    program = tmp_path / "bin" / "horovodrun"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{horovodrun}\n")
    program.chmod(0o755)
    (tmp_path / "hostfile").write_text("localhost slots=2\n127.0.0.1 slots=2\n")
    (tmp_path / "run").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "jobs.cli", "mpi-launch", "--run", str(tmp_path / "run")]
    command += ["--hostfile", str(tmp_path / "hostfile"), "--ssh-port", str(port), *options]
    environment = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, "--", "vit", "train", "digits"],
        env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def end(process):
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, out, err


def says(run, **outcome):
    return f"echo '{json.dumps(outcome)}' >{run}/outcome.json"


def test_horovodrun_gets_all_workers_and_the_command(tmp_path):
    with sshd() as port:
        code, out, _ = end(start(tmp_path, 'echo "$@"', port))
    assert out.strip() == "--gloo -np 4 -H localhost:2,127.0.0.1:2 vit train digits"
    assert code == 0


def test_an_elastic_job_gets_limits_and_a_script_with_the_hosts_that_answer(tmp_path):
    script = 'echo "$@"; while [ "$1" != --host-discovery-script ]; do shift; done; "$2"'
    with sshd() as port:
        code, out, _ = end(start(tmp_path, script, port, "--min-nodes", "1"))
    words, *hosts = out.split("\n")
    assert words.startswith("--gloo -np 4 --min-np 2 --max-np 4 --host-discovery-script /")
    assert words.endswith(
        "--blacklist-cooldown-range 10 30 --network-interfaces lo vit train digits"
    )
    assert set(filter(None, hosts)) == {"localhost:2", "127.0.0.1:2"}
    assert code == 0
    assert not Path(words.split()[8]).exists()


def test_a_number_of_nodes_below_one_is_refused(tmp_path):
    with sshd() as port:
        code, _, err = end(start(tmp_path, "exit 1", port, "--min-nodes", "0"))
    assert code == 2
    assert "--min-nodes must be at least 1. Received: 0" in err


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        ({"outcome": "done", "result": {}}, 0),
        ({"outcome": "stopped", "exit_code": 75, "message": "stopped by a file"}, 75),
        ({"outcome": "failed", "exit_code": 3, "message": "cannot read the image"}, 3),
    ],
)
def test_it_ends_as_the_run_did_and_not_as_horovodrun(tmp_path, outcome, code):
    with sshd() as port:
        script = f"{says(tmp_path / 'run', **outcome)}; exit 1"
        got, _, err = end(start(tmp_path, script, port))
    assert got == code
    assert outcome.get("message", "") in err


def test_the_outcome_of_an_earlier_start_is_not_this_ones(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/outcome.json").write_text('{"outcome": "done", "result": {}}')
    with sshd() as port:
        assert end(start(tmp_path, "exit 1", port))[0] == 1


def test_a_signal_becomes_a_stop_file_and_horovodrun_may_end_by_itself(tmp_path):
    stop, said = tmp_path / "run/stop", '{"outcome":"stopped","exit_code":75,"message":"saved"}'
    script = (
        f"while [ ! -e {stop} ]; do sleep 0.1; done; echo '{said}' >{tmp_path}/run/outcome.json"
    )
    with sshd() as port:
        process = start(tmp_path, f"touch {tmp_path}/began; {script}", port)
        while not (tmp_path / "began").exists():
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        code, _, err = end(process)
    assert code == 75
    assert "saved" in err


def test_what_does_not_end_in_time_is_ended(tmp_path):
    with sshd() as port:
        process = start(tmp_path, f"touch {tmp_path}/began; exec sleep 100", port, "--grace-s", "1")
        while not (tmp_path / "began").exists():
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        code, _, err = end(process)
    assert code == 75
    assert "before the training started" in err


@pytest.mark.parametrize(("worker", "asked"), [(gethostname(), True), ("elsewhere", False)])
def test_what_a_lost_launcher_has_left_on_the_workers_is_asked_to_stop(tmp_path, worker, asked):
    lock, stop = RunLock(tmp_path), tmp_path / "stop"
    lock.acquire(print)

    def train():
        until_s = time.monotonic() + 3
        while not stop.exists() and time.monotonic() < until_s:
            time.sleep(0.05)
        lock.release()

    thread = threading.Thread(target=train)
    thread.start()
    mpi_launcher._wait_for_lock(tmp_path, [f"{worker}.digits.default.svc"], 30, [])
    thread.join()
    assert stop.exists() == asked


def test_it_waits_for_the_workers_and_a_signal_ends_the_wait(tmp_path):
    with sshd() as port:
        pass  # nothing listens there any more
    process = start(tmp_path, f"touch {tmp_path}/began", port)
    time.sleep(2)
    assert process.poll() is None
    assert not (tmp_path / "began").exists()
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 75


def test_a_hostfile_is_read_as_open_mpi_writes_it(tmp_path):
    file = tmp_path / "hostfile"
    file.write_text("# workers\na.b.svc slots=8\n\nc\n")
    assert read_hostfile(file) == {"a.b.svc": 8, "c": 1}
    file.write_text("\n")
    with pytest.raises(SettingsError, match="names no worker"):
        read_hostfile(file)
    with pytest.raises(SettingsError, match="cannot read the hostfile"):
        read_hostfile(tmp_path / "nowhere")

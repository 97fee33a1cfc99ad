"""One job in a run folder: real processes, and what is left of one that was killed."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from socket import gethostname

import pytest

from pipeline.errors import SettingsError
from pipeline.runs import lock as run_lock
from pipeline.runs.lock import LockLostError, RunLock

ROOT = Path(__file__).parent.parent.parent
HOLD = (
    "import sys, time; from pathlib import Path; from pipeline.runs.lock import RunLock;"
    "lock = RunLock(Path(sys.argv[1])); lock.acquire(print); print('held', flush=True);"
    "time.sleep(60)"
)


def hold(folder, *before):
    """A process that holds the lock, once this returns."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def said():
    return []


@pytest.mark.processes
def test_who_trains_in_a_folder_is_told_without_touching_it(tmp_path):
    assert RunLock(tmp_path / "nowhere").find_holder() is None
    assert RunLock(tmp_path / "nowhere").holder_host is None
    process = hold(tmp_path)
    try:
        before = {f: f.read_text() for f in (tmp_path / ".lock").iterdir()}
        assert RunLock(tmp_path).find_holder().startswith(f"process {process.pid} on ")
        assert RunLock(tmp_path).holder_host == gethostname()
    finally:
        end(process)
    assert RunLock(tmp_path).find_holder() is None
    assert before.keys() == set((tmp_path / ".lock").iterdir())


def test_a_holder_on_another_host_trains_while_its_beat_changes(tmp_path):
    lock = tmp_path / ".lock"
    lock.mkdir()
    facts = {"host": "far", "process": 7, "boot": "another", "beat": "0"}
    (lock / "token.json").write_text(json.dumps(facts))
    assert RunLock(tmp_path).find_holder(watch_s=0.3) is None
    beats = threading.Timer(
        0.1, lambda: (lock / "token.json").write_text(json.dumps(facts | {"beat": "1"}))
    )
    beats.start()
    assert RunLock(tmp_path).find_holder(watch_s=5) == "process 7 on far"
    beats.join()


@pytest.mark.processes
def test_a_running_holder_is_named_and_stays(tmp_path, said):
    process = hold(tmp_path)
    try:
        start_s = time.monotonic()
        with pytest.raises(SettingsError, match=f"process {process.pid} on ") as error:
            RunLock(tmp_path).acquire(said.append)
        assert time.monotonic() - start_s < 2  # looked up on this host, not waited for
        assert "run.dir=FOLDER" in str(error.value)
        assert [f.name for f in tmp_path.iterdir()] == [".lock"]
    finally:
        end(process)


@pytest.mark.processes
@pytest.mark.parametrize("reaped", [True, False])
def test_a_holder_that_was_killed_is_replaced_at_once(tmp_path, said, reaped):
    process = hold(tmp_path)
    process.kill()
    if reaped:
        process.wait()
    else:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    lock, start_s = RunLock(tmp_path), time.monotonic()
    lock.acquire(said.append)
    assert time.monotonic() - start_s < 2
    assert "took over the run folder from process" in said[0]
    lock.release()
    assert list(tmp_path.iterdir()) == []
    end(process)


def in_another_place(tmp_path, monkeypatch):
    """A lock whose holder cannot be looked up: as if it were on another host."""
    monkeypatch.setattr(run_lock, "_is_here", lambda facts: False)
    monkeypatch.setattr(run_lock, "BEAT_S", 0.1)
    lock = RunLock(tmp_path)
    lock.acquire(print)
    return lock


def test_a_holder_on_another_host_stays_as_long_as_it_shows_life(tmp_path, said, monkeypatch):
    first = in_another_place(tmp_path, monkeypatch)
    with pytest.raises(SettingsError, match="another process is training"):
        RunLock(tmp_path).acquire(said.append, stale_s=5)
    assert "waiting up to 5 s" in said[0]
    first.check()
    first.release()


def test_a_holder_on_another_host_that_is_silent_is_replaced_and_must_end(
    tmp_path, said, monkeypatch
):
    first = in_another_place(tmp_path, monkeypatch)
    first._stopped.set()  # it stands still, as under SIGSTOP or behind a cut network
    first._thread.join()
    second = RunLock(tmp_path)
    second.acquire(said.append, stale_s=0.5)
    with pytest.raises(LockLostError, match=f"process {os.getpid()} on .* took over"):
        first.check()
    second.check()
    first.release()  # takes nothing from the second
    second.check()
    second.release()


def test_a_holder_that_gives_the_lock_back_while_it_is_waited_for_makes_room(
    tmp_path, said, monkeypatch
):
    first = in_another_place(tmp_path, monkeypatch)
    monkeypatch.setattr(run_lock, "BEAT_S", 60.0)
    first._stopped.set()  # no beat, by which it would be seen to live
    first._thread.join()
    threading.Timer(0.5, first.release).start()
    second = RunLock(tmp_path)
    second.acquire(said.append, stale_s=20)
    second.check()
    second.release()


@pytest.mark.processes
def test_of_many_that_come_at_once_one_has_it(tmp_path):
    dead = hold(tmp_path)
    end(dead)
    code = HOLD.replace("time.sleep(60)", "sys.stdin.read()")
    code = f"import sys\nsys.stdin.readline()\n{code.replace('; ', chr(10)).replace(';', chr(10))}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]  # fmt: skip
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    refused = 0
    deadline_s = time.monotonic() + 30
    while refused < len(processes) - 1:
        assert time.monotonic() < deadline_s
        refused = sum(process.poll() is not None for process in processes)
        time.sleep(0.05)
    holders = [process for process in processes if process.poll() is None]
    assert len(holders) == 1
    facts = json.loads(next((tmp_path / ".lock").iterdir()).read_text())
    assert facts["process"] == holders[0].pid
    for process in processes:
        out, err = process.communicate()
        if process is holders[0]:
            assert out.endswith("held\n")
        else:
            assert "another process is training" in err


@pytest.mark.processes
def test_a_lock_that_is_being_taken_over_is_not_taken_from_the_new_holder(tmp_path, said):
    end(hold(tmp_path))
    # The moment between the two steps of taking over: the new name, and still the old content.
    second = RunLock(tmp_path)
    old = next((tmp_path / ".lock").iterdir())
    content = old.read_text()
    assert second._take_over(old.stem)
    second._file.write_text(content)
    threading.Timer(0.7, lambda: second._file.write_text(second._own_facts())).start()
    with pytest.raises(SettingsError, match="another process is training"):
        RunLock(tmp_path).acquire(said.append, stale_s=20)
    second.check()


@pytest.mark.processes
def test_a_process_with_the_number_of_a_dead_holder_is_not_taken_for_it(tmp_path, said):
    process = hold(tmp_path)
    end(process)
    file = next((tmp_path / ".lock").iterdir())
    facts = json.loads(file.read_text())
    file.write_text(json.dumps(facts | {"process": os.getpid()}))  # alive, but started later
    lock = RunLock(tmp_path)
    lock.acquire(said.append)
    lock.release()


def test_a_folder_that_is_gone_is_told_from_one_that_was_taken(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    lock = RunLock(folder)
    lock.acquire(print)
    folder.rename(tmp_path / "moved")
    with pytest.raises(LockLostError, match="is gone"):
        lock.check()
    lock.release()


@pytest.mark.processes
def test_a_paused_holder_on_this_host_keeps_it(tmp_path, said):
    process = hold(tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(SettingsError):
            RunLock(tmp_path).acquire(said.append)
    finally:
        end(process)


# Root starts it, since it reads the interpreter's files, and becomes another user to take the lock.
SECOND_USER = """
import os, subprocess, sys
from pathlib import Path
from pipeline.runs import lock as run_lock
subprocess.run(["mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc"], check=True)
os.setgid(65534)
os.setuid(65534)
assert not Path(f"/proc/{sys.argv[2]}").exists()
try:
    run_lock.RunLock(Path(sys.argv[1])).acquire(print, stale_s=12.0)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.processes
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts /proc with hidepid=2")
def test_a_holder_that_proc_hides_from_another_user_keeps_the_lock():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        os.chmod(name, 0o755)  # noqa: S103
        before = os.umask(0)
        try:
            folder.mkdir()
            process = hold(folder)
        finally:
            os.umask(before)
        try:
            done = subprocess.run(
                ["unshare", "--mount", sys.executable, "-c", SECOND_USER, folder, str(process.pid)],
                cwd=ROOT,
                text=True,
                capture_output=True,
                timeout=120,
                check=False,
            )
        finally:
            end(process)
    assert done.returncode == 0, done.stderr
    assert "SettingsError another process is training" in done.stdout


@pytest.mark.processes
def test_a_holder_that_can_neither_be_looked_up_nor_ruled_out_is_watched(
    tmp_path, said, monkeypatch
):
    process = hold(tmp_path)
    identity = run_lock._identity

    def hidden(number):
        if number == process.pid:
            raise PermissionError
        return identity(number)

    monkeypatch.setattr(run_lock, "_identity", hidden)
    try:
        with pytest.raises(SettingsError, match="another process is training"):
            RunLock(tmp_path).acquire(said.append, stale_s=12.0)
    finally:
        end(process)
    # It has gone, and a signal says so.
    RunLock(tmp_path).acquire(said.append)
    assert "which is gone" in said[-1]


def test_a_lock_that_was_given_back_can_be_taken_again_and_shows_life(tmp_path, said):
    """As by a chief of an elastic job that becomes the chief again."""
    lock = RunLock(tmp_path)
    lock.beat_s = 0.05
    for _ in range(2):
        lock.acquire(said.append)
        (file,) = (tmp_path / ".lock").glob("*.json")
        first = file.read_text()
        limit = time.monotonic() + 10
        while file.read_text() == first:
            assert time.monotonic() < limit
            time.sleep(0.01)
        lock.release()
        assert not (tmp_path / ".lock").exists()

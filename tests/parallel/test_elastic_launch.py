"""`vit launch --min-workers` with real processes that fail, hang, leave and join."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from tests.parallel.launches import end, wait_until
from tests.parallel.members import stop

pytestmark = pytest.mark.processes


def test_a_killed_worker_is_replaced_while_the_others_continue(members):
    launcher = members.start("--slots 3 --min-workers 2")
    first = members.wait_for(1)
    assert sorted(note["rank"] for note in first.values()) == [0, 1, 2]
    chief = members.of_slot(0)
    killed_s = time.monotonic()
    os.kill(chief, signal.SIGKILL)
    second = members.wait_for(2)
    assert chief not in second
    for pid, note in second.items():
        assert note["rank"] == first[pid]["rank"] - 1
        assert note["at"] - killed_s < 1.0
        assert note["changes"] == ["worker localhost:0 was killed by SIGKILL"]
        assert note["variables"]["HOROVOD_SIZE"] == "2"
    third = members.wait_for(3)
    newcomer = members.of_slot(0)
    assert (third[newcomer]["rank"], third[newcomer]["changes"]) == (
        2,
        ["worker localhost:0 joined"],
    )
    assert members.notes("connect")[-1]["late"]
    code, _, err = stop(launcher)
    assert code == 75
    assert "worker localhost:0 was killed by SIGKILL. It is started again now" in err
    assert [note["reason"] for note in members.notes("stop")] == ["SIGTERM"] * 3


def test_two_workers_killed_at_once(members):
    launcher = members.start("--slots 4 --min-workers 2")
    first = members.wait_for(1)
    for slot in (1, 2):
        os.kill(members.of_slot(slot), signal.SIGKILL)
    wait_until(lambda: any(n["size"] == 4 and n["number"] > 1 for n in members.notes("generation")))
    last = members.notes("generation")[-1]["number"]
    ranks = {note["rank"]: pid for pid, note in members.wait_for(last).items()}
    assert (ranks[0], ranks[1]) == (members.of_slot(0), members.of_slot(3))
    assert not {ranks[2], ranks[3]} & set(first)
    assert stop(launcher)[0] == 75


def test_a_silent_worker_is_killed_and_never_returns(members):
    launcher = members.start("--slots 3 --min-workers 2 --heartbeat-timeout-s 1")
    members.wait_for(1)
    silent = members.of_slot(1)
    stopped_s = time.monotonic()
    os.kill(silent, signal.SIGSTOP)
    second = members.wait_for(2)
    assert silent not in second
    assert 0.7 < max(note["at"] for note in second.values()) - stopped_s < 2.0
    assert next(iter(second.values()))["changes"] == [
        "worker localhost:1 was killed because it had not answered for 1 s"
    ]
    with contextlib.suppress(ProcessLookupError):
        os.kill(silent, signal.SIGCONT)
    wait_until(lambda: not Path(f"/proc/{silent}").exists(), 2)
    members.wait_for(3)
    assert stop(launcher)[0] == 75


def test_a_launcher_that_was_stopped_itself_kills_no_worker(members):
    launcher = members.start("--slots 2 --min-workers 1 --heartbeat-timeout-s 1")
    members.wait_for(1)
    launcher.send_signal(signal.SIGSTOP)
    time.sleep(2)
    launcher.send_signal(signal.SIGCONT)
    time.sleep(1.5)
    assert {note["number"] for note in members.notes("generation")} == {1}
    assert stop(launcher)[0] == 75


def test_a_worker_leaves_on_sigterm_and_the_others_do_not_break(members):
    launcher = members.start("--slots 3 --min-workers 2")
    members.wait_for(1)
    leaver = members.of_slot(1)
    os.kill(leaver, signal.SIGTERM)
    second = members.wait_for(2)
    assert leaver not in second
    assert next(iter(second.values()))["changes"] == ["worker localhost:1 left"]
    wait_until(lambda: not Path(f"/proc/{leaver}").exists())
    assert [note["code"] for note in members.notes("exit")] == [75]
    code, _, err = stop(launcher)
    assert code == 75
    assert "worker localhost:1 ended with exit code 75. It is started again in 10 s" in err


def test_below_the_minimum_the_group_is_paused_and_gives_up(members):
    launcher = members.start("--slots 2 --min-workers 2 --elastic-timeout-s 1", "1000000 prepare=0")
    members.wait_for(1)
    os.kill(members.of_slot(1), signal.SIGTERM)  # its slot is not used for 10 s
    (alone,) = members.wait_for(2).values()
    assert alone["paused"]
    code, _, err = end(launcher, 20)
    assert code == 76
    assert "gave up after --elastic-timeout-s 1: 1 of at least 2 workers" in err
    (error,) = members.notes("error")
    assert (error["kind"], error["at"] - alone["at"] < 3) == ("PeerLost", True)


def test_all_finish_and_the_job_succeeds(members):
    launcher = members.start("--slots 2 --min-workers 1", "20")
    assert end(launcher, 20) == (0, "", "")
    assert [note["code"] for note in members.notes("exit")] == [0, 0]


def test_a_newcomer_that_prepares_does_not_hold_up_the_end(members):
    launcher = members.start("--slots 2 --min-workers 1", "100 prepare=4")
    members.wait_for(1)
    os.kill(members.of_slot(1), signal.SIGKILL)
    code, _, _ = end(launcher, 20)
    end_s = time.monotonic()
    assert code == 0
    (last,) = members.notes("exit")
    assert end_s - last["at"] < 2  # the newcomer would prepare for longer


def test_the_same_exception_on_every_worker_ends_the_job_with_its_code(members):
    launcher = members.start("--slots 3 --min-workers 1", "1000000 raise_at=5")
    code, _, err = end(launcher, 30)
    assert code == 1
    assert "  | RuntimeError: a fault of the code" in err
    assert "every worker failed at the same step" in err


def test_a_newcomer_with_other_settings_is_refused_and_not_started_again(members):
    launcher = members.start("--slots 2 --min-workers 1", "1000000 newcomers=differ")
    members.wait_for(1)
    os.kill(members.of_slot(1), signal.SIGKILL)
    wait_until(lambda: members.notes("error"))
    (error,) = members.notes("error")
    assert error["kind"] == "SettingsError"
    members.wait_for(4)
    time.sleep(0.5)
    code, _, err = stop(launcher)
    assert code == 75
    assert "The others continue, and it is not started again" in err
    assert {note["number"] for note in members.notes("generation")} == {1, 2, 3, 4}


def test_if_all_workers_are_killed_the_job_ends_with_76(members):
    launcher = members.start("--slots 2 --min-workers 1", "1000000 prepare=1")
    members.wait_for(1)
    for slot in (0, 1):
        os.kill(members.of_slot(slot), signal.SIGKILL)
    code, _, err = end(launcher, 20)
    assert code == 76
    assert "all workers were lost" in err


def test_a_killed_launcher_takes_its_workers_with_it(vit, members):
    launcher = members.start("--slots 2 --min-workers 1")
    members.wait_for(1)
    launcher.kill()
    wait_until(lambda: not vit.left(), 3)

"""`vit launch --min-workers` on two nodes, whose launchers and workers fail, leave and return."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.parallel.launches import end, wait_until
from tests.parallel.members import stop

pytestmark = pytest.mark.processes

OPTIONS = "--slots 2 --min-workers 2 --heartbeat-timeout-s 2"


@pytest.fixture
def two(members):
    """The launchers of a job on two nodes whose four workers have met."""
    launchers = [members.start_node(index, OPTIONS) for index in (0, 1)]
    members.wait_for(1)
    return launchers


def slots(members, number):
    """The slots of the members of a generation, by rank."""
    found = members.wait_for(number)
    of_worker = {note["pid"]: note["slot"] for note in members.notes("connect")}
    ranks = {note["rank"]: of_worker[pid] for pid, note in found.items()}
    return [ranks[rank] for rank in sorted(ranks)]


def test_ranks_follow_nodes_and_a_death_reaches_the_other_node_at_once(members, two):
    assert slots(members, 1) == [0, 1, 2, 3]
    last = members.generation(1)[members.of_slot(3)]
    assert (last["local_rank"], last["local_size"]) == (1, 2)
    assert (last["cross_rank"], last["cross_size"]) == (1, 2)
    killed_s = time.monotonic()
    os.kill(members.of_slot(2), signal.SIGKILL)
    assert slots(members, 2) == [0, 1, 3]
    for note in members.generation(2).values():
        assert note["at"] - killed_s < 1.0
    remaining = members.generation(2)[members.of_slot(3)]
    assert (remaining["local_rank"], remaining["local_size"]) == (0, 1)
    assert (remaining["cross_rank"], remaining["cross_size"]) == (1, 2)
    assert slots(members, 3) == [0, 1, 3, 2]
    assert stop(two[0])[0] == 75
    assert end(two[1])[0] == 75


def test_a_killed_launcher_is_noticed_before_the_timeout_and_its_node_may_return(members, two):
    killed_s = time.monotonic()
    two[1].kill()
    assert slots(members, 2) == [0, 1]
    (reason, _) = next(iter(members.generation(2).values()))["changes"]
    assert reason.startswith("worker 127.0.0.2:0 was lost")
    assert max(note["at"] for note in members.generation(2).values()) - killed_s < 5
    again = members.start_node(1, OPTIONS)
    wait_until(lambda: members.notes("generation")[-1]["size"] == 4)
    assert stop(two[0])[0] == 75
    assert end(again)[0] == 75


def test_a_silent_node_is_left_out_and_its_workers_never_return(members, two):
    zombies = {members.of_slot(2), members.of_slot(3)}
    stopped_s = time.monotonic()
    two[1].send_signal(signal.SIGSTOP)
    assert slots(members, 2) == [0, 1]
    assert 1.5 < max(note["at"] for note in members.generation(2).values()) - stopped_s < 4
    two[1].send_signal(signal.SIGCONT)
    wait_until(lambda: members.notes("generation")[-1]["size"] == 4)
    last = members.notes("generation")[-1]["number"]
    assert not zombies & set(members.wait_for(last))
    wait_until(lambda: not any(Path(f"/proc/{zombie}").exists() for zombie in zombies), 2)
    assert stop(two[0])[0] == 75
    assert end(two[1])[0] == 75


def test_a_node_that_is_asked_to_end_leaves_the_job(members, two):
    code, _, _ = stop(two[1])
    assert code == 75
    assert slots(members, members.notes("generation")[-1]["number"])[:1] == [0]
    wait_until(lambda: members.notes("generation")[-1]["size"] == 2)
    assert not members.notes("error")
    stopped_s = time.monotonic()
    assert stop(two[0])[0] == 75
    assert time.monotonic() - stopped_s < 5


def test_workers_that_ignore_the_stop_are_killed_on_all_nodes_after_the_grace(members):
    options = f"{OPTIONS} --grace-s 1"
    launchers = [members.start_node(index, options, "1000000 hang_at=0") for index in (0, 1)]
    members.wait_for(1)
    code, _, err = stop(launchers[0])
    assert code == 137
    assert "not all workers ended within --grace-s 1" in err
    assert end(launchers[1])[0] == 137


def test_a_wrong_interface_on_node_0_ends_all_nodes(vit, members):
    other = members.start_node(1, OPTIONS)
    first = members.start_node(0, OPTIONS, HOROVOD_GLOO_IFACE="no-such-interface")
    assert end(first)[0] == 2
    code, _, err = end(other)
    assert code == 2
    assert "no-such-interface" in err


def test_both_nodes_succeed_together(members):
    launchers = [members.start_node(index, OPTIONS, "20") for index in (0, 1)]
    assert [end(launcher) for launcher in launchers] == [(0, "", "")] * 2


def test_the_same_exception_on_every_worker_ends_all_nodes_with_its_code(members):
    launchers = [members.start_node(index, OPTIONS, "100 raise_at=5") for index in (0, 1)]
    for launcher in launchers:
        code, _, err = end(launcher)
        assert code == 1
        assert "every worker failed at the same step" in err

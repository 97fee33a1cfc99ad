"""`vit launch --min-workers` on several nodes, whose first launcher is lost."""

import signal
import time

import pytest

from tests.parallel.launches import end, wait_until
from tests.parallel.members import stop

pytestmark = pytest.mark.processes

HOSTS = "127.0.0.1,127.0.0.2,127.0.0.3"
HEARTBEAT_S = 1.5
OPTIONS = f"--slots 1 --heartbeat-timeout-s {HEARTBEAT_S}"


@pytest.fixture
def three(members):
    """The launchers of a job on three nodes, whose three workers have met."""
    launchers = [start(members, index) for index in range(3)]
    members.wait_for(1)
    return launchers


def start(members, index, options="--min-workers 1"):
    return members.start_node(index, f"{OPTIONS} {options}", hosts=HOSTS)


def nodes(members, number):
    """The nodes of the members of a generation, by rank."""
    found = members.wait_for(number)
    of_worker = {note["pid"]: note["slot"] for note in members.notes("connect")}
    ranks = {note["rank"]: of_worker[pid] for pid, note in found.items()}
    return [ranks[rank] for rank in sorted(ranks)]


def wait_for_nodes(members, expected):
    """Waits until the newest generation is complete and has these nodes."""

    def found():
        number = members.notes("generation")[-1]["number"]
        return members.generation(number) and nodes(members, number) == expected

    wait_until(found)


def test_the_others_continue_and_a_restarted_launcher_joins_them(members, three):
    killed_s = time.monotonic()
    three[0].kill()
    assert nodes(members, 2) == [1, 2]
    second = members.generation(2).values()
    assert max(note["at"] for note in second) - killed_s < HEARTBEAT_S + 2
    assert next(iter(second))["changes"] == [
        "worker 127.0.0.1:0 was lost: the launcher of its node does not answer"
    ]
    assert not any(note["paused"] for note in second)
    again = start(members, 0)
    assert nodes(members, 3) == [1, 2, 0]  # those that stay keep their order
    code, _, err = stop(three[1])
    assert code == 75
    assert "the launchers meet at node 1 (127.0.0.2)" in err
    assert [end(three[2])[0], end(again)[0]] == [75, 75]
    assert not members.notes("error")


def test_a_launcher_that_is_restarted_at_once_joins_the_others(members, three):
    three[0].kill()
    again = start(members, 0)
    wait_for_nodes(members, [1, 2, 0])
    # There was no second group: generations of one begin again with 1.
    assert all(note["number"] > 1 for note in members.notes("generation")[3:])
    assert stop(three[1])[0] == 75
    assert [end(three[2])[0], end(again)[0]] == [75, 75]


def test_the_launchers_meet_again_if_the_next_one_is_lost_too(members, three):
    three[0].kill()
    assert nodes(members, 2) == [1, 2]
    killed_s = time.monotonic()
    three[1].kill()
    assert nodes(members, 3) == [2]
    assert members.notes("generation")[-1]["at"] - killed_s < HEARTBEAT_S + 2
    again = [start(members, index) for index in (0, 1)]
    wait_until(lambda: members.notes("generation")[-1]["size"] == 3)
    assert nodes(members, members.notes("generation")[-1]["number"])[0] == 2
    assert stop(three[2])[0] == 75
    assert [end(launcher)[0] for launcher in again] == [75, 75]


def test_two_launchers_that_are_lost_at_once(members, three):
    killed_s = time.monotonic()
    for launcher in three[:2]:
        launcher.kill()
    assert nodes(members, 2) == [2]
    assert members.notes("generation")[-1]["at"] - killed_s < HEARTBEAT_S + 2
    assert stop(three[2])[0] == 75


def test_a_silent_launcher_goes_on_with_its_own_workers_only(members, three):
    silent_s = time.monotonic()
    own = members.of_slot(0)
    three[0].send_signal(signal.SIGSTOP)
    assert nodes(members, 2) == [1, 2]
    second = members.generation(2)
    assert own not in second
    assert max(note["at"] for note in second.values()) - silent_s < HEARTBEAT_S + 2
    three[0].send_signal(signal.SIGCONT)
    # What the others sent it while it was silent may be the first that it reads.
    wait_until(lambda: any(n["pid"] == own and n["size"] == 1 for n in members.notes("generation")))
    assert {note["pid"] for note in members.notes("generation") if note["number"] > 2} <= {own}
    three[0].kill()
    assert stop(three[1])[0] == 75
    assert end(three[2])[0] == 75


def test_with_too_few_workers_the_others_wait_and_give_up(members):
    options = "--min-workers 3 --elastic-timeout-s 2"
    launchers = [start(members, index, options) for index in range(3)]
    members.wait_for(1)
    launchers[0].kill()
    assert nodes(members, 2) == [1, 2]
    assert all(note["paused"] for note in members.generation(2).values())
    for launcher in launchers[1:]:
        code, _, err = end(launcher)
        assert code == 76
        assert "gave up after --elastic-timeout-s 2: 2 of at least 3 workers" in err
    assert {note["kind"] for note in members.notes("error")} == {"PeerLost"}


def test_a_job_whose_first_launcher_is_lost_can_finish(members):
    launchers = [
        members.start_node(index, f"{OPTIONS} --min-workers 1", "150", hosts=HOSTS)
        for index in range(3)
    ]
    members.wait_for(1)
    launchers[0].kill()
    assert nodes(members, 2) == [1, 2]
    assert [end(launcher)[0] for launcher in launchers[1:]] == [0, 0]

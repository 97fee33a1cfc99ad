"""The group in the launcher of the coordinator, and the connection of the launchers to it."""

import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest

from pipeline.launch.coordinator import ASK_S, RECONNECT_S, Coordinator, NodeLink, ReplacedError
from pipeline.launch.registry import Registry
from pipeline.launch.remote_group import RemoteGroup
from pipeline.launch.rendezvous import (
    Connection,
    RejectedRequests,
    RemoteLink,
    Services,
    serve,
)
from pipeline.launch.rules import Rules
from pipeline.launch.signatures import Signer
from pipeline.runtimes.messages import write
from pipeline.runtimes.worker_reports import (
    NO_VERSION,
    GroupView,
    Member,
    NodeReport,
    WorkerEnd,
    WorkerReport,
    WorkerStatus,
)

TOKEN = "0123456789abcdef" * 2
HOSTS = ("127.0.0.1", "127.0.0.2")
ATTEMPT, LAUNCHER, OTHER = "a" * 32, "b" * 32, "c" * 32
A, B = "1" * 32, "2" * 32


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def status(worker, state="waiting", generation=0, sequence=1, end=None):
    return WorkerStatus(worker, 0, WorkerReport(sequence, 0, state, generation), end)


def report(*workers, sequence=1, launcher=LAUNCHER, attempt=ATTEMPT):
    return NodeReport(1, launcher, attempt, sequence, NO_VERSION, workers)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def group(clock):
    """A group of two nodes with a worker each, in its first generation."""
    group = Coordinator(Rules(HOSTS, 1, 1, 2), ATTEMPT, clock)
    group.update(0, [status(A)])
    group.exchange(report(status(B)))
    group.update(0, [status(A, "running", 1, 2)])
    group.exchange(report(status(B, "running", 1, 2), sequence=2))
    assert [member.worker for member in group.view.members] == [A, B]
    return group


def pass_s(group, clock, seconds, heard=False):
    """Time passes in steps, as for a launcher that is not stopped itself."""
    for step in range(round(seconds * 10)):
        clock.now_s += 0.1
        if heard:
            group.exchange(report(status(B, "running", 1, 2), sequence=10 + step))
        group.advance()


def test_a_node_that_is_heard_stays(group, clock):
    pass_s(group, clock, 40, heard=True)
    assert not group.view.broken


def test_a_silent_node_is_lost_after_the_timeout(group, clock):
    pass_s(group, clock, 14.9)
    assert not group.view.broken
    pass_s(group, clock, 0.3)
    assert group.view.broken
    assert group.view.excluded == (B,)
    group.update(0, [status(A, "waiting", 1, 3)])
    assert group.view.changes == (
        "worker 127.0.0.2:0 was lost: its node had not answered for 15 s",
    )
    # It returns: its worker may not, but a new one may.
    group.exchange(report(status(B, "waiting", 1, 3), sequence=3))
    pass_s(group, clock, 0.5)
    assert (group.view.excluded, group.view.changing) == ((B,), False)


def test_a_launcher_that_was_stopped_itself_does_not_lose_the_others(group, clock):
    clock.now_s += 60
    group.advance()
    assert not group.view.broken
    pass_s(group, clock, 14)
    assert not group.view.broken


def test_a_launcher_that_has_ended_is_noticed_before_the_timeout(group, clock):
    group.note_closed(LAUNCHER)
    pass_s(group, clock, RECONNECT_S - 0.1)
    assert not group.view.broken
    pass_s(group, clock, 0.3)
    assert group.view.broken


def test_a_launcher_that_connects_again_is_not_lost(group, clock):
    group.note_closed(LAUNCHER)
    group.exchange(report(status(B, "running", 1, 2), sequence=3))
    pass_s(group, clock, 10)
    assert not group.view.broken


def test_a_restarted_launcher_takes_the_place_of_its_predecessor(group):
    assert group.exchange(report(launcher=OTHER)) is not None
    assert group.view.broken  # its workers ended with it
    with pytest.raises(ReplacedError):
        group.exchange(report(status(B), sequence=9))


def test_a_launcher_of_another_attempt_is_turned_away(group):
    assert group.exchange(report(attempt=OTHER)) is None
    assert not group.view.broken


def test_a_late_request_does_not_undo_a_newer_one(group):
    group.exchange(report(sequence=1))  # from before the worker was started
    assert not group.view.broken


@pytest.fixture
def node_0():
    """The server of node 0, whose group has one worker of its own in the first generation."""
    group = Coordinator(Rules(HOSTS, 1, 1, 2, wait_s=0), ATTEMPT)
    group.update(0, [status(A)])
    group.update(0, [status(A, "running", 1, 2)])
    registry = Registry(HOSTS, ATTEMPT, {}, is_elastic=True)
    services = Services(registry, group.stores.answer, group)
    server = serve(services, ("127.0.0.1", 0), HOSTS[0], Signer(TOKEN), RejectedRequests(), 2)
    with closing(server):
        yield group, server


class Meeting:
    """Meets at a server first, and at this launcher itself if `next` is set."""

    def __init__(self, server, attempt=ATTEMPT):
        self.server, self.attempt, self.coordinator = server, attempt, 0
        self.next = self.known = None

    def open(self):
        if self.coordinator == 1:
            return NodeLink(lambda: self.next, is_local=True)
        address = ("127.0.0.1", self.server.port)
        return RemoteLink(Connection(address, HOSTS[0], Signer(TOKEN), 2, 1.5))

    def lose(self):
        self.coordinator = None

    def find(self, view):
        if self.next is None:
            raise OSError("nobody answers")
        self.known, self.coordinator = view, 1
        self.next.continue_from(view, {0})

    def advance(self):
        if self.next is not None and self.coordinator == 1:
            self.next.advance()

    def stop(self, reason):
        return self.next is not None and self.next.stop(reason)


def link(server, timeout_s=15.0, meeting=None):
    place = meeting or Meeting(server)
    return closing(RemoteGroup(1, LAUNCHER, place, timeout_s, 2 * timeout_s, lambda: None))


def wait_until(condition, timeout_s=5.0):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_a_worker_of_another_node_joins_and_dies(node_0):
    group, server = node_0
    with link(server) as remote:
        wait_until(lambda: remote.view.generation == 1)
        remote.update(1, [status(B)])
        wait_until(lambda: group.advance().changing)
        group.update(0, [status(A, "waiting", 1, 3)])
        wait_until(lambda: remote.view.generation == 2)
        assert [member.worker for member in remote.view.members] == [A, B]
        assert not remote.knows_end(B)
        killed_s = time.monotonic()
        remote.update(1, [status(B, end=WorkerEnd(-9, "was killed by SIGKILL"))])
        wait_until(lambda: group.view.broken and remote.view.broken)
        assert time.monotonic() - killed_s < 0.2
        wait_until(lambda: remote.knows_end(B))


def test_a_change_on_node_0_reaches_a_waiting_worker_at_once(node_0):
    group, server = node_0
    with link(server) as remote:
        wait_until(lambda: remote.view.generation == 1)
        threading.Timer(0.1, group.stop, ["SIGTERM"]).start()
        begun_s = time.monotonic()
        assert remote.wait(remote.view.version, 5.0).stop == "SIGTERM"
        assert time.monotonic() - begun_s < 0.4


def test_when_node_0_is_silent_workers_are_released_first_and_then_give_up(node_0):
    _, server = node_0
    with link(server, timeout_s=0.6) as remote:
        wait_until(lambda: remote.advance().generation == 1)
        server.close()
        closed_s = time.monotonic()
        wait_until(lambda: remote.advance().broken)
        # Before node 0 could form a group without them.
        assert time.monotonic() - closed_s < 0.6
        assert remote.view.give_up is None
        wait_until(lambda: remote.advance().give_up is not None)
        assert remote.view.code == 76
        assert "the launcher of node 0 has not answered" in remote.view.give_up


def test_a_launcher_whose_place_is_taken_gives_up(node_0):
    group, server = node_0
    with link(server) as remote:
        wait_until(lambda: remote.view.generation == 1)
        group.exchange(report(launcher=OTHER))
        wait_until(lambda: remote.view.give_up is not None)
        assert "another launcher was started for this node" in remote.view.give_up


def test_a_launcher_that_was_restarted_is_no_coordinator(node_0):
    _, server = node_0
    meeting = Meeting(server, attempt=OTHER)
    with link(server, meeting=meeting):
        wait_until(lambda: meeting.coordinator is None)


def test_a_node_continues_the_group_when_node_0_is_gone(node_0):
    group, server = node_0
    meeting = Meeting(server)
    with link(server, timeout_s=1.0, meeting=meeting) as remote:
        wait_until(lambda: remote.view.generation == 1)
        remote.update(1, [status(B)])
        wait_until(lambda: group.advance().changing)
        group.update(0, [status(A, "waiting", 1, 3)])
        wait_until(lambda: remote.view.generation == 2)
        remote.update(1, [status(B, "running", 2, 2)])
        server.close()
        before = remote.view
        wait_until(lambda: remote.advance().broken)
        remote.update(1, [status(B, "waiting", 2, 3)])
        meeting.next = Coordinator(Rules(HOSTS, 1, 1, 2), ATTEMPT, own=1)
        wait_until(lambda: remote.advance().generation == 3)
        assert meeting.known.generation == 2
        assert [member.worker for member in remote.view.members] == [B]
        assert not remote.view.broken
        assert remote.view.version > before.version
        assert remote.stop("SIGTERM")
        wait_until(lambda: remote.advance().stop == "SIGTERM")


def test_a_generation_of_an_earlier_coordinator_is_not_repeated(clock):
    # Node 0 formed generation 8 before it was lost, and only node 1 knew it.
    group = Coordinator(Rules(HOSTS, 1, 1, 2), ATTEMPT, clock, own=0)
    known = GroupView(5, 7, (Member(A, 0, 0, HOSTS[0]), Member(B, 1, 0, HOSTS[1])))
    group.continue_from(known, ())
    group.exchange(replace(report(status(B, "waiting", 8)), generation=8))
    assert group.view.broken
    own = NodeReport(0, OTHER, ATTEMPT, 1, NO_VERSION, (status(A, "waiting", 7),), 7)
    group.exchange(own, is_local=True)
    assert (group.view.generation, group.view.broken) == (9, False)
    assert [member.worker for member in group.view.members] == [A, B]


def test_a_node_that_does_not_come_to_the_next_coordinator_is_lost(clock):
    group = Coordinator(Rules(HOSTS, 1, 1, 2), ATTEMPT, clock, own=0)
    known = GroupView(5, 7, (Member(A, 0, 0, HOSTS[0]), Member(B, 1, 0, HOSTS[1])))
    group.continue_from(known, ())
    own = NodeReport(0, OTHER, ATTEMPT, 1, NO_VERSION, (status(A, "waiting", 7),), 7)
    group.exchange(own, is_local=True)
    pass_s(group, clock, 14.9 + ASK_S)
    assert group.view.generation == 7
    pass_s(group, clock, 0.3)
    assert [member.worker for member in group.view.members] == [A]


def test_only_the_own_launcher_speaks_for_the_node_of_the_coordinator(group):
    with pytest.raises(ReplacedError):
        group.exchange(NodeReport(0, OTHER, ATTEMPT, 1, NO_VERSION, ()))


def test_the_group_answers_signed_requests_only(node_0):
    group, server = node_0
    version = group.view.version
    connection = Connection(("127.0.0.1", server.port), HOSTS[0], Signer("x" * 32), 2)
    with closing(connection), pytest.raises(OSError, match="uses a different VIT_LAUNCH_TOKEN"):
        connection.ask("POST", "/group", write(report(status(B))))
    assert group.view.version == version


@pytest.mark.parametrize(
    ("body", "answer"),
    [(b"{}", 400), (b"[1]", 400), (write(report(launcher="d" * 32)), 200)],
)
def test_a_report_of_another_form_is_refused(node_0, body, answer):
    _, server = node_0
    with closing(Connection(("127.0.0.1", server.port), HOSTS[0], Signer(TOKEN), 2)) as connection:
        assert connection.ask("POST", "/group", body)[0] == answer

"""The worker's side of an elastic job, against a launcher's server in this process."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection

import pytest

from pipeline.errors import PeerLost, SettingsError, Stopped
from pipeline.launch.coordinator import Coordinator
from pipeline.launch.job import Job, elastic_variables
from pipeline.launch.local_workers import LocalWorkers
from pipeline.launch.membership_server import MembershipServer
from pipeline.launch.rules import Rules
from pipeline.launch.store import LocalStore
from pipeline.runtimes.environment import Place, find_place
from pipeline.runtimes.membership import Membership
from pipeline.runtimes.worker_reports import WorkerEnd

KILLED = WorkerEnd(-9, "was killed by SIGKILL")


class Launcher:
    """The launcher of a job on one node, without processes."""

    def __init__(self, slots, minimum=1):
        self.job = Job(("h0",), slots, 0, ("true",), min_workers=minimum)
        self.group = Coordinator(Rules(("h0",), slots, minimum, slots), "a" * 32)
        self.workers = LocalWorkers()
        membership = MembershipServer(
            self.workers, self.group, self.report, self.group.stores.answer, 5.0
        )
        self.server = LocalStore(membership.answer, lambda peer: None, slots)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._ticks = threading.Thread(target=self._tick)
        self._ticks.start()
        self.members = []

    def report(self):
        with self._lock:
            self.group.update(0, self.workers.statuses())

    def start(self, slot):
        worker = f"{len(self.members):032x}"
        self.workers.add(worker, slot)
        self.report()
        variables = elastic_variables(self.job, slot, worker, self.server.address, "lo")
        member = Membership.connect(variables)
        self.members.append(member)
        return member

    def kill(self, number):
        self.workers.end(f"{number:032x}", KILLED)
        self.report()
        self.members[number].close()

    def close(self):
        self._closed.set()
        for member in self.members:
            member.close()
        self._ticks.join()
        self.server.close()

    def _tick(self):
        while not self._closed.wait(0.02):
            self.group.advance()


@pytest.fixture
def start():
    """Starts a launcher with some workers that have joined the first generation."""
    launchers = []

    def launch(slots, present=None, **rules):
        launchers.append(Launcher(slots, **rules))
        members = [
            launchers[-1].start(slot) for slot in range(slots if present is None else present)
        ]
        if present is None:
            meet(members)
        return launchers[-1], members

    yield launch
    for launcher in launchers:
        launcher.close()


def meet(members):
    """The next generation as each of the members sees it."""
    with ThreadPoolExecutor(len(members)) as threads:
        return list(threads.map(Membership.wait_for_generation, members))


def wait_until(condition, timeout_s=5.0):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_without_an_elastic_launcher_there_is_no_membership():
    assert Membership.connect({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1"}) is None


def test_before_the_first_generation_a_worker_has_the_place_of_its_slot():
    job = Job(("h0", "h1"), 2, 1, ("true",), min_workers=1)
    variables = elastic_variables(job, 1, "a" * 32, ("127.0.0.1:1/b", 1), "lo")
    assert find_place(variables) == Place("horovod", 3, 4, 2)
    joined = variables | {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "3", "HOROVOD_LOCAL_SIZE": "1"}
    assert find_place(joined) == Place("horovod", 0, 3, 1)
    with pytest.raises(SettingsError, match="VIT_LAUNCH_SLOT must be set as vit launch sets it"):
        find_place(variables | {"VIT_LAUNCH_SLOT": "1"})


def test_all_members_get_a_rank_and_the_rendezvous_of_their_generation(start):
    launcher, members = start(3, present=3)
    places = meet(members)
    assert [place.rank for place in places] == [0, 1, 2]
    base, port = launcher.server.address
    assert places[1].variables == {
        "HOROVOD_RANK": "1",
        "HOROVOD_SIZE": "3",
        "HOROVOD_LOCAL_RANK": "1",
        "HOROVOD_LOCAL_SIZE": "3",
        "HOROVOD_CROSS_RANK": "0",
        "HOROVOD_CROSS_SIZE": "1",
        "HOROVOD_HOSTNAME": "h0",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": f"{base}:{port}/g1",
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
    }
    assert not any(member.joins_late for member in members)


def test_a_broken_generation_is_released_again_and_again_until_the_worker_waits(start):
    launcher, (first, _) = start(2)
    releases = []
    first.on_broken = lambda: releases.append(time.monotonic())
    killed_s = time.monotonic()
    launcher.kill(1)
    wait_until(lambda: len(releases) >= 3)
    assert releases[0] - killed_s < 0.2
    assert releases[2] - releases[1] > 0.03
    assert first.change_pending
    assert meet([first])[0].size == 1
    count = len(releases)
    time.sleep(0.2)
    assert len(releases) == count
    assert not first.change_pending


def test_a_worker_that_is_being_released_does_not_get_the_next_generation_yet(start):
    launcher, (first, _) = start(2)
    begun, may_end = threading.Event(), threading.Event()

    def release():
        begun.set()
        may_end.wait()

    first.on_broken = release
    launcher.kill(1)
    assert begun.wait(5)
    with ThreadPoolExecutor(1) as threads:
        next_one = threads.submit(first.wait_for_generation)
        time.sleep(0.2)
        assert not next_one.done()  # the release would close its new connections
        may_end.set()
        assert next_one.result(5).number == 2


def test_an_error_of_one_member_brings_all_to_the_next_generation(start):
    _, members = start(3)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(members[0].wait_for_generation)
        wait_until(lambda: members[1].change_pending and members[2].change_pending)
        assert [place.number for place in meet(members[1:])] == [2, 2]
        assert first.result(5).size == 3


def test_a_worker_joins_and_another_leaves(start):
    launcher, members = start(2)
    launcher.kill(1)
    meet(members[:1])
    newcomer = launcher.start(1)
    assert newcomer.joins_late
    with ThreadPoolExecutor(1) as threads:
        joined = threads.submit(newcomer.wait_for_generation)
        wait_until(lambda: members[0].change_pending)
        assert meet(members[:1])[0].changes == ("worker h0:1 joined",)
        assert (joined.result(5).rank, joined.result(5).size) == (1, 2)
    members[0].report(leaving=True)
    wait_until(lambda: newcomer.change_pending)
    members[0].leave()
    (place,) = meet([newcomer])
    assert (place.rank, place.size, place.changes) == (0, 1, ("worker h0:0 left",))


def test_the_store_of_a_broken_generation_refuses_and_the_next_one_is_empty(start):
    launcher, (first, _) = start(2)

    def ask(generation, method, body=None):
        base, port = launcher.server.address
        path = f"{base.partition('/')[2]}:{port}/g{generation}:{port}/global/key"
        with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request(method, f"/{path}", body)
            answer = connection.getresponse()
            return answer.status, answer.read()

    assert ask(1, "PUT", b"address")[0] == 200
    assert ask(1, "GET") == (200, b"address")
    assert ask(2, "GET")[0] == 410
    launcher.kill(1)
    assert ask(1, "GET")[0] == 410
    meet([first])
    assert ask(1, "GET")[0] == 410
    assert ask(2, "GET")[0] == 404


def test_a_stop_reaches_members_and_newcomers(start):
    launcher, members = start(2)
    launcher.kill(1)
    meet(members[:1])
    launcher.group.stop("SIGTERM")
    wait_until(lambda: members[0].stop_reason == "SIGTERM")
    assert not members[0].change_pending
    with pytest.raises(Stopped, match=r"the job stops \(SIGTERM\) before this worker has joined"):
        launcher.start(1).wait_for_generation()


def test_a_worker_that_was_given_up_is_told_so(start):
    launcher, members = start(2)
    launcher.group._group.lose_node(0, "was lost")
    with pytest.raises(PeerLost, match="all workers were lost"):
        members[0].wait_for_generation()


def test_the_launcher_is_gone(start, monkeypatch):
    monkeypatch.setattr("pipeline.runtimes.membership._LAUNCHER_SILENT_S", 0.3)
    launcher, members = start(2)
    released = threading.Event()
    members[0].on_broken = released.set
    launcher.server.close()
    wait_until(lambda: members[0].change_pending)
    assert released.wait(5)
    with pytest.raises(PeerLost, match="the launcher has not answered"):
        members[0].wait_for_generation()


def test_an_unknown_worker_cannot_connect(start):
    launcher, _ = start(1)
    variables = elastic_variables(launcher.job, 0, "f" * 32, launcher.server.address, "lo")
    with pytest.raises(PeerLost, match="does not answer"):
        Membership.connect(variables)

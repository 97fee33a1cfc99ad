"""The state machine of an elastic job under random deaths, joins, leaves, errors and delays.

Workers behave as pipeline/runtimes/membership.py: they see each view late, and their reports arrive
late. After the disturbances, all of them must train in one generation.
"""

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from pipeline.launch.group import Group
from pipeline.launch.rules import Rules
from pipeline.runtimes.worker_reports import GroupView, WorkerEnd, WorkerReport, WorkerStatus

SLOTS, TICK_S = 4, 0.05


class Worker:
    """A worker that joins as soon as it can, and is in one place of its program at a time."""

    def __init__(self, name, slot, late_ticks):
        self.name, self.slot = name, slot
        self.state, self.generation, self.sequence = "preparing", 0, 1
        self.view = GroupView()
        self.leaves = False
        self.prepares_ticks = late_ticks

    def status(self):
        report = WorkerReport(self.sequence, 0, self.state, self.generation)
        return WorkerStatus(self.name, self.slot, report)

    def turn(self, at_boundary):
        """Does the next thing, with the view that it has seen last."""
        before = (self.state, self.generation)
        view = self.view
        if self.state == "preparing":
            self.prepares_ticks -= 1
            if self.prepares_ticks <= 0:
                self.state = "waiting"
        elif self.state == "waiting":
            mine = any(member.worker == self.name for member in view.members)
            if view.generation > self.generation and mine:
                self.generation = view.generation
                if not view.broken:
                    self.state = "running"
        elif self.state in ("running", "leaving"):
            broken = view.broken or view.generation > self.generation
            if self.leaves:
                self.state = "leaving"
            if broken or (view.changing and at_boundary):
                self.state = "left" if self.state == "leaving" else "waiting"
        self.sequence += before != (self.state, self.generation)


class Job:
    def __init__(self, seed):
        self.random, self.now_s, self.count = random.Random(seed), 0.0, 0
        self.group = self.new_group()
        self.over = GroupView()
        self.views = []
        self.workers = {}
        self.boundary = {}
        self.generations = []
        for slot in range(SLOTS):
            self.start(slot)

    def new_group(self):
        return Group(Rules(("h",), SLOTS, 1, SLOTS), lambda: self.now_s)

    def lose_coordinator(self):
        """Another coordinator continues, perhaps with an older view than the workers have."""
        self.over = self.shown()
        self.group = self.new_group()
        self.group.continue_from(self.random.choice(self.views[-10:]))
        self.group.note_generation(self.over.generation)

    def shown(self):
        """The view that the launcher of the workers shows them (RemoteGroup)."""
        view, over = self.group.view, self.over
        if over.generation and view.generation <= over.generation:
            return replace(view, generation=over.generation, members=over.members, broken=True)
        return view

    def start(self, slot):
        self.count += 1
        worker = Worker(f"{self.count:032x}", slot, self.random.randrange(20))
        self.workers[worker.name] = worker

    def tick(self, calm):
        self.now_s += TICK_S
        number = self.group.view.generation
        # The members agree on the step boundary at which they meet, and reach it one by one.
        if self.group.view.changing and number not in self.boundary:
            self.boundary[number] = self.now_s + self.random.random()
        for worker in list(self.workers.values()):
            if self.random.random() < 0.5:
                worker.view = self.shown()
            if self.random.random() < 0.5:
                worker.turn(self.now_s >= self.boundary.get(worker.generation, float("inf")))
            if worker.state == "left":
                self.end(worker, WorkerEnd(75, "ended with exit code 75"))
            elif not calm and self.random.random() < 0.5:
                self.disturb(worker)
        self.tell()

    def disturb(self, worker):
        chance = self.random.random()
        # Deaths that nobody survives are another test's.
        view = self.group.view
        members = [self.workers.get(member.worker) for member in view.members]
        alone = len([one for one in members if one is not None and not one.leaves]) < 2
        if chance < 0.01 and not alone:
            self.end(worker, WorkerEnd(-9, "was killed by SIGKILL"))
        elif chance < 0.02 and not alone:
            worker.leaves = worker.state == "running"
        elif chance < 0.025 and worker.state == "running":
            worker.state, worker.sequence = "waiting", worker.sequence + 1  # a broken connection

    def end(self, worker, end):
        del self.workers[worker.name]
        ended = WorkerStatus(worker.name, worker.slot, worker.status().report, end)
        self.group.update(0, [ended, *(w.status() for w in self.workers.values())])
        self.start(worker.slot)

    def tell(self):
        known = self.random.random() < 0.7  # reports may be late
        if known:
            self.group.update(0, [worker.status() for worker in self.workers.values()])
        else:
            self.group.advance()
        view = self.group.view
        self.views.append(view)
        if not self.generations or self.generations[-1].generation < view.generation:
            self.generations.append(view)


@pytest.mark.parametrize("seed", range(40))
def test_after_any_disturbances_all_workers_train_in_one_generation(seed):
    job = Job(seed)
    for _ in range(400):
        job.tick(calm=False)
        assert job.group.view.give_up is None
    for _ in range(400):
        job.tick(calm=True)
    view = job.group.view
    assert {member.worker for member in view.members} == set(job.workers)
    assert (view.broken, view.changing, len(view.members)) == (False, False, SLOTS)
    for worker in job.workers.values():
        assert (worker.state, worker.generation) == ("running", view.generation)
    assert len(job.generations) > 3
    check(job.generations)


@pytest.mark.parametrize("seed", range(40))
def test_after_coordinators_were_lost_all_workers_train_in_one_generation(seed):
    job = Job(seed)
    for tick in range(1, 401):
        job.tick(calm=False)
        if tick % 60 == 0 and job.group.view.generation:
            job.lose_coordinator()
        assert job.group.view.give_up is None
    for _ in range(400):
        job.tick(calm=True)
    view = job.group.view
    assert {member.worker for member in view.members} == set(job.workers)
    assert (view.broken, view.changing, len(view.members)) == (False, False, SLOTS)
    for worker in job.workers.values():
        assert (worker.state, worker.generation) == ("running", view.generation)
    numbers = [view.generation for view in job.generations]
    assert numbers == sorted(set(numbers))


def check(generations):
    """Numbers have no gaps, nobody returns, and members that stay keep their order."""
    assert [view.generation for view in generations if view.generation] == list(
        range(1, generations[-1].generation + 1)
    )
    for before, after in pairwise(generations):
        old = [member.worker for member in before.members]
        new = [member.worker for member in after.members]
        staying = [worker for worker in old if worker in new]
        assert new[: len(staying)] == staying
        slots = [member.slot for member in after.members[len(staying) :]]
        assert slots == sorted(slots)

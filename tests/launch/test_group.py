"""The state machine of an elastic job, with a clock of its own and no processes."""

from dataclasses import replace

import pytest

from pipeline.launch.group import SETTLE_S, Group
from pipeline.launch.rules import Rules
from pipeline.runtimes.messages import read, write
from pipeline.runtimes.worker_reports import GroupView, WorkerEnd, WorkerReport, WorkerStatus

KILLED = WorkerEnd(-9, "was killed by SIGKILL")


class Simulation:
    """A group on some nodes, and its workers, named by letters. Each is NODE, SLOT, report, end."""

    def __init__(self, hosts=1, slots=4, **rules):
        self.now_s = 100.0
        names = [f"h{node}" for node in range(hosts)]
        rules = {"minimum": 2, "maximum": hosts * slots} | rules
        self.group = Group(Rules(hosts=names, slots=slots, **rules), lambda: self.now_s)
        self.workers = {}

    def start(self, letter, slot, node=0):
        self.workers[letter] = (node, WorkerStatus(identity(letter), slot, WorkerReport(1)))
        self.tell()

    def say(self, letter, state=None, **values):
        """A worker reports. Its generation is the newest one, unless it is given."""
        node, status = self.workers[letter]
        if state is not None:
            values = {"state": state, "generation": self.view.generation} | values
        report = replace(status.report, sequence=status.report.sequence + 1, **values)
        self.workers[letter] = (node, replace(status, report=report))
        self.tell()

    def end(self, letter, end=KILLED):
        node, status = self.workers[letter]
        self.workers[letter] = (node, replace(status, end=end))
        self.tell()

    def exit(self, letter, code):
        self.end(letter, WorkerEnd(code, f"ended with exit code {code}"))

    def tell(self):
        for node in {node for node, _ in self.workers.values()}:
            self.group.update(node, [s for n, s in self.workers.values() if n == node])

    def pass_s(self, seconds):
        self.now_s += seconds
        self.group.advance()

    def settle(self):
        self.pass_s(SETTLE_S)

    def wait(self, letters):
        """Workers wait for the generation after the newest, as members of it."""
        generation = self.view.generation
        for letter in letters:
            self.say(letter, "waiting", generation=generation)

    def run(self, letters=None):
        """The members of the newest generation join it."""
        for letter in self.members if letters is None else letters:
            self.say(letter, "running")

    def begin(self, letters="abcd"):
        """Starts workers in slots 0, 1 and so on, that form the first generation."""
        for slot, letter in enumerate(letters):
            self.start(letter, slot)
        self.wait(letters)
        self.run()
        return self

    @property
    def view(self):
        return self.group.view

    @property
    def members(self):
        return "".join(chr(int(member.worker, 16)) for member in self.view.members)


def identity(letter):
    return f"{ord(letter):032x}"


@pytest.fixture
def four():
    return Simulation().begin()


def test_the_first_generation_waits_for_all_workers():
    job = Simulation(hosts=2, slots=2)
    for letter, node, slot in (("d", 1, 1), ("a", 0, 0), ("c", 1, 0)):
        job.start(letter, slot, node)
    job.wait("dac")
    assert job.view.generation == 0
    job.start("b", 1)
    job.wait("b")
    assert (job.view.generation, job.members) == (1, "abcd")  # by node and slot
    assert not job.view.paused
    assert job.view.changes == ()


def test_the_first_generation_starts_with_the_minimum_after_wait_s():
    job = Simulation(wait_s=30)
    for slot, letter in enumerate("abc"):
        job.start(letter, slot)
    job.wait("ac")
    job.pass_s(29.9)
    assert job.view.generation == 0
    job.pass_s(0.1)
    assert (job.view.generation, job.members) == (1, "ac")


def test_without_the_minimum_the_job_gives_up_after_wait_s_and_names_the_missing():
    job = Simulation(slots=3, minimum=2, wait_s=30)
    job.start("a", 0)
    job.wait("a")
    job.pass_s(30)
    assert job.view.code == 76
    assert "--wait-s 30: 1 of at least 2" in job.view.give_up
    assert "missing: h0:1, h0:2" in job.view.give_up


def test_workers_that_still_prepare_are_waited_for():
    job = Simulation(slots=2, wait_s=30)
    job.start("a", 0)
    job.start("b", 1)
    job.wait("a")
    job.pass_s(100)
    assert job.view.give_up is None
    job.wait("b")
    assert job.members == "ab"


def test_a_death_breaks_the_generation_and_the_others_form_the_next(four):
    four.end("b")
    assert four.view.broken
    four.wait("ac")
    assert four.view.generation == 1
    four.wait("d")
    assert (four.view.generation, four.members, four.view.broken) == (2, "acd", False)
    assert four.view.changes == ("worker h0:1 was killed by SIGKILL",)


def test_the_chief_is_replaced_by_the_next_in_order(four):
    four.end("a")
    four.wait("dcb")
    assert four.members == "bcd"


def test_two_deaths_at_once(four):
    four.end("a")
    four.end("c")
    four.wait("bd")
    assert (four.view.generation, four.members, four.view.paused) == (2, "bd", False)
    assert len(four.view.changes) == 2


def test_a_death_while_the_others_already_wait(four):
    four.end("a")
    four.wait("bc")
    four.end("d")
    assert (four.view.generation, four.members) == (2, "bc")


def test_a_death_while_a_generation_is_being_joined(four):
    four.end("a")
    four.wait("bcd")
    four.run("b")  # c and d have not seen generation 2 yet
    four.end("c")
    assert four.view.broken
    four.wait("b")
    assert four.view.generation == 2
    four.wait("d")  # it acknowledges the broken generation
    assert (four.view.generation, four.members) == (3, "bd")


def test_a_newcomer_joins_at_a_step_boundary_at_the_end_of_the_order(four):
    four.end("a")
    four.wait("bcd")
    four.run()
    four.start("e", 0)
    four.say("e", "waiting", generation=0)
    assert not four.view.changing  # others may be ready in a moment
    four.settle()
    assert four.view.changing
    assert not four.view.broken
    four.wait("b")
    assert not four.view.broken  # the others come at the same step boundary
    four.wait("cd")
    assert (four.view.generation, four.members) == (3, "bcde")
    assert four.view.changes == ("worker h0:0 joined",)


def test_a_newcomer_joins_with_the_generation_that_replaces_a_broken_one(four):
    four.end("a")
    four.start("e", 0)
    four.say("e", "waiting", generation=0)
    four.wait("bcd")
    assert (four.view.generation, four.members) == (2, "bcde")


def test_a_newcomer_that_dies_leaves_a_change_without_it(four):
    four.end("a")
    four.wait("bcd")
    four.run()
    four.start("e", 0)
    four.say("e", "waiting", generation=0)
    four.settle()
    four.wait("b")
    four.end("e")
    assert four.view.changing
    assert not four.view.broken
    four.wait("cd")
    assert (four.view.generation, four.members) == (3, "bcd")


def test_a_spare_worker_waits_until_a_member_is_gone():
    job = Simulation(maximum=2, slots=4)
    for slot, letter in enumerate("abc"):
        job.start(letter, slot)
    job.wait("ab")
    job.run()
    job.wait("c")
    job.settle()
    assert (job.members, job.view.changing) == ("ab", False)
    job.start("d", 3)
    job.wait("d")
    job.end("a")
    job.wait("b")
    assert job.members == "bc"


def test_a_member_that_meets_an_error_breaks_the_generation_for_all(four):
    four.wait("c")  # its connection broke, but nobody is dead
    assert four.view.broken
    four.wait("abd")
    assert (four.view.generation, four.members) == (2, "abcd")


def test_a_change_for_which_a_member_does_not_come_breaks_the_generation(four):
    four.say("b", "leaving")
    four.wait("ac")
    four.pass_s(15)
    assert not four.view.broken
    four.pass_s(0.1)
    assert four.view.broken


def test_a_member_that_never_comes_is_excluded():
    job = Simulation(slots=3, elastic_timeout_s=60).begin("abc")
    job.end("a")
    job.wait("b")
    job.pass_s(61)
    assert job.view.excluded == (identity("c"),)
    assert (job.view.generation, job.members, job.view.paused) == (2, "b", True)
    job.end("c")
    assert job.view.excluded == ()
    assert not job.view.broken


def test_a_worker_leaves_at_a_step_boundary(four):
    four.say("c", "leaving")
    assert four.view.changing
    four.wait("ab")
    four.say("c", "left")
    four.exit("c", 75)
    assert not four.view.broken
    assert not four.view.finished
    four.wait("d")
    assert (four.view.generation, four.members) == (2, "abd")
    assert four.view.changes == ("worker h0:2 left",)


def test_a_lost_node_whose_workers_have_left_breaks_nothing():
    job = Simulation(hosts=2, slots=1, minimum=1)
    job.start("a", 0)
    job.start("b", 0, node=1)
    job.wait("ab")
    job.run()
    job.say("b", "left")
    job.group.lose_node(1, "was lost")
    assert not job.view.broken
    job.wait("a")
    assert (job.members, job.view.changes) == ("a", ("worker h1:0 left",))


def test_a_leaving_worker_that_is_killed_first_is_a_death(four):
    four.say("c", "leaving")
    four.end("c")
    assert four.view.broken


def test_if_all_have_left_the_run_has_ended(four):
    for letter in "abcd":
        four.say(letter, "left")
    assert four.view.finished
    assert four.view.give_up is None


def test_below_the_minimum_the_group_pauses_and_continues_with_a_newcomer():
    job = Simulation(slots=2).begin("ab")
    job.end("b")
    job.wait("a")
    assert (job.view.generation, job.members, job.view.paused) == (2, "a", True)
    job.run()
    job.pass_s(599)
    job.start("c", 1)
    job.say("c", "waiting", generation=0)
    job.settle()
    job.wait("a")
    assert (job.members, job.view.paused) == ("ac", False)
    job.run()
    job.pass_s(10_000)
    assert job.view.give_up is None


def test_below_the_minimum_for_too_long_the_job_gives_up():
    job = Simulation(slots=2, elastic_timeout_s=60).begin("ab")
    job.end("b")
    job.wait("a")
    job.run()
    job.pass_s(60)
    assert job.view.code == 76
    assert "--elastic-timeout-s 60: 1 of at least 2 workers" in job.view.give_up
    assert "worker h0:1 was killed" in job.view.give_up


def test_a_worker_that_finishes_ends_the_changes(four):
    four.exit("a", 0)
    assert four.view.finished
    four.end("b")  # no new generation is formed without the one that has finished
    four.wait("cd")
    assert four.view.generation == 1
    assert four.view.give_up is None


def test_a_run_that_stops_by_itself_is_not_a_loss(four):
    four.exit("b", 75)
    assert four.view.finished
    assert not four.view.broken


@pytest.mark.parametrize("code", [2, 3])
def test_wrong_settings_or_data_end_the_job(four, code):
    four.exit("b", code)
    assert (four.view.code, four.view.give_up) == (code, f"worker h0:1 ended with exit code {code}")
    four.wait("acd")
    assert four.view.generation == 1


def test_an_exception_of_one_worker_is_a_loss(four):
    for step in range(10):
        for letter in four.members:
            four.say(letter, "running", step=step)
        if step < 2:
            four.exit("bc"[step], 1)
            four.wait(letter for letter in four.members if letter not in "bc"[: step + 1])
    assert (four.view.give_up, four.members) == (None, "ad")


def test_the_same_exception_on_every_worker_ends_the_job_with_its_code(four):
    for letter in "abcd":
        four.say(letter, "running", step=7)
    for gone in "abcd":
        assert four.view.give_up is None
        four.exit(gone, 5)
        four.wait(letter for letter in "abcd" if letter > gone)
        four.run()
    assert four.view.code == 5
    assert "every worker failed at the same step" in four.view.give_up


def test_an_exception_before_the_first_generation_ends_the_job():
    job = Simulation()
    job.start("a", 0)
    job.exit("a", 1)
    assert (job.view.code, job.view.give_up) == (1, "worker h0:0 ended with exit code 1")


def test_a_worker_that_stops_before_the_first_generation_is_replaced_unless_the_job_stops():
    job = Simulation(slots=1, minimum=1)
    job.start("a", 0)
    job.exit("a", 75)
    assert not job.view.finished
    job.start("b", 0)
    job.group.stop("SIGTERM")
    job.exit("b", 75)
    assert (job.view.finished, job.view.code) == (True, 75)


def test_a_worker_killed_before_the_first_generation_is_replaced():
    job = Simulation(slots=2)
    job.start("a", 0)
    job.end("a")
    job.start("b", 0)
    job.start("c", 1)
    job.wait("cb")
    assert job.members == "bc"


def test_if_all_workers_are_lost_the_job_ends(four):
    for letter in "abcd":
        four.end(letter)
    assert four.view.code == 76
    assert "all workers were lost" in four.view.give_up


def test_workers_that_are_killed_after_a_stop_end_the_job_without_another_reason(four):
    four.group.stop("SIGTERM")
    for letter in "abcd":
        four.end(letter)
    assert (four.view.finished, four.view.give_up) == (True, None)


def test_the_view_of_a_large_job_that_is_lost_can_be_sent():
    job = Simulation(slots=400, minimum=1)
    waiting = [WorkerStatus(f"{i:032x}", i, WorkerReport(1, 0, "waiting")) for i in range(400)]
    job.group.update(0, waiting)
    assert len(job.view.members) == 400
    job.group.update(0, [replace(status, end=KILLED) for status in waiting])
    assert job.view.code == 76
    assert read(GroupView, write(job.view)) == job.view


def test_if_all_are_lost_an_exception_is_the_cause(four):
    four.exit("a", 5)
    for letter in "bcd":
        four.end(letter)
    assert four.view.code == 5


def test_a_stop_admits_no_newcomers_but_survivors_still_meet(four):
    four.end("a")
    four.wait("bcd")
    four.run()
    four.group.stop("SIGTERM")
    four.start("e", 0)
    four.say("e", "waiting", generation=0)
    four.settle()
    assert (four.view.stop, four.view.changing) == ("SIGTERM", False)
    four.end("b")
    four.wait("cd")
    assert (four.view.generation, four.members) == (3, "cd")
    four.run()
    four.exit("c", 75)
    assert four.view.finished


def test_a_late_request_changes_nothing(four):
    _, old = four.workers["b"]
    four.end("a")
    four.wait("b")
    four.workers["b"] = (0, old)  # "running"
    four.wait("cd")
    assert (four.view.generation, four.members) == (2, "bcd")


def test_a_lost_node_takes_its_workers_with_it_and_they_never_return():
    job = Simulation(hosts=2, slots=2)
    for letter, node, slot in (("a", 0, 0), ("b", 0, 1), ("c", 1, 0), ("d", 1, 1)):
        job.start(letter, slot, node)
    job.wait("abcd")
    job.run()
    job.group.lose_node(1, "was on a node that does not answer")
    assert job.view.broken
    assert job.view.excluded == (identity("c"), identity("d"))
    job.wait("ab")
    assert job.members == "ab"
    job.say("c", "waiting", generation=1)
    job.settle()
    assert not job.view.changing
    for letter in "cd":
        del job.workers[letter]
    job.start("e", 0, 1)
    job.say("e", "waiting", generation=0)
    assert job.view.excluded == ()
    job.settle()
    job.run("ab")
    job.wait("ab")
    assert job.members == "abe"


def test_the_version_changes_with_the_view_only(four):
    version = four.view.version
    for _ in range(3):
        four.say("a", step=5)
        four.pass_s(1)
    assert four.view.version == version

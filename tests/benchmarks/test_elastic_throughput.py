"""What `python -m benchmarks elastic --minutes` measures."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from benchmarks import elastic_throughput
from benchmarks.command import main
from benchmarks.elastic_throughput import Newcomers, cpu_s_of, workers_of
from tests.jobs.commands import vit


def test_the_cpu_time_of_a_newcomer_counts_until_it_joins(monkeypatch):
    times_s = {10: 90.0, 11: 80.0, 20: 3.0}
    monkeypatch.setattr(elastic_throughput, "cpu_s_of", lambda process: times_s.get(process, 0.0))
    newcomers = Newcomers({0: 10, 1: 11})
    newcomers.see({0: 10, 1: 11})
    assert newcomers.cpu_s == 0
    newcomers.see({0: 10, 1: 20})
    assert newcomers.waiting == {1: 20}
    times_s[20] = 5.0
    newcomers.see({0: 10, 1: 20})
    newcomers.join(["worker localhost:1 was killed by SIGKILL"])
    assert newcomers.joined == 0
    newcomers.join(["localhost:1 joined"])
    times_s[20] = 50.0  # it trains
    newcomers.see({0: 10, 1: 20})
    assert (newcomers.cpu_s, newcomers.joined) == (5.0, 1)


def test_what_a_newcomer_used_that_was_killed_still_counts(monkeypatch):
    times_s = {20: 3.0, 21: 1.0}
    monkeypatch.setattr(elastic_throughput, "cpu_s_of", lambda process: times_s.get(process, 0.0))
    newcomers = Newcomers({})
    newcomers.see({1: 20})
    del times_s[20]
    newcomers.see({1: 21})
    assert newcomers.cpu_s == 4.0


def test_the_cpu_time_of_this_process_is_that_of_its_clock():
    assert cpu_s_of(os.getpid()) == pytest.approx(sum(os.times()[:4]), abs=0.5)
    assert cpu_s_of(2**22 + 1) == 0


@pytest.mark.processes
def test_workers_are_the_children_with_a_slot():
    slot = {"VIT_LAUNCH_SLOT": "5,8,1,4"}
    children = [
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=more)
        for more in (os.environ | slot, os.environ)
    ]
    time.sleep(0.5)
    job = SimpleNamespace(process=SimpleNamespace(pid=os.getpid()))
    try:
        assert workers_of(job) == {1: children[0].pid}
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_wrong_times_are_explained():
    done = vit("elastic", "--minutes=0", command=main)
    assert done.returncode == 2
    assert "--minutes and --kill-every-s must be positive" in done.stderr

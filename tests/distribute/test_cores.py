"""How many parts of a batch are computed side by side."""

import os

import pytest

from pipeline.config import DistributeConfig
from pipeline.distribute import runtime
from pipeline.distribute.environment import Place
from pipeline.distribute.runtime import own_cores


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes this process see so many cores of the host's, of which it may use `bound`."""

    def make(cores, bound, quota="max"):
        limit = tmp_path / "cpu.max"
        limit.write_text(f"{quota} 100000\n")
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)))
        monkeypatch.setattr(runtime, "_QUOTA", limit)
        monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)

    return make


@pytest.mark.parametrize(
    ("cores", "bound", "quota", "processes", "own"),
    [
        (8, 8, "max", 1, 8),
        (8, 8, "max", 4, 2),
        (2, 2, "max", 4, 1),
        (32, 8, "max", 4, 8),  # a launcher has bound each of the four to cores of its own
        (64, 64, "200000", 1, 2),  # a container's limit of two cores
        (64, 64, "400000", 2, 2),
        (8, 8, "50000", 1, 1),
    ],
)
def test_cores_of_a_process(machine, cores, bound, quota, processes, own):
    machine(cores, bound, quota)
    assert own_cores(processes) == own


@pytest.mark.parametrize(
    ("cores", "settings", "processes", "parts"),
    [
        (2, {}, 1, 2),
        (8, {}, 1, 8),
        (8, {}, 2, 4),
        (8, {"cpu_devices": 2}, 1, 4),
        (2, {}, 2, 1),
        (2, {"intra_op_threads": 2}, 1, None),
        (9, {}, 1, None),  # not measured with so many
    ],
)
def test_parts_of_a_batch(machine, cores, settings, processes, parts):
    machine(cores, cores)
    place = Place("horovod", 0, processes, processes)
    assert runtime.parts_of(DistributeConfig(**settings), place) == parts


def test_threads_that_the_environment_asks_for_are_left_alone(machine, monkeypatch):
    machine(2, 2)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "2")
    assert runtime.parts_of(DistributeConfig(), Place("alone")) is None

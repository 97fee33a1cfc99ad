"""How many parts of a batch are computed side by side."""

import os

import pytest
import tensorflow as tf

from pipeline.config import DistributeConfig
from pipeline.errors import SettingsError
from pipeline.runtimes import devices, kinds
from pipeline.runtimes.devices import intra_op_threads, own_cores
from pipeline.runtimes.environment import Place


@pytest.fixture
def machine(monkeypatch):
    """Makes this process see so many cores of the host's, of which it may use `bound`.

    A container's limit, in cores, may be less.
    """

    def make(cores, bound, limit=None):
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)))
        monkeypatch.setattr(devices, "available_cores", lambda: min(bound, limit or bound))
        monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)

    return make


@pytest.mark.parametrize(
    ("cores", "bound", "limit", "processes", "own"),
    [
        (8, 8, None, 1, 8),
        (8, 8, None, 4, 2),
        (2, 2, None, 4, 1),
        (32, 8, None, 4, 8),  # a launcher has bound each of the four to cores of its own
        (64, 64, 2, 1, 2),  # a container's limit of two cores
        (64, 64, 4, 2, 2),
    ],
)
def test_cores_of_a_process(machine, cores, bound, limit, processes, own):
    machine(cores, bound, limit)
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
    assert devices.parallel_parts(DistributeConfig(**settings), place) == parts


@pytest.mark.parametrize(
    ("cores", "settings", "parts"),
    [(64, {}, 64), (2, {}, 2), (64, {"intra_op_threads": 1}, 64), (4, {"cpu_devices": 2}, 2)],
)
def test_deterministic_operations_have_one_thread_on_any_number_of_cores(
    machine, monkeypatch, cores, settings, parts
):
    machine(cores, cores)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "8")
    config, place = DistributeConfig(**settings), Place("alone")
    assert devices.parallel_parts(config, place, deterministic=True) == parts
    assert intra_op_threads(config, place, deterministic=True) == 1


@pytest.mark.parametrize("trains", [False, True])
def test_a_process_with_several_threads_may_evaluate_a_deterministic_run_but_not_train(
    monkeypatch, caplog, trains
):
    def refuse(number):
        raise RuntimeError("Intra op parallelism cannot be modified after initialization.")

    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", refuse)
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 8)
    if trains:
        with pytest.raises(SettingsError, match="can be configured only once per process"):
            kinds.start(DistributeConfig(), deterministic=True)
    else:
        kinds.start(DistributeConfig(), deterministic=True, trains=False).close()
        assert "last digits" in caplog.text


def test_threads_that_the_environment_asks_for_are_left_alone(machine, monkeypatch):
    machine(2, 2)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "2")
    assert devices.parallel_parts(DistributeConfig(), Place("alone")) is None


@pytest.mark.parametrize(
    ("cores", "limit", "settings", "processes", "threads"),
    [
        (64, None, {}, 1, None),
        (64, 16, {}, 1, 16),
        (64, 32, {}, 2, 16),
        (64, 4, {}, 1, 1),  # parts of a batch side by side, each with one thread
        (64, 16, {"intra_op_threads": 3}, 1, 3),
    ],
)
def test_threads_of_an_operation(machine, cores, limit, settings, processes, threads):
    machine(cores, cores, limit)
    place = Place("horovod", 0, processes, processes)
    assert intra_op_threads(DistributeConfig(**settings), place) == threads

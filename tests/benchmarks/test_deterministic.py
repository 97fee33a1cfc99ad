"""`python -m benchmarks deterministic`: it compares pairs of timings of real steps."""

import json

import pytest
import tensorflow as tf

from benchmarks.command import main
from benchmarks.deterministic import Timing, row_of
from benchmarks.deterministic_rank import count_bytes
from pipeline.runtimes.single import SingleRuntime
from tests.jobs.commands import vit, vit_process


def test_the_share_is_the_median_of_pairs():
    # The machine was ten times as slow in the second pair, which changes no ratio.
    default = [Timing(1.0, 3.0), Timing(10.0, 3.0), Timing(2.0, 3.0)]
    ours = [Timing(2.0, 4.0), Timing(12.5, 3.0), Timing(2.0, 5.0)]
    facts = {False: {"values": 500, "bytes": 2000}, True: {"values": 500, "bytes": 2500}}
    row = row_of({False: default, True: ours}, facts, images=10)
    assert (row["least"], row["share"], row["most"]) == (0.5, 0.8, 1.0)
    assert row["cpu_share"] == 0.75
    assert (row["images_per_second"], row["default_images_per_second"]) == (5.0, 5.0)
    assert (row["megabytes_per_step"], row["default_megabytes_per_step"]) == (0.0025, 0.002)
    assert row["bytes_per_value"] == 5


def test_bytes_are_counted_by_type_and_once_for_each_name():
    runtime = SingleRuntime("CPU:0")
    counted = count_bytes(runtime)
    for _ in range(2):  # a graph may be built twice
        tensors = [tf.zeros([3, 5], tf.int32), tf.zeros([2], tf.int32)]
        assert runtime.sum_gradients(tensors) == tensors
        runtime.sum_gradients([tf.zeros([4], tf.int64)], "bounds")
    assert counted == {"gradient": 4 * 17, "bounds": 8 * 4}


@pytest.mark.parametrize(
    ("argument", "message"),
    [("--cases=XL/2", "--cases must be some of cifar, S/16. Received: XL/2"),
     ("--workers=9999", "each worker needs its own core"),
     ("--rounds=0", "--rounds must be at least 1")],
)  # fmt: skip
def test_wrong_arguments_are_explained(argument, message):
    done = vit("deterministic", argument, command=main)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.processes
def test_real_steps_send_four_bytes_a_value_and_eight_a_bound():
    done = vit_process(
        "deterministic", "--cases=cifar", "--workers=1", "--steps=1", "--rounds=1", "--json",
        "data.global_batch_size=16", "model.depth=1",
        start=("-m", "benchmarks"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows[0]["processes"] == "one process, 1 core"
    for row in rows:
        assert row["least"] <= row["share"] <= row["most"]
        tensors = 8 + 16  # around the block and in it
        values = row["default_megabytes_per_step"] * 1e6 / 4
        metrics = 4  # loss, two accuracies and the number of examples
        expected = 4 + 8 * (tensors + 1 + metrics) / values
        assert row["bytes_per_value"] == pytest.approx(expected)

"""`python -m benchmarks operations`: own time of nested events, and the trace of real steps."""

import json

import pytest

from benchmarks.operations import Event, own_seconds, rows_of
from tests.jobs.commands import vit_process


def test_an_events_own_time_is_without_what_is_in_it():
    events = [
        Event("inner", 2.0, 3.0), Event("outer", 0.0, 10.0), Event("middle", 1.0, 5.0),
        Event("next", 10.0, 11.0), Event("at its start", 0.0, 0.5),
    ]  # fmt: skip
    assert dict(own_seconds(events)) == {
        "inner": 1.0, "middle": 3.0, "at its start": 0.5, "outer": 5.5, "next": 1.0
    }  # fmt: skip


def test_operations_of_a_kind_are_summed_over_threads_a_step():
    threads = [
        [Event("vit/a:MatMul", 0.0, 2.0), Event("Executor::Run", 0.0, 6.0)],
        [Event("vit/b:MatMul", 1.0, 2.0), Event("vit/c:Tanh", 2.0, 6.0), Event("eigen", 3.0, 4.0)],
    ]
    rows = rows_of(threads, available_s=12.0, steps=2)
    tanh = {"is": "other", "seconds": 2.0, "of_all": 4 / 12, "calls": 0.5}
    product = {"is": "matrix product", "seconds": 1.5, "of_all": 3 / 12, "calls": 1.0}
    assert rows == [{"operation": "Tanh"} | tanh, {"operation": "MatMul"} | product]


def test_what_xla_has_compiled_is_one_kind():
    events = [
        Event("ExecutorState::Process", 0.0, 5.0),
        Event("CpuExecutable::ExecuteAsyncOnStream", 1.0, 3.0),
        Event("broadcast_select_fusion", 1.5, 2.5),
    ]
    (row,) = rows_of([events], available_s=4.0, steps=1)
    assert (row["operation"], row["seconds"]) == ("XLA's loops", 2.0)


@pytest.mark.processes
def test_a_real_step_updates_each_variable_once_and_is_named_for_the_most_part():
    settings = "data.global_batch_size=32", "distribute.intra_op_threads=1"
    done = vit_process(
        "operations", "cifar10", *settings, "--steps=2", "--most=100", "--json",
        start=("-m", "benchmarks"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["operation"]: row for row in map(json.loads, done.stdout.splitlines())}
    # Nine blocks of 16 variables, two of the patches, one of positions, one token, norm and head.
    assert rows["ResourceApplyAdam"]["calls"] == 152
    products = sum(row["of_all"] for row in rows.values() if row["is"] == "matrix product")
    assert products > 0.15
    # Of the 32 images as a whole: of each block's GELU and norms, forward and back, and the last
    # block's are no less.
    assert rows["XLA's loops"]["calls"] >= 9 * 6
    # Most of the step's wall time. Other tests on the same cores take a part of it: 0.59 was seen.
    assert 0.4 < sum(row["of_all"] for row in rows.values()) <= 1

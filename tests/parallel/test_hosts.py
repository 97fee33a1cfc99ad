"""Two hosts that know each other by network alone train what one trains."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.parallel.hosts import Hosts, vit, why_not
from tests.parallel.launches import ROOT, needs_horovod

pytestmark = [
    pytest.mark.skipif(bool(reason := why_not()), reason=reason or "all there"),
]

# One thread each: parts side by side would be added up in another order by two than by one.
SHORT = ["train.epochs=12", "distribute.intra_op_threads=1", "monitor.pictures=false",
         "monitor.report=false", "model.depth=1"]  # fmt: skip
# A block of width 64: four matrices of attention, two of the MLP with its 128 units, two norms.
# Around it: patches of 2 x 2 x 3, 16 positions, a norm, ten classes.
BLOCK = 4 * (64 * 64 + 64) + (64 * 128 + 128) + (128 * 64 + 64) + 2 * 128
STEPS, PARAMETERS = 162, BLOCK + (12 * 64 + 64) + 16 * 64 + 128 + (64 * 10 + 10)


@pytest.fixture(params=[("eth0", "eth0")])
def hosts(tmp_path, request):
    made = Hosts(tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The row of metrics of the test split, from one process that adds up the same two halves.

    Over hundreds of steps another order of addition leads to other weights.
    """
    run = tmp_path_factory.mktemp("single") / "run"
    command = vit("train", "digits", f"run.dir={run}", *SHORT, "optim.accumulate_steps=2")
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    return read_test_row(run)


def read_test_row(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next(row for row in rows if row["split"] == "test")


def end(process, timeout_s=300):
    output = process.communicate(timeout=timeout_s)[0]
    return process.returncode, output


def assert_trained_together(hosts, run, single, outputs):
    assert [code for code, _ in outputs] == [0] * len(outputs), outputs
    assert "2 processes" in outputs[0][1] or "2 workers" in outputs[0][1]
    row = read_test_row(run)
    assert row["accuracy"] == pytest.approx(single["accuracy"], abs=1.5 / 367)
    assert row["loss"] == pytest.approx(single["loss"], rel=1e-3)
    assert row["accuracy"] > 0.4  # chance is 0.1
    for index in range(2):
        # With two ranks, a ring sends each gradient's size once from each.
        assert hosts.sent_bytes(index) > STEPS * PARAMETERS * 4
        assert hosts.sent_bytes(index, "lo") < 2**20


@pytest.mark.processes
@needs_horovod
def test_horovodrun_over_ssh(hosts, single, tmp_path):
    run = tmp_path / "run"
    where = ",".join(f"{address}:1" for address in hosts.addresses)
    horovodrun = Path(sys.executable).with_name("horovodrun")
    train = vit("train", "digits", f"run.dir={run}", *SHORT)
    process = hosts.start(0, horovodrun, "--gloo", "-np", 2, "-H", where, *train)
    assert_trained_together(hosts, run, single, [end(process)])


@pytest.mark.processes
@pytest.mark.parametrize("hosts", [("eth0", "net1")], indirect=True)
@pytest.mark.parametrize("runtime", [pytest.param("horovod", marks=needs_horovod), "multi_worker"])
def test_a_launcher_on_each_host_without_ssh(hosts, single, tmp_path, runtime):
    run = tmp_path / "run"
    train = vit("train", "digits", f"run.dir={run}", *SHORT)
    common = ["--hosts", ",".join(hosts.names), "--processes-per-node", "1", "--runtime", runtime]
    common += ["--trust-network"] if runtime == "multi_worker" else []
    launchers = [
        hosts.start(index, *vit("launch", *common, "--index", index, "--", *train))
        for index in (1, 0)
    ]
    outputs = [end(launcher) for launcher in launchers]
    assert_trained_together(hosts, run, single, outputs[::-1])


@pytest.mark.processes
@needs_horovod
def test_a_link_that_goes_down_ends_the_job_on_both_hosts(hosts, tmp_path):
    train = vit("train", "digits", f"run.dir={tmp_path}/run")
    common = ["--hosts", ",".join(hosts.names), "--processes-per-node", "1"]
    common += ["--end-within-s", "10"]
    launchers = [
        hosts.start(index, *vit("launch", *common, "--index", index, "--", *train))
        for index in (0, 1)
    ]
    wait_for_steps(tmp_path / "run/metrics.jsonl")
    hosts.cut()
    for launcher in launchers:
        code, output = end(launcher, 45)
        assert code == 76
        assert "lost" in output or "has not answered" in output


def wait_for_steps(metrics):
    limit = time.monotonic() + 120
    while not metrics.exists() or not metrics.read_text():
        assert time.monotonic() < limit
        time.sleep(0.2)

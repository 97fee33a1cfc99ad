"""Every runtime trains what one device trains.

tests/doctor/test_parity.py compares two workers of each runtime, and four devices, as they are.
These tests add more workers, parts, and XLA.
"""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE, STDOUT

import numpy as np
import pytest

from pipeline.runs.checkpoints.store import CheckpointStore

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent.parent

# Everything that a reduction in the wrong place would show: clipping that always bites, decay,
# smoothed labels, augmentation, averages, warm-up. Neither dropout nor stochastic depth, which
# draw per replica.
RECIPE = """
seed: 5
data: {source: digits, image_size: 8, resize: none, global_batch_size: 96, label_smoothing: 0.1,
       augment: {flip: true, crop_padding: 1, rotation: 0.05, zoom: 0.1}}
model: {variant: digits, depth: 2}
optim: {base_lr: 8e-3, warmup_steps: 5, weight_decay: 0.1, clip_norm: 0.1, ema_momentum: 0.9}
train: {max_steps: 20, log_every_steps: 1, evaluate_every_steps: 20}
monitor: {pictures: false, report: false}
"""


def train(folder, *settings, launch=(), environments=({},)):
    """Runs 20 steps in processes of their own; returns the checkpoint's tensors and the rows.

    Args:
      launch: Command that starts `vit`, such as horovodrun.
      environments: One a process that is started here.
    """
    (folder / "parity.yaml").write_text(RECIPE)
    command = [
        *launch, sys.executable, "-m", "jobs.train", str(folder / "parity.yaml"),
        f"run.dir={folder / 'run'}", *settings,
    ]  # fmt: skip
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=PIPE, stderr=STDOUT, text=True,
                         env=os.environ | {"PYTHONPATH": str(ROOT)} | environment)
        for environment in environments
    ]  # fmt: skip
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    rows = [json.loads(row) for row in (folder / "run/metrics.jsonl").read_text().splitlines()]
    return CheckpointStore(folder / "run/checkpoints").load(20).tensors, rows


def differences(ours, reference):
    """max|difference| / max|weight| a tensor, and the relative L2 of the whole model.

    The attention's key biases are left out: their true gradient is zero, softmax being blind to
    a constant, and Adam blows up the rounding noise that is left of it.
    """
    names = [name for name in reference if not name.endswith("attention/key/bias")]
    worst = {
        name: np.abs(ours[name] - reference[name]).max() / np.abs(reference[name]).max()
        for name in names
    }
    square = sum(((ours[n] - reference[n]).astype("f8") ** 2).sum() for n in names)
    norm = sum((reference[n].astype("f8") ** 2).sum() for n in names)
    return worst, np.sqrt(square / norm)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return train(tmp_path_factory.mktemp("single"), "distribute.runtime=single")


@pytest.mark.parametrize(
    "settings",
    [
        ("distribute.cpu_devices=3", "optim.accumulate_steps=2"),
        ("distribute.cpu_devices=2", "train.xla=always"),
    ],
    ids=["three in two parts", "two with XLA"],
)
def test_mirrored_devices_end_with_the_weights_of_one(tmp_path, single, settings):
    ours, rows = train(tmp_path, "distribute.runtime=mirrored", *settings)
    assert_same_training(single, (ours, rows))


def test_mirrored_devices_do_so_with_batches_that_have_compiled_loops(tmp_path):
    single, two = tmp_path / "single", tmp_path / "two"
    for folder in (single, two):
        folder.mkdir()
    # 384 images a device: 786,432 numbers that a GELU takes. At the rate of 96 images: at eight
    # times that, trainings that differ in rounding part, compiled or not.
    batch = "data.global_batch_size=768", "optim.base_lr=1e-3"
    one_part = "distribute.intra_op_threads=1"  # however many cores there are
    expected = train(single, "distribute.runtime=single", *batch, one_part)
    ours = train(two, "distribute.runtime=mirrored", "distribute.cpu_devices=2", *batch)
    assert_same_training(expected, ours)


@pytest.mark.skipif(find_spec("horovod") is None, reason="Horovod is not built: `make horovod`")
@pytest.mark.parametrize(("workers", "xla"), [(4, "never"), (2, "always")])
def test_horovod_ends_with_the_weights_of_one_process(tmp_path, single, workers, xla):
    horovodrun = Path(sys.executable).with_name("horovodrun")
    launch = [str(horovodrun), "--gloo", "-np", str(workers)]
    settings = ["distribute.runtime=horovod", f"train.xla={xla}"]
    assert_same_training(single, train(tmp_path, *settings, launch=launch))


def test_multi_worker_mirrored_with_xla_ends_with_the_weights_of_one_process(tmp_path, single):
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    environments = [
        {"TF_CONFIG": json.dumps(
            {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        )}
        for index in range(2)
    ]  # fmt: skip
    settings = ["distribute.runtime=multi_worker", "train.xla=always"]
    assert_same_training(single, train(tmp_path, *settings, environments=environments))


def free_ports(count):
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


def assert_same_training(reference, other):
    """Weights and averages within 1e-5 by the measure above, and the same rows of metrics."""
    (expected, expected_rows), (ours, rows) = reference, other
    for group in ("model", "average"):
        worst, whole = differences(ours[group], expected[group])
        assert max(worst.values()) < 1e-5, max(worst, key=worst.get)
        assert whole < 1e-5
    for row, same in zip(rows, expected_rows, strict=True):
        assert (row["step"], row["split"]) == (same["step"], same["split"])
        assert row["loss"] == pytest.approx(same["loss"], rel=1e-5)
        assert row["accuracy"] == pytest.approx(same["accuracy"], abs=1e-12)


def test_the_measure_sees_a_clip_before_the_reduction(single, tmp_path):
    # Without clipping the weights are others: so the test above would fail if each replica
    # clipped its own share, which is less often over the limit.
    other, _ = train(tmp_path, "distribute.runtime=single", "optim.clip_norm=1e9")
    _, whole = differences(other["model"], single[0]["model"])
    assert whole > 1e-4

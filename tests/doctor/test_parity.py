"""`vit doctor --parity` passes only if N workers train what one worker trains."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Config, load_config
from pipeline.doctor.parity_check import Run, _train, read_runs
from pipeline.errors import SettingsError
from pipeline.recipes import find_recipe
from pipeline.training.parity import ParityResult, compare, compare_weights, parity_config
from tests.jobs.commands import shadow_modules

ROOT = Path(__file__).parents[2]
# Workers differ in how they share a batch, not in how many blocks a network has.
SMALL = "model.depth=1"
needs_horovod = pytest.mark.skipif(
    find_spec("horovod") is None, reason="Horovod is not built: make horovod"
)


def parity(runtimes, workers="2", root=ROOT, cwd=None):
    """Runs the doctor on digits. Returns its exit code and the verdict by row."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jobs.cli", "doctor", "digits", SMALL, "--parity",
         "--runtimes", runtimes, "--workers", workers],
        cwd=cwd or root, env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    rows = [line for line in done.stdout.splitlines() if " worker" in line[:24]]
    words = ("same", "DIFFERENT", "FAILED")
    verdicts = {row[:24].strip(): [w for w in row.split() if w in words] for row in rows}
    return done.returncode, verdicts, done.stdout + done.stderr


@pytest.mark.processes
@needs_horovod
def test_every_runtime_trains_what_one_worker_trains():
    code, verdicts, output = parity("single,mirrored,multi_worker,horovod")
    names = ("mirrored", "multi_worker", "horovod")
    assert verdicts == {f"{name}, 2 workers": ["same"] for name in names}, output
    assert code == 0


@pytest.mark.processes
def test_one_and_four_workers_train_the_same_whatever_lies_in_the_current_folder(tmp_path):
    shadow_modules(tmp_path)
    code, verdicts, output = parity("multi_worker", "1,4", cwd=tmp_path)
    same = ["same"]
    assert verdicts == {"multi_worker, 1 worker": same, "multi_worker, 4 workers": same}, output
    assert code == 0


MIRRORED_SUM = "return _context().all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))"
MISTAKES = {
    "nothing is averaged": {
        "horovod.py": ("hvd.allreduce(sent, op=hvd.Sum, name=name)", "sent"),
        "mirrored.py": (MIRRORED_SUM, "return list(gradients)"),
    },
    "every rank trains the whole batch": {
        "horovod.py": ("make_dataset(self.rank, self.world_size, 1)", "make_dataset(0, 1, 1)"),
        "mirrored.py": (
            "make_dataset(self.rank, self.world_size, self.local_replicas)",
            "make_dataset(0, 1, 1)",
        ),
    },
    "the chief's values are not sent": {
        "horovod.py": ("hvd.broadcast_variables(variables, root_rank=0)", "pass"),
    },
}


@pytest.fixture(scope="module")
def proof(tmp_path_factory):
    """The settings of the proof, and what one worker trains with them, as `vit doctor` does it."""
    folder = tmp_path_factory.mktemp("proof")
    config, alone = load_config(find_recipe("digits"), [SMALL]), Run("single", 1)
    norms = _train(parity_config(config, None), alone, folder).curves["gradient_norm"]
    settings = parity_config(config, float(np.median(norms)))
    return settings, _train(settings, alone, folder)


@pytest.mark.processes
@needs_horovod
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_broken_runtime_does_not_pass(proof, tmp_path, monkeypatch, mistake):
    for package in ("pipeline", "jobs"):
        shutil.copytree(ROOT / package, tmp_path / package)
    for name, (right, wrong) in MISTAKES[mistake].items():
        file = tmp_path / "pipeline/runtimes" / name
        text = file.read_text()
        assert text.count(right) == 1
        file.write_text(text.replace(right, wrong))
    runtimes = [name.removesuffix(".py") for name in MISTAKES[mistake]]
    if mistake == "nothing is averaged":
        code, verdicts, output = parity(",".join(runtimes), root=tmp_path)
        assert verdicts == {f"{name}, 2 workers": ["DIFFERENT"] for name in runtimes}, output
        assert code == 1
        return
    config, reference = proof
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # else the current folder comes first
    for name in runtimes:
        assert not compare(_train(config, Run(name, 2), tmp_path), reference).is_same, name


def trace(**changes):
    """A trace of two tensors, changed."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(3, 4)).astype(np.float32) for name in ("model/a", "model/b")}
    weights["model/attention/key/bias"] = np.zeros(4, np.float32)
    curves = {"loss": np.linspace(2, 1, 20), "gradient_norm": np.full(20, 3.0)}
    curves["examples"] = np.full(20, 96.0)
    return ParityResult(
        weights | changes.get("weights", {}), curves | changes.get("curves", {}), 0.0
    )


def test_the_measure_is_the_largest_difference_over_the_largest_weight():
    reference = trace()
    ours = reference.weights["model/b"].copy()
    ours[1, 2] += 0.01
    tensor, worst, whole = compare_weights(
        trace(weights={"model/b": ours}).weights, reference.weights
    )
    assert tensor == "model/b"
    assert worst == pytest.approx(0.01 / np.abs(reference.weights["model/b"]).max(), rel=1e-4)
    both = np.concatenate([reference.weights["model/a"], reference.weights["model/b"]])
    assert whole == pytest.approx(0.01 / np.linalg.norm(both), rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": {"model/a": np.full((3, 4), np.nan, np.float32)}},
        {"curves": {"loss": np.linspace(2, 1.001, 20)}},
        {"curves": {"gradient_norm": np.full(20, 6.0)}},
        {"curves": {"examples": np.full(20, 192.0)}},
    ],
)
def test_any_difference_is_detected(changes):
    assert compare(trace(), trace()).is_same
    assert not compare(trace(**changes), trace()).is_same


def test_key_biases_are_ignored():
    changed = trace(weights={"model/attention/key/bias": np.ones(4, np.float32)})
    assert compare(changed, trace()).is_same


def test_ranks_that_differ_do_not_pass():
    ours = trace()
    assert not compare(ParityResult(ours.weights, ours.curves, 1e-3), trace()).is_same


def test_a_trace_survives_its_file(tmp_path):
    ours = trace(curves={"loss": np.arange(60.0).reshape(20, 3).T[1]})
    ours.save(tmp_path / "trace")
    assert compare(ParityResult.load(tmp_path / "trace"), ours).loss == 0


def test_the_proof_turns_on_what_a_wrong_reduction_would_change():
    proof = parity_config(Config.model_validate({"model": {"dropout": 0.5}}), 1.5)
    assert (proof.data.label_smoothing, proof.data.mixup_alpha) == (0.1, 0.8)
    assert (proof.data.augment.flip, proof.data.augment.crop_padding) == (True, 4)
    assert (proof.model.dropout, proof.model.stochastic_depth) == (0, 0)
    assert (proof.optim.clip_norm, proof.optim.ema_momentum, proof.train.max_steps) == (
        1.5,
        0.9,
        20,
    )


def test_runs_are_every_runtime_with_every_number():
    assert read_runs("single,mirrored,horovod", "1,2") == [
        Run("mirrored", 2), Run("horovod", 1), Run("horovod", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("runtimes", "workers", "message"),
    [
        ("single", "2", "leaves nothing to compare"),
        ("mirrored", "1", "leaves nothing to compare"),
        ("tpu", "2", "--runtimes must be.*'tpu'"),
        ("horovod", "0", "--workers"),
        ("single", "a", "'a'"),
    ],
)
def test_wrong_arguments_are_explained(runtimes, workers, message):
    with pytest.raises(SettingsError, match=message):
        read_runs(runtimes, workers)

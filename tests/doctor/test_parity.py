"""`vit doctor --parity` passes only if N workers train what one worker trains."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Config, dump_config, load_config
from pipeline.doctor import parity_check
from pipeline.doctor.parity_check import compare_runs
from pipeline.doctor.parity_runs import ALONE, Run, read_runs, train
from pipeline.errors import SettingsError
from pipeline.launch.job import local_launch_command
from pipeline.recipes import find_recipe
from pipeline.training.parity import ParityResult, compare, compare_weights, parity_config
from tests.jobs.commands import shadow_modules, vit

ROOT = Path(__file__).parents[2]
# Workers differ in how they share a batch, not in how many blocks a network has.
SMALL = "model.depth=1"
# Between the gradient norms of the steps, so that some are clipped.
CLIP_NORM = 0.44
needs_horovod = pytest.mark.skipif(
    find_spec("horovod") is None, reason="Horovod is not built: make horovod"
)


@pytest.fixture
def module_path(monkeypatch):
    """Lets child processes import this repository from any folder."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="module")
def proof(tmp_path_factory):
    """The settings of the proof, and what one worker trains with them, as `vit doctor` does it."""
    folder = tmp_path_factory.mktemp("proof")
    settings = parity_config(load_config(find_recipe("digits"), [SMALL]), CLIP_NORM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        reference = ParityResult.load(train(settings, ALONE, folder))
    acts = np.sum(reference.curves["gradient_norm"] > CLIP_NORM)
    assert 5 <= acts <= 15
    return settings, reference


def verdicts(output):
    """The verdict of each row."""
    words = ("same", "DIFFERENT", "FAILED")
    rows = [line for line in output.splitlines() if " worker" in line[:24]]
    return {row[:24].strip(): [w for w in row.split() if w in words] for row in rows}


@pytest.mark.processes
@pytest.mark.usefixtures("module_path")
def test_the_doctor_compares_with_one_worker_whatever_lies_in_the_current_folder(tmp_path):
    shadow_modules(tmp_path)
    arguments = ["--parity", "--runtimes", "multi_worker", "--workers", "1"]
    done = vit("doctor", "digits", SMALL, *arguments, cwd=tmp_path)
    assert verdicts(done.stdout) == {"multi_worker, 1 worker": ["same"]}, done
    assert done.returncode == 0
    (acts,) = map(int, re.findall(r"acts in (\d+) steps", done.stdout))
    assert 5 <= acts <= 15  # the clipping norm is between the gradient norms


@pytest.mark.processes
@pytest.mark.usefixtures("module_path")
@needs_horovod
def test_every_runtime_trains_what_one_worker_trains(proof, tmp_path, capsys):
    runs = [Run("mirrored", 4), Run("multi_worker", 2), Run("horovod", 2)]
    code = compare_runs(*proof, runs, tmp_path)
    output = capsys.readouterr().out
    assert verdicts(output) == {run.title: ["same"] for run in runs}, output
    assert code == 0


@pytest.mark.processes
@pytest.mark.usefixtures("module_path")
@pytest.mark.parametrize("runtime", ["mirrored", pytest.param("horovod", marks=needs_horovod)])
def test_a_broken_runtime_does_not_pass(proof, tmp_path, monkeypatch, capsys, runtime):
    config, reference = proof
    distribute = config.distribute.model_copy(update={"runtime": runtime})
    launch = []
    if runtime == "mirrored":
        distribute = distribute.model_copy(update={"cpu_devices": 2})
    else:
        launch = local_launch_command(2, runtime)
    recipe, traces = tmp_path / "recipe.yaml", tmp_path / "traces"
    recipe.write_text(dump_config(config.model_copy(update={"distribute": distribute})))
    traces.mkdir()
    script = [sys.executable, str(Path(__file__).with_name("broken_runtimes.py"))]
    done = subprocess.run(
        [*launch, *script, str(recipe), str(traces)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    mistakes = list(traces.iterdir())
    assert len(mistakes) == (2 if runtime == "mirrored" else 3)
    for mistake in mistakes:
        monkeypatch.setattr(parity_check, "train", lambda *_, file=mistake: file)
        code = compare_runs(config, reference, [Run(runtime, 2)], tmp_path)
        output = capsys.readouterr().out
        assert verdicts(output) == {f"{runtime}, 2 workers": ["DIFFERENT"]}, (mistake, output)
        assert output.splitlines()[-1].startswith("NOT all")
        assert code == 1


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

"""`vit doctor --parity train.deterministic=true` compares the bits of all weights."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.cores import available_cores
from pipeline.doctor import exact_parity_check, parity_check
from pipeline.doctor.parity_runs import Run
from pipeline.errors import PipelineError
from pipeline.training.exact_parity import (
    ExactResult,
    first_difference,
    load_results,
    save_results,
)
from tests.jobs.commands import shadow_modules, vit
from tests.training.experiments import TINY, build, tiny_config

ROOT = Path(__file__).parents[2]
# Everything that draws random numbers, in 8 microbatches of two examples.
RANDOM = (
    "model.depth=1", "model.dropout=0.2", "model.attention_dropout=0.2",
    "model.stochastic_depth=0.2", "data.global_batch_size=16", "data.mixup_alpha=0.8",
    "train.max_steps=6",
)  # fmt: skip


@pytest.mark.processes
@pytest.mark.skipif(find_spec("horovod") is None, reason="Horovod is not built: make horovod")
def test_three_workers_train_the_bits_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "tiny.yaml").write_text(TINY)
    here = tmp_path / "here"
    here.mkdir()
    shadow_modules(here)
    done = vit(
        "doctor", tmp_path / "tiny.yaml", *RANDOM, "--parity",
        "--runtimes", "mirrored,horovod", "--workers", "3", cwd=here,
    )  # fmt: skip
    assert done.returncode == 0, done
    sha256 = sha256_of_training(tmp_path)[:12]
    headline, columns, *rows = done.stdout.splitlines()
    assert headline == (
        "first 6 steps of the recipe as it is, with 16 examples of synthetic in 8 microbatches, "
        "against one worker"
    )
    assert columns == " " * 26 + "SHA-256"
    one_core = [f"single, 1 core            {sha256}  same"] * (available_cores() > 1)
    assert rows == [
        f"single, 1 worker          {sha256}  reference",
        *one_core,
        f"mirrored, 3 workers       {sha256}  same",
        f"horovod, 3 workers        {sha256}  same",
        "all train the same bits as one worker",
    ]


def sha256_of_training(folder):
    """SHA-256 of weights and averaged weights, trained in one call in this process."""
    from pipeline.runtimes.single import SingleRuntime
    from pipeline.training.step import empty_train_sums

    experiment = build(tiny_config(folder, *RANDOM), SingleRuntime("CPU:0"))
    experiment.train(experiment.train_iterator(0), empty_train_sums(), 6)
    weights = experiment.model.get_weights()
    weights += [v.numpy() for v in experiment.optimizer.averages.values()]
    return hashlib.sha256(b"".join(w.tobytes() for w in weights)).hexdigest()


def test_dropout_that_draws_by_rank_is_detected(tmp_path, monkeypatch):
    import tensorflow as tf

    from pipeline.runtimes.single import SingleRuntime
    from pipeline.training import exact_step
    from pipeline.training.parity_training import train_for_exact_parity

    # Of a linear probe, only the classifier changes.
    config = tiny_config(tmp_path, *RANDOM, "optim.linear_probe=true")
    right = exact_step.dropout_seed

    def train_as(workers):
        def seed_by_rank(config, step, microbatch):
            rank = microbatch * workers // 8
            return right(config, step, tf.where(step < 2, microbatch, rank))

        monkeypatch.setattr(exact_step, "dropout_seed", seed_by_rank)
        return train_for_exact_parity(config, SingleRuntime("CPU:0"))

    assert first_difference([train_as(2)], train_as(1)) == "step 3, vit/head/kernel"


def result(steps=4, **changes):
    """A result of two tensors; `changes` are hashes by (step, tensor), both from 0."""
    hashes = [[f"{step}{tensor}" for tensor in range(2)] for step in range(steps)]
    losses = [(2.5 - step).hex() for step in range(steps)]
    for (step, tensor), value in changes.get("hashes", {}).items():
        hashes[step][tensor] = value
    for step, value in changes.get("losses", {}).items():
        losses[step] = value.hex()
    names = ["vit/block_0/mlp/out/kernel", "average/vit/block_0/mlp/out/kernel"]
    return ExactResult(hashlib.sha256(repr(hashes).encode()).hexdigest(), names, hashes, losses)


def test_equal_results_have_no_difference():
    assert first_difference([result(), result()], result()) is None


@pytest.mark.parametrize(
    ("ranks", "difference"),
    [
        ([{"hashes": {(2, 0): "x", (3, 0): "y"}}], "step 3, vit/block_0/mlp/out/kernel"),
        ([{"hashes": {(1, 1): "x", (2, 0): "y"}}], "step 2, average/vit/block_0/mlp/out/kernel"),
        ([{"losses": {3: 2.5 - 3 + 2**-52}}], "step 4, loss"),
        ([{"losses": {1: 9.0}, "hashes": {(1, 1): "x"}}],
         "step 2, average/vit/block_0/mlp/out/kernel"),
        ([{}, {"hashes": {(0, 0): "x"}}], "step 1, vit/block_0/mlp/out/kernel, on rank 1"),
        ([{"hashes": {(0, 0): "x"}}] * 2, "step 1, vit/block_0/mlp/out/kernel"),
        ([{"hashes": {(0, 0): "x"}}, {}, {"hashes": {(0, 0): "y"}}],
         "step 1, vit/block_0/mlp/out/kernel, on ranks 0, 2"),
    ],
)  # fmt: skip
def test_the_first_step_and_tensor_that_differ_are_named(ranks, difference):
    assert first_difference([result(**changes) for changes in ranks], result()) == difference


def test_results_survive_their_file(tmp_path):
    ours = [result(), result(losses={0: float("nan"), 1: 0.1})]
    save_results([rank.as_json() for rank in ours], tmp_path / "trace")
    assert load_results(tmp_path / "trace") == ours


DETERMINISTIC = Config.model_validate({"train": {"deterministic": True}})


def prove(monkeypatch, tmp_path, found):
    """Compares given results. `found` has the results by rank, or an error, by run."""

    def train(config, run, folder):
        ranks = found.get(run, [result()])
        if isinstance(ranks, PipelineError):
            raise ranks
        save_results([rank.as_json() for rank in ranks], tmp_path / "trace")
        return tmp_path / "trace"

    monkeypatch.setattr(exact_parity_check, "train", train)
    monkeypatch.setattr(exact_parity_check, "available_cores", lambda: 1)
    return exact_parity_check.prove_exact_parity(DETERMINISTIC, list(found), tmp_path)


def test_each_row_has_a_hash_and_a_verdict(monkeypatch, tmp_path, capsys):
    other = result(hashes={(3, 1): "x"})
    found = {Run("mirrored", 2): [result()], Run("horovod", 2): [other, other]}
    assert prove(monkeypatch, tmp_path, found) == 1
    expected, differs = result().sha256[:12], other.sha256[:12]
    difference = "step 4, average/vit/block_0/mlp/out/kernel"
    assert capsys.readouterr().out.splitlines()[2:] == [
        f"single, 1 worker          {expected}  reference",
        f"mirrored, 2 workers       {expected}  same",
        f"horovod, 2 workers        {differs}  DIFFERENT: {difference}",
        "NOT all train the same bits as one worker",
    ]


def test_a_run_that_fails_does_not_pass(monkeypatch, tmp_path, capsys):
    error = PipelineError("9 workers cannot train together")
    found = {Run("horovod", 9): error, Run("mirrored", 2): [result()]}
    assert prove(monkeypatch, tmp_path, found) == 1
    rows = capsys.readouterr().out.splitlines()[3:]
    assert rows[:2] == ["horovod, 9 workers        FAILED", "9 workers cannot train together"]
    assert rows[-1] == "NOT all train the same bits as one worker"


@pytest.mark.parametrize(("gpus", "said"), [("", False), ("0", True)])
def test_on_gpus_it_says_what_has_not_been_demonstrated(monkeypatch, tmp_path, capsys, gpus, said):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    prove(monkeypatch, tmp_path, {Run("mirrored", 2): [result()]})
    output = capsys.readouterr().out
    assert ("On GPUs nothing has been demonstrated yet" in output) == said


@pytest.mark.parametrize(("microbatches", "workers"), [(1, 1), (2, 2), (8, 2)])
def test_by_default_there_are_not_more_workers_than_microbatches(
    monkeypatch, microbatches, workers
):
    proven = []
    monkeypatch.setattr(
        parity_check, "prove_exact_parity", lambda config, runs, folder: proven.extend(runs) or 0
    )
    train = {"deterministic": True, "microbatches": microbatches}
    config = Config.model_validate({"train": train})
    assert parity_check.prove_parity(config, "multi_worker", None) == 0
    assert proven == [Run("multi_worker", workers)]

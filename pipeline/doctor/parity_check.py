"""`vit doctor RECIPE --parity`: shows that N workers train what one worker trains."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.config import Config
from pipeline.doctor.exact_parity_check import prove_exact_parity
from pipeline.doctor.parity_runs import ALONE, RUNTIMES, Run, check_horovod, read_runs, train
from pipeline.errors import PipelineError
from pipeline.training.parity import (
    STEPS,
    TOLERANCE,
    Comparison,
    ParityResult,
    compare,
    parity_config,
)

EPILOG = """\
--parity trains 20 steps of the recipe's network on its data with its batch size: first with one
worker, then on each runtime with each number of workers. It compares the final weights, the
averaged weights, the losses and the gradient norms. Clipping, weight decay, label smoothing, mixup,
augmentation, averaged weights and warm-up are enabled. Dropout and stochastic depth, which draw per
replica, are disabled. The precision is float32. A difference is max |difference| / max |weight| of
the worst tensor, without the key biases of attention, whose true gradient is zero. Exit code 0: all
differences are within 1e-5.

With train.deterministic=true, --parity trains the first 20 steps of the recipe as it is, with its
dropout, stochastic depth and precision: with one worker, with one worker on one core, and on each
runtime. It compares the SHA-256 of each weight and averaged weight, and the loss, after each step
in each process. Exit code 0: all are equal. Otherwise it names the first step and tensor that
differ.
"""


def prove_parity(config: Config, runtimes: str | None, workers: str | None) -> int:
    """Trains on each runtime, compares, and returns 0 if all train the same.

    Args:
      config: The recipe. With `train.deterministic`, all bits must be equal.
      runtimes: Names, separated by commas; None for all.
      workers: Numbers of workers, separated by commas; None for 2, or 1 if there is only one
        microbatch.

    Raises:
      SettingsError: The runtimes or workers are invalid, or Horovod is not installed.
      PipelineError: Training with one worker failed.
    """
    most = config.microbatches or 2
    runs = read_runs(runtimes or ",".join(RUNTIMES), workers or str(min(2, most)))
    check_horovod(runs)
    with tempfile.TemporaryDirectory(prefix="vit-parity-") as folder:
        if config.train.deterministic:
            return prove_exact_parity(config, runs, Path(folder))
        return _prove_parity(config, runs, Path(folder))


def _prove_parity(config: Config, runs: Sequence[Run], folder: Path) -> int:
    unclipped = ParityResult.load(train(parity_config(config, None), ALONE, folder))
    norms = unclipped.curves["gradient_norm"]
    proof = parity_config(config, float(sorted(norms)[STEPS // 2]))
    reference = ParityResult.load(train(proof, ALONE, folder))
    return compare_runs(proof, reference, runs, folder)


def compare_runs(proof: Config, reference: ParityResult, runs: Sequence[Run], folder: Path) -> int:
    """Trains each run, prints its differences to the reference, and returns the exit code.

    Args:
      proof: From `parity_config`.
      reference: What one worker trains with these settings.
      runs: The runs to compare with it.
      folder: A folder for temporary files.
    """
    acts = sum(reference.curves["gradient_norm"] > proof.optim.clip_norm)
    print(_headline(proof, STEPS, acts))
    print(f"{'':<24}{'worst tensor':>14}{'model':>10}{'losses':>10}{'norms':>10}{'ranks':>10}")
    same = True
    for run in runs:
        try:
            comparison = compare(ParityResult.load(train(proof, run, folder)), reference)
        except PipelineError as error:
            same = False
            print(f"{run.title:<24}{'FAILED':>14}\n{error}", flush=True)
        else:
            same = same and comparison.is_same
            print("\n".join(_lines(run, comparison)), flush=True)
    verdict = "all train" if same else "NOT all train"
    print(f"{verdict} what one worker trains, within {TOLERANCE:g}")
    return 0 if same else 1


def _headline(proof: Config, steps: int, acts: int) -> str:
    data, optim = proof.data, proof.optim
    return (
        f"{steps} steps of {data.global_batch_size} examples of {data.source}, against one worker\n"
        f"clipping at {optim.clip_norm:.4g} (acts in {acts} steps), weight decay "
        f"{optim.weight_decay:g}, label smoothing {data.label_smoothing:g}, mixup "
        f"{data.mixup_alpha:g}, flip, crop by {data.augment.crop_padding}, averaged weights "
        f"{optim.ema_momentum:g}, warm-up {optim.warmup_steps} steps; float32, without dropout and "
        "stochastic depth"
    )


def _lines(run: Run, c: Comparison) -> Iterator[str]:
    others = (c.whole, c.loss, c.gradient_norm, c.rank_difference)
    figures = "".join(f"{x:>10.1e}" for x in others)
    verdict = "same" if c.is_same else "DIFFERENT"
    tensor = c.tensor if any((c.worst, *others)) else "to the last bit"
    yield f"{run.title:<24}{c.worst:>14.1e}{figures}  {verdict}  {tensor}"
    if c.examples[0] != c.examples[1]:
        yield f"{'':<24}counted {c.examples[0]:g} examples a step instead of {c.examples[1]:g}"

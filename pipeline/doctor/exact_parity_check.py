"""`vit doctor RECIPE --parity train.deterministic=true`: compares all bits of the weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import Config
from pipeline.cores import available_cores
from pipeline.doctor.parity_runs import ALONE, Run, train
from pipeline.errors import PipelineError
from pipeline.runtimes.nvidia import find_gpus
from pipeline.training.exact_parity import ExactResult, first_difference, load_results

_DIGITS = 12  # of the hashes that are printed
_TITLE = 26  # width of the first column
_ON_GPUS = (
    "Equal bits have been demonstrated on CPUs, for all runtimes. On GPUs nothing has been "
    "demonstrated yet: the result below is valid for this recipe on this machine "
    "(docs/reproducibility.md)"
)


def prove_exact_parity(config: Config, runs: Sequence[Run], folder: Path) -> int:
    """Trains the recipe with one worker and each run, compares, and returns the exit code.

    Args:
      config: The recipe, with `train.deterministic`.
      runs: The runs to compare with one worker. If this machine has several cores, one worker on
        one core is added.
      folder: A folder for temporary files.

    Raises:
      PipelineError: Training with one worker failed.
    """
    (reference,) = load_results(train(config, ALONE, folder))
    print(_headline(config, len(reference.losses)))
    if find_gpus(os.environ):
        print(_ON_GPUS)
    print(f"{'':<{_TITLE}}SHA-256")
    print(_row(ALONE, reference, "reference"), flush=True)
    on_one_core = [ALONE._replace(one_core=True)] if available_cores() > 1 else []
    same = True
    for run in [*on_one_core, *runs]:
        try:
            ranks = load_results(train(config, run, folder))
        except PipelineError as error:
            same = False
            print(f"{run.title:<{_TITLE}}FAILED\n{error}", flush=True)
        else:
            difference = first_difference(ranks, reference)
            same = same and difference is None
            verdict = "same" if difference is None else f"DIFFERENT: {difference}"
            print(_row(run, ranks[0], verdict), flush=True)
    print(f"{'all' if same else 'NOT all'} train the same bits as one worker")
    return 0 if same else 1


def _headline(config: Config, steps: int) -> str:
    batch, number = config.data.global_batch_size, config.microbatches
    return (
        f"first {steps} steps of the recipe as it is, with {batch} examples of "
        f"{config.data.source} in {number} microbatch{'es' if number != 1 else ''}, against one "
        "worker"
    )


def _row(run: Run, result: ExactResult, verdict: str) -> str:
    return f"{run.title:<{_TITLE}}{result.sha256[:_DIGITS]}  {verdict}"

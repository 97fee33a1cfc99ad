"""`vit doctor RECIPE --parity`: shows that N workers train what one worker trains."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from pipeline.config import Config, dump_config
from pipeline.errors import PipelineError, SettingsError
from pipeline.launch.job import local_launch_command
from pipeline.runtimes.interpreter import python_command
from pipeline.runtimes.nvidia import find_gpus
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.storage.folders import remove_file
from pipeline.storage.write import replace_file
from pipeline.training.parity import (
    STEPS,
    TOLERANCE,
    Comparison,
    ParityResult,
    compare,
    parity_config,
)

RUNTIMES = ("single", "mirrored", "multi_worker", "horovod")

EPILOG = """\
--parity trains 20 steps of the recipe's network on its data with its batch size: first with one
worker, then on each runtime with each number of workers. It compares the final weights, the
averaged weights, the losses and the gradient norms. Clipping, weight decay, label smoothing, mixup,
augmentation, averaged weights and warm-up are enabled. Dropout and stochastic depth, which draw per
replica, are disabled. The precision is float32. A difference is max |difference| / max |weight| of
the worst tensor, without the key biases of attention, whose true gradient is zero. Exit code 0: all
differences are within 1e-5.
"""


class Run(NamedTuple):
    """One training run of the comparison."""

    runtime: str
    workers: int


def prove_parity(config: Config, runtimes: str, workers: str) -> int:
    """Trains on each runtime, compares, and returns 0 if all train the same."""
    runs = read_runs(runtimes, workers)
    _check_horovod(runs)
    with tempfile.TemporaryDirectory(prefix="vit-parity-") as folder:
        return _train_and_compare(config, runs, Path(folder))


def read_runs(runtimes: str, workers: str) -> list[Run]:
    """All combinations of runtimes and numbers of workers. `single` is always the reference.

    Raises:
      SettingsError: A runtime is unknown, or a number is invalid.
    """
    names = runtimes.split(",")
    if unknown := [name for name in names if name not in RUNTIMES]:
        raise SettingsError(
            f"--runtimes must be one or more of {', '.join(RUNTIMES)}, separated by commas. "
            f"Received: {unknown[0]!r}"
        )
    counts = workers.split(",")
    if not all(count.isdecimal() and int(count) > 0 for count in counts):
        raise SettingsError(f"--workers must be numbers such as 2 or 1,2,4. Received: {workers!r}")
    runs = [
        Run(name, int(count))
        for name in names
        for count in counts
        # Mirroring on one device is the same as `single`.
        if name != "single" and (name, int(count)) != ("mirrored", 1)
    ]
    if not runs:
        raise SettingsError(
            f"--runtimes {runtimes} with --workers {workers} leaves nothing to compare with one "
            "worker. Add a runtime, or use 2 workers"
        )
    return runs


def _check_horovod(runs: Sequence[Run]) -> None:
    if any(run.runtime == "horovod" for run in runs) and find_spec("horovod") is None:
        raise SettingsError(
            f"Horovod is not installed in {sys.prefix}. Run tools/build_horovod.sh, or give "
            "--runtimes single,mirrored,multi_worker"
        )


def trace(config: Config, path: Path) -> int:
    """Runs this process's part of one training. The chief writes the trace to `path`."""
    import_tensorflow()
    from pipeline.runtimes.agreement import check_agreement
    from pipeline.runtimes.kinds import start
    from pipeline.training.parity_training import train_for_parity

    with (
        closing(start(config.distribute, deterministic=config.train.deterministic)) as runtime,
        runtime.noticing_lost_peers(),
    ):
        check_agreement(runtime, config)
        traced = train_for_parity(config, runtime)
        if runtime.is_chief:
            traced.save(path)
        runtime.barrier()
    return 0


def _train_and_compare(config: Config, runs: Sequence[Run], folder: Path) -> int:
    alone = Run("single", 1)
    norms = _train(parity_config(config, None), alone, folder).curves["gradient_norm"]
    proof = parity_config(config, float(sorted(norms)[STEPS // 2]))
    reference = _train(proof, alone, folder)
    acts = sum(reference.curves["gradient_norm"] > proof.optim.clip_norm)
    print(_headline(proof, STEPS, acts))
    print(f"{'':<24}{'worst tensor':>14}{'model':>10}{'losses':>10}{'norms':>10}{'ranks':>10}")
    same = True
    for one in runs:
        try:
            comparison = compare(_train(proof, one, folder), reference)
        except PipelineError as error:
            same = False
            print(f"{_name(one):<24}{'FAILED':>14}\n{error}", flush=True)
        else:
            same = same and comparison.is_same
            print("\n".join(_lines(one, comparison)), flush=True)
    verdict = "all train" if same else "NOT all train"
    print(f"{verdict} what one worker trains, within {TOLERANCE:g}")
    return 0 if same else 1


def _train(config: Config, run: Run, folder: Path) -> ParityResult:
    """Trains in child processes, because each runtime must start TensorFlow differently.

    Raises:
      PipelineError: Training failed. Its exit code is kept if it is 2 or 3, and is 1 otherwise.
    """
    recipe, trace = folder / "proof.yaml", folder / "trace.safetensors"
    replace_file(recipe, dump_config(config))
    remove_file(trace)
    done = subprocess.run(
        list(_command(run, recipe, trace)),
        env=os.environ | _variables(run),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return ParityResult.load(trace)
    last = "\n".join(f"  | {line}" for line in (done.stdout + done.stderr).splitlines()[-25:])
    error = PipelineError(f"{_name(run)} ended with exit code {done.returncode}:\n{last}")
    error.exit_code = done.returncode if done.returncode in (2, 3) else 1
    raise error


def _command(run: Run, recipe: Path, trace: Path) -> Iterator[str]:
    if run.runtime in ("horovod", "multi_worker"):
        yield from local_launch_command(run.workers, run.runtime)
    yield from python_command("-m", "jobs.cli", "doctor", str(recipe), "--trace", str(trace))
    yield f"distribute.runtime={run.runtime}"
    if run.runtime == "mirrored":
        yield f"distribute.cpu_devices={run.workers}"


def _variables(run: Run) -> dict[str, str]:
    """Restricts MirroredStrategy, which uses all visible GPUs, to the number of workers."""
    gpus = find_gpus(os.environ)
    if run.runtime != "mirrored" or not gpus:
        return {}
    if len(gpus) < run.workers:
        raise SettingsError(
            f"mirrored with {run.workers} workers needs {run.workers} GPUs, but this machine has "
            f"{len(gpus)}. Give --workers {len(gpus)} or less, or set CUDA_VISIBLE_DEVICES= to use "
            "the CPU"
        )
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[: run.workers])}


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


def _name(run: Run) -> str:
    return f"{run.runtime}, {run.workers} worker{'s' if run.workers > 1 else ''}"


def _lines(run: Run, c: Comparison) -> Iterator[str]:
    others = (c.whole, c.loss, c.gradient_norm, c.rank_difference)
    figures = "".join(f"{x:>10.1e}" for x in others)
    verdict = "same" if c.is_same else "DIFFERENT"
    tensor = c.tensor if any((c.worst, *others)) else "to the last bit"
    yield f"{_name(run):<24}{c.worst:>14.1e}{figures}  {verdict}  {tensor}"
    if c.examples[0] != c.examples[1]:
        yield f"{'':<24}counted {c.examples[0]:g} examples a step instead of {c.examples[1]:g}"

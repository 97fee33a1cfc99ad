"""The training runs that `vit doctor --parity` compares, each in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from pipeline.config import Config, dump_config
from pipeline.errors import PipelineError, SettingsError
from pipeline.launch.job import local_launch_command
from pipeline.runtimes.interpreter import bare_python_command, python_command
from pipeline.runtimes.nvidia import find_gpus
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.storage.folders import remove_file
from pipeline.storage.write import replace_file

RUNTIMES = ("single", "mirrored", "multi_worker", "horovod")

_ON_ONE_CORE = """\
import os, sys
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
os.execv(sys.argv[1], sys.argv[1:])
"""


class Run(NamedTuple):
    """One training run of the comparison."""

    runtime: str
    workers: int
    one_core: bool = False

    @property
    def title(self) -> str:
        """The name of its row."""
        if self.one_core:
            return f"{self.runtime}, 1 core"
        return f"{self.runtime}, {self.workers} worker{'s' if self.workers > 1 else ''}"


ALONE = Run("single", 1)


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


def check_horovod(runs: Sequence[Run]) -> None:
    """Checks that Horovod is installed if a run needs it.

    Raises:
      SettingsError: It is not.
    """
    if any(run.runtime == "horovod" for run in runs) and find_spec("horovod") is None:
        raise SettingsError(
            f"Horovod is not installed in {sys.prefix}. Run tools/build_horovod.sh, or give "
            "--runtimes single,mirrored,multi_worker"
        )


def trace(config: Config, path: Path) -> int:
    """Runs this process's part of one training. The chief writes the trace to `path`.

    The trace is an `ExactResult` of each process with `train.deterministic`, and otherwise a
    `ParityResult`.
    """
    import_tensorflow()
    from pipeline.runtimes.agreement import check_agreement
    from pipeline.runtimes.kinds import start
    from pipeline.training.exact_parity import save_results
    from pipeline.training.parity_training import train_for_exact_parity, train_for_parity

    with (
        closing(start(config.distribute, deterministic=config.train.deterministic)) as runtime,
        runtime.noticing_lost_peers(),
    ):
        check_agreement(runtime, config)
        if config.train.deterministic:
            ranks = runtime.all_gather(train_for_exact_parity(config, runtime).as_json())
            if runtime.is_chief:
                save_results(ranks, path)
        else:
            traced = train_for_parity(config, runtime)
            if runtime.is_chief:
                traced.save(path)
        runtime.barrier()
    return 0


def train(config: Config, run: Run, folder: Path) -> Path:
    """Trains in child processes, because each runtime must start TensorFlow differently.

    Returns:
      The file of the trace. The next call with this folder replaces it.

    Raises:
      PipelineError: Training failed. Its exit code is kept if it is 2 or 3, and is 1 otherwise.
    """
    recipe, written = folder / "proof.yaml", folder / "trace"
    replace_file(recipe, dump_config(config))
    remove_file(written)
    done = subprocess.run(
        list(_command(run, recipe, written)),
        env=os.environ | _variables(run),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return written
    last = "\n".join(f"  | {line}" for line in (done.stdout + done.stderr).splitlines()[-25:])
    error = PipelineError(f"{run.title} ended with exit code {done.returncode}:\n{last}")
    error.exit_code = done.returncode if done.returncode in (2, 3) else 1
    raise error


def _command(run: Run, recipe: Path, written: Path) -> Iterator[str]:
    if run.one_core:
        yield from bare_python_command(_ON_ONE_CORE)
    if run.runtime in ("horovod", "multi_worker"):
        yield from local_launch_command(run.workers, run.runtime)
    yield from python_command("-m", "jobs.cli", "doctor", str(recipe), "--trace", str(written))
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

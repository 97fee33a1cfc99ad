"""Starts many workers of an elastic job on this machine, kills half of them at once, and shows that
the others continue and that the run ends with the bits of one undisturbed process.

    python -m tests.chaos.many_workers --workers 32

Each worker has one thread. It prints the memory of all, the time until they have joined, and the
time from the kill to the next step. The exit code is 0 only if the bits are equal.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from pipeline.errors import PipelineError
from tests.chaos.elastic_job import ElasticJob, last_row
from tests.chaos.run_under_fire import ChaosError
from tests.chaos.undisturbed import Undisturbed, digest
from tests.parallel.launches import Launches

_START_LIMIT_S = 1800.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--steps", type=int, default=120, help="of each run")
    parser.add_argument("--kill-at", type=int, default=40, help="step of the kill")
    parser.add_argument("--seed", type=int, default=0, help="selects the workers that are killed")
    arguments = parser.parse_args()
    # So that what was started is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="chaos-many-"))
    try:
        reference = Undisturbed(folder, arguments.steps, settings_of(arguments.workers))
        reference.train()
        run = run_with_half_killed(arguments, folder, reference)
        reference.compare(run)
    except (ChaosError, AssertionError, PipelineError) as error:
        print(f"FAILED: {error}\nrun folders and logs: {folder}")
        return 1
    print(f"bit-identical with one undisturbed process: SHA-256 {digest(run)}")
    shutil.rmtree(folder)
    return 0


def settings_of(workers):
    """A microbatch of one image for each worker."""
    return (
        f"train.microbatches={workers}", f"data.global_batch_size={workers}", "model.depth=1",
        "train.log_every_steps=1",
    )  # fmt: skip


def run_with_half_killed(arguments, folder, reference):
    """Trains with all workers, kills half of them at a step, and waits for the end."""
    run, launches, workers = folder / "run", Launches(), arguments.workers
    launch = [
        sys.executable, "-m", "jobs.cli", "launch", "--slots", workers, "--min-workers", 1,
        "--heartbeat-timeout-s", 60, "--",
    ]  # fmt: skip
    start_s = time.monotonic()
    try:
        job = ElasticJob(launches, folder / "run.log", [*launch, *reference.command(run)], run)
        job.wait(lambda: len(job.members) == workers, "all workers", _START_LIMIT_S)
        print(f"{workers} workers joined after {time.monotonic() - start_s:.0f} s", flush=True)
        job.wait(lambda: step_of(run) >= arguments.kill_at, "the step", _START_LIMIT_S)
        memory = sum(own_memory_mib(process) for process in job.workers().values())
        print(f"memory of all workers: {memory / 1024:.1f} GiB", flush=True)
        victims = random.Random(arguments.seed).sample(sorted(job.members), workers // 2)
        before = step_of(run)
        killed_s = job.signal(victims, signal.SIGKILL)
        job.wait(lambda: step_of(run) > before, "the next step", _START_LIMIT_S)
        seconds = time.monotonic() - killed_s
        print(f"{len(victims)} killed at step {before}: next step after {seconds:.2f} s")
        code = job.end(_START_LIMIT_S)
    finally:
        launches.clean_up()
    if code != 0:
        raise ChaosError(f"the job ended with {code}:\n{job.text[-4000:]}")
    numbers = [line for line in job.text.splitlines() if " from step " in line]
    print("\n".join(line[-100:] for line in numbers), flush=True)
    return run


def step_of(run):
    """The last step in the metrics; 0 without a row."""
    row = last_row(run)
    return 0 if row is None else row["step"]


def own_memory_mib(process):
    """Memory of a process in MiB, with its share of what it has in common with others."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    sys.exit(main())

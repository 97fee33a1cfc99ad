"""`python -m benchmarks elastic`"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import elastic_throughput
from benchmarks.command import check_counts
from benchmarks.elastic_job import Job, horovodrun_command, launch_command, train_command
from pipeline.errors import PipelineError, SettingsError

_EPILOG = """\
Trains a recipe with several workers, kills one of them, and measures how long it takes until the
next step of training is complete. These kinds are measured in turn:

  elastic   `vit launch --min-workers 1`: the others continue
  restart   without --min-workers: the job ends, and the same command is started again, as a
            scheduler would do it; it repeats the steps since its last checkpoint
  horovod   `hvd.elastic.run` and horovodrun, as in Horovod's documentation: the others restore
            the last commit; each process draws its examples at random

"lost" is the time from the kill to the first row of metrics of a later step, less the usual time
of a step. "steps repeated" were computed a second time. "examples repeated" is the number of
examples in the weights that were used before in the same epoch; others were skipped instead. For
elastic and restart, each step must have the loss of an undisturbed process, bit for bit, which
shows that none was.

--minutes measures throughput instead: a job trains undisturbed for half of this time, then with
one kill every --kill-every-s seconds, and then undisturbed for the other half. New processes
replace the killed ones. Their CPU time until they join is printed, because they share the cores
with the others.
"""
_FIRST_STEP = 30  # The kill comes in the middle between the checkpoints of steps 20 and 40.
_LAST_STEP = 70  # The steps until then are compared with an undisturbed run.
_HOROVOD_LIMIT_S = 120.0


class Loss(NamedTuple):
    """What one kill has cost.

    Attributes:
      seconds: Time from the kill to the next new step, less the usual time of a step.
      repeated_steps: Number of steps that were computed a second time.
      repeated_examples: Examples that were used twice in the epoch of the kill.
      usually_repeated: Examples that were used twice in the first epoch, without a kill.
    """

    seconds: float
    repeated_steps: int
    repeated_examples: int = 0
    usually_repeated: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("settings", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--recipe", default="digits", help="recipe (default: digits)")
    parser.add_argument("--workers", type=int, default=3, help="workers (default: 3)")
    parser.add_argument("--kills", type=int, default=5, help="kills of each kind (default: 5)")
    parser.add_argument("--kinds", default=",".join(_KINDS), help="kinds (default: all)")
    parser.add_argument(
        "--commit-every",
        type=int,
        default=10,
        metavar="STEPS",
        help="commits of kind horovod (default: 10, the example in Horovod's documentation)",
    )
    parser.add_argument("--minutes", type=float, help="measure throughput with kills this long")
    parser.add_argument(
        "--kill-every-s", type=float, default=60.0, help="time between kills (default: 60)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Measures all kinds and prints a table."""
    check_counts(arguments, workers=2, kills=1, commit_every=1)
    if arguments.minutes is not None:
        if min(arguments.minutes, arguments.kill_every_s) <= 0:
            raise SettingsError("--minutes and --kill-every-s must be positive")
        return elastic_throughput.run(arguments)
    kinds = arguments.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in _KINDS]:
        raise SettingsError(f"--kinds must be some of {','.join(_KINDS)}. Received: {unknown[0]}")
    losses: dict[str, list[Loss | None]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="vit-elastic-") as folder:
        expected = _undisturbed(arguments, Path(folder, "undisturbed"))
        for number in range(arguments.kills):
            for kind in kinds:
                place = Path(folder, f"{kind}-{number}")
                place.mkdir()
                losses[kind].append(_KINDS[kind](arguments, place, expected))
    for kind, found in losses.items():
        _print(arguments, kind, found)
    return 0


def _print(arguments: argparse.Namespace, kind: str, losses: Sequence[Loss | None]) -> None:
    known = [loss for loss in losses if loss is not None]
    facts: dict[str, Any] = {
        "kind": kind,
        "workers": arguments.workers,
        "kills": len(losses),
        "not_continued": len(losses) - len(known),
    }
    if known:
        facts |= {
            "lost_median_s": round(median(loss.seconds for loss in known), 2),
            "lost_worst_s": round(max(loss.seconds for loss in known), 2),
            "repeated_steps_median": median(loss.repeated_steps for loss in known),
            "repeated_examples_median": median(loss.repeated_examples for loss in known),
            "usually_repeated_median": median(loss.usually_repeated for loss in known),
        }
    if kind == "horovod":
        facts["commit_every"] = arguments.commit_every
    print(json.dumps(facts) if arguments.json else _line(facts), flush=True)


def _line(facts: dict[str, Any]) -> str:
    start = f"{facts['kind']:8} {facts['workers']} workers, {facts['kills']} kills: "
    if facts["not_continued"]:
        start += f"{facts['not_continued']} of them ended the job; "
    if "lost_median_s" not in facts:
        return start
    return start + (
        f"lost {facts['lost_median_s']:.2f} s (median), {facts['lost_worst_s']:.2f} s (worst); "
        f"{facts['repeated_steps_median']:g} steps repeated, "
        f"{facts['repeated_examples_median']:g} examples repeated in the epoch, "
        f"{facts['usually_repeated_median']:g} without a kill (medians)"
    )


def _undisturbed(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Returns the first rows of metrics of one process that nothing disturbs."""
    with Job(train_command(arguments, folder), folder) as job:
        job.wait_for_step(_LAST_STEP)
        return job.rows()[:_LAST_STEP]


def _compare(job: Job, expected: Sequence[dict[str, Any]]) -> None:
    """Raises PipelineError if a step has used other examples than the undisturbed process."""
    job.wait_for_step(_LAST_STEP)
    for row, other in zip(job.rows()[:_LAST_STEP], expected, strict=True):
        if any(row[key] != other[key] for key in ("step", "loss", "gradient_norm")):
            raise PipelineError(f"a step differs from the undisturbed one: {row} and {other}")


def _continue(
    arguments: argparse.Namespace, folder: Path, expected: Sequence[dict[str, Any]]
) -> Loss:
    """Kills a worker of an elastic job, which continues."""
    with Job(launch_command(arguments, folder, "--min-workers", "1"), folder) as job:
        step_s = job.train_to(_FIRST_STEP)
        start_s = job.kill()
        after = job.wait(lambda: job.step() > job.step_at_kill)
        repeated = max(0, job.step_at_kill - job.step_of_continuation())
        _compare(job, expected)
        return Loss(after - start_s - step_s, repeated)


def _restart(
    arguments: argparse.Namespace, folder: Path, expected: Sequence[dict[str, Any]]
) -> Loss:
    """Kills a worker of a job that then ends, and starts the job again."""
    command = launch_command(arguments, folder)
    with Job(command, folder) as job:
        step_s = job.train_to(_FIRST_STEP)
        start_s = job.kill()
        reached = job.step_at_kill
        job.wait_for_end()
    with Job(command, folder) as job:
        resumed = job.wait_for_resume()
        after = job.wait(lambda: job.step() > reached)
        _compare(job, expected)
        return Loss(after - start_s - step_s, reached - resumed)


def _restore(
    arguments: argparse.Namespace, folder: Path, expected: Sequence[dict[str, Any]]
) -> Loss | None:
    """Kills a process of Horovod's elastic mode. None if the others do not continue."""
    with Job(horovodrun_command(arguments, folder), folder) as job:
        # In the middle between two commits, as the other kinds between two checkpoints.
        step_s = job.train_to(_FIRST_STEP + arguments.commit_every // 2)
        start_s = job.kill()
        try:
            after = job.wait(lambda: job.step() > job.step_at_kill, _HOROVOD_LIMIT_S)
        except PipelineError:
            return None
        job.wait_for_step(_LAST_STEP)
    files = folder.glob("examples-*.jsonl")
    texts = (file.read_text().rpartition("\n")[0] for file in files)
    rows = [json.loads(line) for line in chain.from_iterable(map(str.splitlines, texts))]
    return Loss(after - start_s - step_s, *count_repeated(rows))


def count_repeated(rows: Iterable[dict[str, Any]]) -> tuple[int, int, int]:
    """Counts what processes have repeated that restored a state once.

    Args:
      rows: For each process and step, `entered` (1 before the state was restored), `step`,
        `examples`, and `of`, the number of examples of an epoch.

    Returns:
      The number of steps that were computed twice; the number of examples that were used before
      in the epoch in which the state was restored; and that number for the first epoch.
    """
    used: dict[int, dict[int, list[int]]] = {}
    size = 0
    for row in rows:
        size = row["of"]
        used.setdefault(row["step"], {}).setdefault(row["entered"], []).extend(row["examples"])
    restored = min(step for step, starts in used.items() if max(starts) > 1)
    repeated = max(step for step, starts in used.items() if min(starts) == 1) - restored + 1
    # Only the last computation of a step is in the weights.
    examples = [used[step][max(used[step])] for step in sorted(used)]
    order = list(chain.from_iterable(examples))
    before = sum(map(len, examples[: restored - 1]))
    start = before - before % size
    windows = (order[start : start + size], order[:size])
    in_epoch, in_first = (len(window) - len(set(window)) for window in windows)
    return max(0, repeated), in_epoch, in_first


_KINDS: dict[str, Callable[[argparse.Namespace, Path, Sequence[dict[str, Any]]], Loss | None]] = {
    "elastic": _continue,
    "restart": _restart,
    "horovod": _restore,
}

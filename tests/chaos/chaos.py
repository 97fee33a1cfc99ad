"""Kills real runs at random moments, and shows that they end as if nothing had happened.

    python -m tests.chaos.chaos --kills-single 100 --kills-two-ranks 20 --seed 0

Each `vit train digits` is started, killed by SIGKILL and started again by the same command, so many
times; a third of the kills come while a checkpoint is being written, a sixth while it starts. At
its end, its weights must be those of a run that was left alone, bit for bit, and its rows the same.
The exit code is 0 only where all held. It takes some 15 s a kill, and as many undisturbed steps.
"""

import argparse
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import PipelineError
from tests.chaos.run_under_fire import ChaosError, Part
from tests.parallel.launches import Launches
from tests.parallel.trainings import different_tensors, newest, read_rows, same_values


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills-single", type=int, default=100, help="of one process")
    parser.add_argument("--kills-two-ranks", type=int, default=20, help="of a job of two ranks")
    parser.add_argument("--steps-per-kill", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--keep", action="store_true", help="keep run folders and logs")
    arguments = parser.parse_args()
    # So that what was started is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    results = []
    for name, ranks, kills in (
        ("single", 1, arguments.kills_single),
        ("two ranks", 2, arguments.kills_two_ranks),
    ):
        if kills:
            steps = (kills + 2) * arguments.steps_per_kill
            part = Part(name, Launches(), folder, ranks, kills, steps, arguments.seed)
            results.append((part, *check(part)))
    print_summary(results)
    held = all(problem is None for _, _, problem in results)
    if held and not arguments.keep:
        shutil.rmtree(folder)
    else:
        print(f"run folders and logs: {folder}")
    return 0 if held else 1


def check(part):
    """Seconds it took, and what did not hold; None where all did."""
    start_s = time.monotonic()
    problem = None
    try:
        if part.ranks > 1 and find_spec("horovod") is None:
            raise ChaosError("Horovod is not built: make horovod")
        part.run_undisturbed()
        part.kill_again_and_again()
        compare(part)
    except (ChaosError, AssertionError, PipelineError, subprocess.TimeoutExpired) as error:
        problem = str(error)
        print(f"{part.name}: {problem}", flush=True)
    finally:
        part.launches.clean_up()
    return time.monotonic() - start_s, problem


def compare(part):
    """Raises where the run did not end as the undisturbed one."""
    ours, theirs = newest(part.run), newest(part.undisturbed)
    if ours.step != part.steps or theirs.step != part.steps:
        raise ChaosError(f"they end at steps {ours.step} and {theirs.step}, not {part.steps}")
    if different := different_tensors(ours, theirs):
        raise ChaosError(f"tensors that are not equal bit for bit: {', '.join(different)}")
    rows, expected = read_rows(part.run), read_rows(part.undisturbed)
    places = [(row["step"], row["split"]) for row in rows]
    if len(set(places)) != len(places):
        raise ChaosError("metrics.jsonl has a step and split twice")
    if places != [(row["step"], row["split"]) for row in expected]:
        raise ChaosError("metrics.jsonl has other steps than the undisturbed run's")
    for row, other in zip(rows, expected, strict=True):
        if not (row == other if part.ranks == 1 else same_values(row, other)):
            raise ChaosError(f"rows differ:\n  {row}\n  {other}")


def print_summary(results):
    table = []
    for part, seconds, problem in results:
        lost = part.lost_steps
        facts = {
            "kills": sum(n for k, n in part.counts.items() if k.startswith("killed while")),
            **{f"  while {moment}": part.counts[f"killed while {moment}"]
               for moment in ("starting", "training", "writing")},
            "half-written checkpoints met": part.counts["a half-written checkpoint was there"],
            "starts that went on": part.counts["went on from a checkpoint"],
            "rows to repeat, in steps, mean": f"{statistics.mean(lost):.0f}" if lost else "-",
            "steps of the run": part.steps,
            "minutes": f"{seconds / 60:.1f}",
            "all held": "yes" if problem is None else "NO",
        }  # fmt: skip
        table.append((part.name, facts))
    print("\n" + " " * 32 + "".join(f"{name:>12}" for name, _ in table))
    for key in table[0][1] if table else ():
        print(f"{key:<32}" + "".join(f"{facts[key]!s:>12}" for _, facts in table))
    for part, _, problem in results:
        if problem is None:
            print(f"{part.name}: weights, optimizer and averages equal bit for bit, each row once, "
                  "every checkpoint whole after each kill, nothing left behind")  # fmt: skip
        else:
            print(f"{part.name}: FAILED: {problem.splitlines()[0]}")


if __name__ == "__main__":
    sys.exit(main())

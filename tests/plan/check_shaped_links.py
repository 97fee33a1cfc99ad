"""Real workers on links of known bandwidth, compared with the prediction of the plan.

    python -m tests.plan.check_shaped_links --workers 2,4,8 --mbit 200,500,1000

Each worker is a process on a host of its own (a network namespace) that Horovod joins; `tc tbf`
shapes the links. The model is given what a step takes where as many workers know nothing of each
other, the gradients' size and the bandwidth, and predicts the step; the exit code is 0 where every
prediction is within --tolerance of the measured median.

What a worker does until it has gradients is one of two, of --compute. "network": it trains the
network for CIFAR, on a core of its own. Workers that share a core wait for each other, which the
model does not know: they are left out, unless --compute is "network" alone. "waits": it waits as
long as a step is to take, as the host of a GPU does, and the cores are left to the sums.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
from itertools import product
from pathlib import Path

from pipeline.config import dump_config, load_config
from pipeline.plan.hardware import Links
from pipeline.plan.predict import Work, step_time
from pipeline.recipes import find_recipe
from tests.parallel.hosts import vit, why_not
from tests.plan.links import Switch

# Of Ethernet frames of 1,514 bytes, 1,448 are payload of TCP; tbf counts the headers.
PAYLOAD = 1448 / 1514
# The network for CIFAR: 2.7 million parameters in nine blocks.
PARAMETERS, DEPTH = 2_697_610, 9
HEADER = (
    f"{'compute':<9}{'workers':>7}{'Mbit/s':>8}{'apart ms':>10}{'predicted ms':>14}"
    f"{'measured ms':>13}{'off by':>9}{'all-reduce ms':>15}{'measured':>10}"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compute", default="network,waits",
                        choices=["network,waits", "network", "waits"])  # fmt: skip
    parser.add_argument("--workers", default="2,4,8")
    parser.add_argument("--mbit", default="200,500,1000")
    parser.add_argument("--batch", type=int, default=32, help="images a worker")
    parser.add_argument("--wait-s", type=float, default=0.5, help="of a step that waits")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--tolerance", type=float, default=0.15)
    given = parser.parse_args()
    if reason := why_not():
        print(f"no hosts can be made here: {reason}", file=sys.stderr)
        return 2
    print(HEADER)
    worst, cores = 0.0, len(os.sched_getaffinity(0))
    for compute, workers in product(given.compute.split(","), map(int, given.workers.split(","))):
        if compute == "network" and workers > cores and given.compute != "network":
            print(f"{compute:<9}{workers:>7}   left out: they would share {cores} cores")
            continue
        with closing(Switch(workers)) as switch:
            for mbit in map(float, given.mbit.split(",")):
                switch.shape(mbit * 1e6)
                worst = max(worst, compare(switch, mbit, compute, given))
    print(f"the worst prediction is off by {worst:.1%}, allowed are {given.tolerance:.0%}")
    return 0 if worst <= given.tolerance else 1


def compare(switch, mbit, compute, given):
    """Prints a line. Returns the relative error of the prediction."""
    workers, cores = len(switch.names), sorted(os.sched_getaffinity(0))
    own = [cores[i % len(cores)] for i in range(workers)]
    # Before and after: this machine is not equally fast from minute to minute.
    before_s = measure_apart(compute, given, own)
    found = measure_together(switch, compute, given, own)
    apart_s = (before_s + measure_apart(compute, given, own)) / 2
    measured_s = workers * given.batch / found["images_per_second"]
    work = Work(
        global_batch_size=workers * given.batch,
        image_s=apart_s / given.batch,
        part_kernels_s=0.0,
        update_kernels_s=0.0,
        gradient_bytes=4 * PARAMETERS,
        last_fraction=1 / (DEPTH + 1),
        wake_s=10e-3,  # half of the cycle that the pipeline gives Horovod on the CPU
    )
    links = Links(1, mbit * 1e6 / 8 * PAYLOAD, 1e-4, hierarchical=False)
    step = step_time(workers, work, links)
    off = step.total_s / measured_s - 1
    print(
        f"{compute:<9}{workers:>7}{mbit:>8.0f}{1e3 * apart_s:>10.0f}{1e3 * step.total_s:>14.0f}"
        f"{1e3 * measured_s:>13.0f}{off:>9.1%}{1e3 * step.all_reduce_s:>15.0f}"
        f"{found['reduction_ms']:>10.0f}",
        flush=True,
    )
    return abs(off)


def measure_apart(compute, given, own):
    """Seconds per step of one worker among as many independent ones."""
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in own]
        started = [
            subprocess.Popen(rank_command(folder, "single", compute, given, 1, [core]))
            for folder, core in zip(folders, own, strict=True)
        ]
        codes = [process.wait() for process in started]
        if any(codes):
            raise RuntimeError("a worker by itself has failed")
        rates = [json.loads((f / "result.json").read_text())["images_per_second"] for f in folders]
    return given.batch * len(rates) / sum(rates)


def measure_together(switch, compute, given, own):
    """Starts a worker on each host, each on its own core."""
    with tempfile.TemporaryDirectory() as folder:
        workers = len(switch.names)
        rank = rank_command(Path(folder), "horovod", compute, given, workers, own)
        launch = ["launch", "--hosts", ",".join(switch.names), "--processes-per-node", "1"]
        launchers = [
            switch.start(i, *vit(*launch, "--runtime", "horovod", "--index", i, "--", *rank))
            for i in range(workers)
        ]
        outputs = [launcher.communicate()[0] for launcher in launchers]
        if any(launcher.returncode for launcher in launchers):
            raise RuntimeError("\n".join(outputs))
        return json.loads((Path(folder) / "result.json").read_text())


def rank_command(folder, runtime, compute, given, workers, cores):
    """The command of one process, which writes what it has measured to the folder."""
    images = workers * given.batch
    config = load_config(
        find_recipe("cifar10"),
        ["data.source=synthetic", f"data.global_batch_size={images}", "data.threads=1",
         f"data.num_examples={8 * images}", f"distribute.runtime={runtime}",
         "distribute.intra_op_threads=1"],
    )  # fmt: skip
    recipe = folder / "recipe.yaml"
    recipe.write_text(dump_config(config))
    module, last = {
        "network": ("benchmarks.scaling_rank", ",".join(map(str, cores))),
        "waits": ("tests.plan.waiting_rank", str(given.wait_s)),
    }[compute]
    numbers = [str(given.rounds), str(given.steps), last]
    return [sys.executable, "-m", module, str(recipe), str(folder / "result.json"), *numbers]


if __name__ == "__main__":
    sys.exit(main())

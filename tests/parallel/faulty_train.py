"""`vit train` with a fault in one rank: python faulty_train.py RANK FAULT WHERE RECIPE ...

FAULT: raise, or kill (itself, by SIGKILL). WHERE: build (before the first step), or train (after
the first stretch of steps). It prints "fault at SECONDS_SINCE_1970" first.
"""

import os
import signal
import sys
import time

from jobs.cli import run_process
from pipeline.runtimes.environment import find_place

rank, fault, where, *rest = sys.argv[1:]


def break_down() -> None:
    print(f"fault at {time.time()}", flush=True)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise RuntimeError("this rank is on fire")


if find_place(os.environ).rank == int(rank):
    from pipeline.training import assembly
    from pipeline.training.experiment import Experiment

    if where == "build":
        assembly.build = lambda *_, **__: break_down()
    else:
        train, calls = Experiment.train, []

        def train_then_break_down(*arguments):
            calls.append(arguments)
            return train(*arguments) if len(calls) == 1 else break_down()

        Experiment.train = train_then_break_down

run_process(["train", *rest])

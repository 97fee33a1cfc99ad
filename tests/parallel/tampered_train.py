"""`vit train` with what goes wrong in clusters: python tampered_train.py WHAT RECIPE ...

WHAT is one or several of these with commas between them, each for all ranks or, as in `hang=3@1`,
for one:

  slow=SECONDS             each stretch of steps is one step, and takes so long
  slow_evaluation=SECONDS  each stretch of an evaluation is one batch, and takes so long
  slow_save=SECONDS        writing stands still so long after a checkpoint's first file
  hang=N                   the Nth stretch of steps never ends
  cpu=FLAG                 the CPU has these instructions alone
  poison=N                 from the data of step N on, the last image of each batch is NaN
"""

import os
import sys
import time

import numpy as np

from jobs.cli import run_process
from pipeline.runtimes.environment import find_place


def slow(seconds: str) -> None:
    from pipeline.training.experiment import Experiment

    train = Experiment.train

    def one_slow_step(self, iterator, sums, steps, bad_steps=0):
        print("a step", flush=True)
        time.sleep(float(seconds))
        return train(self, iterator, sums, 1, bad_steps)

    Experiment.train = one_slow_step


def slow_evaluation(seconds: str) -> None:
    from pipeline.training.experiment import Experiment

    evaluate = Experiment.evaluate

    def slowly(self, split, next_steps):
        def one_slow_batch() -> int:
            print(f"a batch of {split}", flush=True)
            time.sleep(float(seconds))
            return min(1, next_steps())

        return evaluate(self, split, one_slow_batch)

    Experiment.evaluate = slowly


def slow_save(seconds: str) -> None:
    from pipeline.runs.checkpoints import store

    save_file = store.save_file

    def save_and_wait(arrays, path):
        save_file(arrays, path)
        if path.name == "model.safetensors":
            print(f"writes {path.parent.resolve().name}", flush=True)
            time.sleep(float(seconds))

    store.save_file = save_and_wait


def hang(stretch: str) -> None:
    from pipeline.training.experiment import Experiment

    train, calls = Experiment.train, []

    def stand_still(self, *arguments):
        calls.append(arguments)
        while len(calls) >= int(stretch):
            time.sleep(60)
        return train(self, *arguments)

    Experiment.train = stand_still


def cpu(flag: str) -> None:
    from pipeline.runtimes import bfloat16

    bfloat16._read = lambda _: f"flags : {flag}\n"


def poison(first_step: str) -> None:
    import tensorflow as tf

    from pipeline.training import experiment

    train_dataset = experiment.train_dataset

    def poisoned(*arguments, start_step, **rest):
        def spoil(number, batch):
            image, weight = batch["image"], batch["weight"]  # with or without microbatches
            last = tf.range(tf.size(weight)) == tf.size(weight) - 1
            bad = last & (start_step + number >= int(first_step))
            wrong = tf.reshape(tf.where(bad, np.nan, 0.0), tf.shape(weight))
            return batch | {"image": image + wrong[..., None, None, None]}

        return train_dataset(*arguments, start_step=start_step, **rest).enumerate().map(spoil)

    experiment.train_dataset = poisoned


def tamper(what: str) -> None:
    for one in what.split(","):
        action, _, rank = one.partition("@")
        name, _, value = action.partition("=")
        if not rank or find_place(os.environ).rank == int(rank):
            actions = (slow, slow_evaluation, slow_save, hang, cpu, poison)
            {function.__name__: function for function in actions}[name](value)


def tamper_when_tensorflow_is_there(what: str) -> None:
    """Not earlier: `vit train` receives signals while it imports TensorFlow, and so must this."""
    from pipeline.api import training as train

    import_tensorflow = train.import_tensorflow

    def import_and_tamper() -> None:
        import_tensorflow()
        tamper(what)

    train.import_tensorflow = import_and_tamper


tamper_when_tensorflow_is_there(sys.argv[1])
run_process(["train", *sys.argv[2:]])

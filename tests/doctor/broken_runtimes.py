"""Trains for `vit doctor --parity` on a runtime with one mistake after another.

Started as `python broken_runtimes.py RECIPE FOLDER`, under `vit launch` for Horovod. It writes one
trace for each mistake. All mistakes share a process, because TensorFlow takes seconds to import.
"""

import sys
from contextlib import closing
from pathlib import Path
from unittest import mock

from pipeline.config import load_config
from pipeline.runtimes.tensorflow_start import import_tensorflow


def sum_nothing(self, gradients, name="gradient"):
    return list(gradients)


def whole_batch(distribute):
    """Gives every replica the whole batch."""
    return lambda self, make_dataset: distribute(self, lambda *place: make_dataset(0, 1, 1))


def mistakes(runtime):
    """{name: (method, replacement)} for a class of runtimes."""
    found = {
        "nothing is summed": ("sum_gradients", sum_nothing),
        "every replica trains the whole batch": ("distribute", whole_batch(runtime.distribute)),
    }
    if runtime.name == "horovod":
        found["the chief's values are not sent"] = ("broadcast", lambda self, variables, root: None)
    return found


def main(recipe, folder):
    """Trains with each mistake."""
    import_tensorflow()
    from pipeline.runtimes.kinds import start
    from pipeline.training.parity_training import train_for_parity

    config = load_config(recipe, [])
    with closing(start(config.distribute)) as runtime:
        kind = type(runtime)
        for mistake, (method, replacement) in mistakes(kind).items():
            with mock.patch.object(kind, method, replacement):
                traced = train_for_parity(config, runtime)
            if runtime.is_chief:
                traced.save(folder / mistake)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

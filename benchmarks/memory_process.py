"""A child process of the memory benchmark: RECIPE STEPS [section.key=value ...].

Prints one JSON object: the peak memory that training added, the estimate, and the speed.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import load_config
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.strict_json import to_json

_MIB = 2**20


def main(arguments: Sequence[str]) -> None:
    """Trains and prints the measurements."""
    recipe, steps, *settings = arguments
    config = load_config(recipe, ["distribute.runtime=single", "data.source=synthetic",
                                  "data.resize=none", "data.augment.resized_crop_min_area=null",
                                  *settings])  # fmt: skip
    import_tensorflow()
    import tensorflow as tf

    from pipeline.model.memory import LIBRARIES
    from pipeline.runtimes.kinds import start
    from pipeline.training.assembly import build
    from pipeline.training.memory import memory_of
    from pipeline.training.step import empty_train_sums

    if tf.config.list_physical_devices("GPU") and config.train.xla == "auto":
        train = config.train.model_copy(
            update={"xla": "never"}
        )  # "auto" tries both, which takes more memory.
        config = config.model_copy(update={"train": train})
    runtime = start(config.distribute, deterministic=config.train.deterministic)
    # The first computation starts TensorFlow's threads and loads its libraries.
    tf.reduce_sum(tf.matmul(tf.ones([512, 512]), tf.ones([512, 512]))).numpy()
    before = _resident_bytes()
    experiment = build(config, runtime)
    iterator = iter(tf.data.Dataset.from_tensors(next(experiment.train_iterator(0))).repeat())
    experiment.train(iterator, empty_train_sums(), 2)
    start_s = time.perf_counter()
    experiment.train(iterator, empty_train_sums(), int(steps))
    seconds = time.perf_counter() - start_s
    gpus = tf.config.list_logical_devices("GPU")
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    if gpus:
        name = gpus[0].name.removeprefix("/device:")
        added = tf.config.experimental.get_memory_info(name)["peak"]
    estimated = {what: size for what, size in memory_of(experiment).items() if what != LIBRARIES}
    activations = sum(size for what, size in estimated.items() if what.startswith("activations"))
    total, kept = sum(estimated.values()), ("weights", "gradients", "AdamW", "averaged")
    print(
        to_json(
            {
                "added_mib": added / _MIB,
                "estimated_mib": total / _MIB,
                "estimated_of_measured": total / added,
                "parameters_mib": sum(
                    size for what, size in estimated.items() if what.startswith(kept)
                )
                / _MIB,
                "activations_mib": activations / _MIB,
                "images_per_second": int(steps) * config.data.global_batch_size / seconds,
            }
        ),
        flush=True,
    )


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1:])

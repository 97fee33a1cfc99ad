"""The implementations of the step benchmark, each run in a separate process.

A process can choose the number of TensorFlow's threads only once, and the choices differ.

`python -m benchmarks.step_contenders RECIPE WHO STEPS` builds the graph and prints "ready". For
each line on its standard input, it runs the steps and prints "took" and the seconds. If WHO is
"peak", it multiplies two large matrices instead, and prints FLOP/s.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.keras_example import keras_example
from pipeline.config import Config, load_config
from pipeline.errors import PipelineError
from pipeline.model.architecture import architecture
from pipeline.model.flops import flops_per_image
from pipeline.runtimes.kinds import start
from pipeline.training.assembly import build
from pipeline.training.step import empty_train_sums
from pipeline.training.step_statistics import measure_peak

Steps = Callable[[], float]  # Runs the steps and returns the seconds that they took.


def main() -> None:
    """Runs the implementation that the arguments name."""
    recipe, who, steps = sys.argv[1:]
    for gpu in tf.config.list_physical_devices("GPU"):
        # Otherwise the first process would take all memory of the GPU.
        tf.config.experimental.set_memory_growth(gpu, True)
    make = {"ours": _ours, "ours-xla": _ours_with_xla, "example": _example,
            "keras-hub": _keras_hub, "peak": _peak}[who]  # fmt: skip
    do = make(load_config(Path(recipe), []), int(steps))
    do()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(f"took {do()}", flush=True)


def contenders(case: str) -> list[str]:
    """Returns the implementations that exist for a case."""
    if case == "keras_example":
        return ["ours", "ours-xla", "example"]
    return ["ours", "ours-xla"] + ["keras-hub"] * (find_spec("keras_hub") is not None)


def flops_of(config: Config) -> float:
    """Returns the FLOPs of a training step per image: forward, and twice as many backward."""
    arch, data = architecture(config.model), config.data
    return 3 * flops_per_image(arch, data.image_size, data.num_classes)


def _peak(config: Config, steps: int) -> Steps:
    """Measures the peak in the compute dtype of the network, with all threads."""

    def do() -> float:
        peak = measure_peak(keras.DTypePolicy(config.train.precision).compute_dtype)
        if peak is None:
            raise PipelineError(
                "there is not enough memory for two large matrices to measure the peak"
            )
        return peak

    return do


def _ours(config: Config, steps: int) -> Steps:
    experiment = build(config, start(config.distribute, deterministic=config.train.deterministic))
    batch = next(experiment.train_iterator(0))
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())
    sums = empty_train_sums()

    def do() -> float:
        start_s = time.perf_counter()
        experiment.train(iterator, sums, steps)
        return time.perf_counter() - start_s

    return do


def _ours_with_xla(config: Config, steps: int) -> Steps:
    train = config.train.model_copy(update={"xla": "always"})
    return _ours(config.model_copy(update={"train": train}), steps)


def _fit(model: keras.Model, config: Config, steps: int) -> Steps:
    """Runs `model.fit` on one random batch in memory, timed from the end of the first step."""
    data = config.data
    rng = np.random.default_rng(0)
    shape = (data.global_batch_size, data.image_size, data.image_size, 3)
    images = rng.normal(size=shape).astype("float32")
    labels = rng.integers(0, data.num_classes, data.global_batch_size)
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat()
    # Keras's top-5 metric requires float32.
    logits = keras.layers.Activation("linear", dtype="float32")(model.outputs[0])
    model = keras.Model(model.inputs, logits)
    model.compile(
        optimizer=keras.optimizers.AdamW(config.optim.base_lr, weight_decay=0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(5)],
    )

    def do() -> float:
        clock = _AfterFirst()
        model.fit(batches, steps_per_epoch=1 + steps, epochs=1, verbose=0, callbacks=[clock])
        return time.perf_counter() - clock.start_s

    return do


class _AfterFirst(keras.callbacks.Callback):
    """Records the end of the first step, which excludes the preparations of `fit`."""

    start_s = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if batch == 0:
            float((logs or {})["loss"])  # Waits for the device.
            self.start_s = time.perf_counter()


def _example(config: Config, steps: int) -> Steps:
    """Trains the network of the Keras example, of Keras layers, with as many blocks as ours."""
    depth = architecture(config.model).depth
    with _policy(config.train.precision):
        model = keras_example(config.data.num_classes, config.data.image_size, depth=depth)
    return _fit(model, config, steps)


def _keras_hub(config: Config, steps: int) -> Steps:
    import keras_hub

    arch, size = architecture(config.model), config.data.image_size
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(size, size, 3),
        patch_size=arch.patch_size,
        num_layers=arch.depth,
        num_heads=arch.num_heads,
        hidden_dim=arch.width,
        mlp_dim=arch.mlp_dim,
        use_class_token=arch.pool == "token",
        dtype=config.train.precision,
    )
    model = keras_hub.models.ViTImageClassifier(
        backbone, num_classes=config.data.num_classes, dtype=config.train.precision
    )
    return _fit(model, config, steps)


@contextmanager
def _policy(name: str) -> Iterator[None]:
    """Sets Keras's dtype policy for the layers that are created in the context."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


if __name__ == "__main__":
    main()

"""Trains the Keras example as its authors do: stock layers and `model.fit`, none of our code.

It follows K. Salama's "Image classification with Vision Transformer" at keras.io: images in memory,
augmentation in the model, the last tenth of the training images held out, AdamW with a constant
learning rate, and at the end the weights with the best validation accuracy. The optimizer of the
example, AdamW of tensorflow-addons, does not multiply the weight decay by the learning rate: its
1e-4 at a learning rate of 1e-3 corresponds to 0.1 in Keras.

Usage: `keras_example_fit.py train DATA OUT --minutes 30`, and `... evaluate DATA OUT`. DATA is a
folder with train/<class>/* and test/<class>/*. OUT gets the weights after the given minutes,
counted from --start. `evaluate` prints one JSON object per line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from benchmarks.keras_example import keras_example

IMAGE_SIZE, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 72, 256, 1e-3, 0.1
BEST = "best.weights.h5"


class Clock(keras.callbacks.Callback):
    """Saves the weights after the given minutes, and ends training after the last of them."""

    def __init__(self, start_s: float, minutes: list[float], out: Path) -> None:
        super().__init__()
        self.start_s, self.minutes, self.out = start_s, sorted(minutes), out

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        while self.minutes and time.time() >= self.start_s + 60 * self.minutes[0]:
            self.model.save_weights(self.out / f"{self.minutes.pop(0):g}.weights.h5")
        if not self.minutes:
            # `stop_training` would finish and evaluate the epoch first.
            raise TimeoutError


def build(num_classes: int, images: np.ndarray) -> keras.Model:
    """Returns a model from images [B, H, W, 3] in 0..255 to logits.

    Args:
      num_classes: The number of classes.
      images: The images whose mean and variance normalize the input.
    """
    augmentation = keras.Sequential(
        [
            keras.layers.Normalization(),
            keras.layers.Resizing(IMAGE_SIZE, IMAGE_SIZE),
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(factor=0.02),
            keras.layers.RandomZoom(height_factor=0.2, width_factor=0.2),
        ],
        name="data_augmentation",
    )
    augmentation.layers[0].adapt(images)
    pixels = keras.Input(images.shape[1:])
    return keras.Model(pixels, keras_example(num_classes, IMAGE_SIZE)(augmentation(pixels)))


def compile_example(model: keras.Model) -> None:
    """Compiles the model with the optimizer, loss and metrics of the example."""
    model.compile(
        optimizer=keras.optimizers.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseTopKCategoricalAccuracy(5, name="top-5-accuracy"),
        ],
    )


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads images uint8 [N, H, W, 3] and class numbers [N], in random order."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = [
        (path, i) for i, name in enumerate(classes) for path in sorted((folder / name).iterdir())
    ]
    order = np.random.default_rng(0).permutation(len(files))
    images = [np.asarray(Image.open(files[i][0]).convert("RGB")) for i in order]
    return np.stack(images), np.array([files[i][1] for i in order])


def train(data: Path, out: Path, minutes: list[float], seed: int, start_s: float) -> None:
    """Trains until the last of the given minutes."""
    keras.utils.set_random_seed(seed)
    images, labels = read(data / "train")
    model = build(int(labels.max()) + 1, images)
    compile_example(model)
    best = keras.callbacks.ModelCheckpoint(
        out / BEST, monitor="val_accuracy", save_best_only=True, save_weights_only=True
    )
    try:
        model.fit(
            images,
            labels,
            batch_size=BATCH_SIZE,
            epochs=10_000,
            validation_split=0.1,
            callbacks=[Clock(start_s, minutes, out), best],
            verbose=2,
        )
    except TimeoutError:
        return


def evaluate(data: Path, out: Path) -> None:
    """Prints test accuracy and loss of all weights in the folder."""
    images, labels = read(data / "test")
    # The files also contain the variables of the optimizer, so a model without one reads them.
    model = build(int(labels.max()) + 1, images)
    scored = keras.Model(model.input, model.output)
    compile_example(scored)
    for file in out.glob("*.weights.h5"):
        model.load_weights(file)
        found = scored.evaluate(images, labels, batch_size=BATCH_SIZE, verbose=0, return_dict=True)
        name = file.name.removesuffix(".weights.h5")
        print(json.dumps({"weights": name, "accuracy": found["accuracy"], "loss": found["loss"]}))


def main() -> None:
    """Runs one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("train", "evaluate"))
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--minutes", default="30", help="when to save the weights; the last one ends training"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=float, default=time.time(), help="seconds since 1970")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.what == "evaluate":
        evaluate(given.data, given.out)
    else:
        minutes = [float(text) for text in given.minutes.split(",")]
        train(given.data, given.out, minutes, given.seed, given.start)


if __name__ == "__main__":
    main()

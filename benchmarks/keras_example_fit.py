"""The Keras example trained as its authors do it: stock layers and `model.fit`, nothing of ours.

After K. Salama's description at keras.io, "Image classification with Vision Transformer": images in
memory, augmentation inside the model, the last tenth of the training images held out, AdamW at a
constant rate, the weights that were best on validation at the end. Its optimizer, tfa's AdamW, does
not multiply weight decay by the learning rate: its 1e-4 at a rate of 1e-3 is 0.1 for Keras's.

As a program: `keras_example_fit.py train DATA OUT --minutes 30`, and `... evaluate DATA OUT`, where
DATA is a folder with train/<class>/* and test/<class>/*. Files of OUT: weights after some minutes,
counted from --start; what evaluation found is printed, one JSON object a line.
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
    """Keeps the weights after so many minutes, and ends training after the last of them."""

    def __init__(self, start_s: float, minutes: list[float], out: Path) -> None:
        super().__init__()
        self.start_s, self.minutes, self.out = start_s, sorted(minutes), out

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        while self.minutes and time.time() >= self.start_s + 60 * self.minutes[0]:
            self.model.save_weights(self.out / f"{self.minutes.pop(0):g}.weights.h5")
        if not self.minutes:
            # With `stop_training` the epoch would go on to its end, and be evaluated.
            raise TimeoutError


def build(num_classes: int, images: np.ndarray) -> keras.Model:
    """Images [B, H, W, 3] in 0..255 to logits; normalised as the given ones are on the whole."""
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
    """Its optimizer, loss and metrics."""
    model.compile(
        optimizer=keras.optimizers.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseTopKCategoricalAccuracy(5, name="top-5-accuracy"),
        ],
    )


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, 3] and class numbers [N], in an order that knows of no class."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = [
        (path, i) for i, name in enumerate(classes) for path in sorted((folder / name).iterdir())
    ]
    order = np.random.default_rng(0).permutation(len(files))
    images = [np.asarray(Image.open(files[i][0]).convert("RGB")) for i in order]
    return np.stack(images), np.array([files[i][1] for i in order])


def train(data: Path, out: Path, minutes: list[float], seed: int, start_s: float) -> None:
    """Trains until the last of the minutes."""
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
    # Weights are read into a model without an optimizer, since theirs are in the files as well.
    model = build(int(labels.max()) + 1, images)
    scored = keras.Model(model.input, model.output)
    compile_example(scored)
    for file in out.glob("*.weights.h5"):
        model.load_weights(file)
        found = scored.evaluate(images, labels, batch_size=BATCH_SIZE, verbose=0, return_dict=True)
        name = file.name.removesuffix(".weights.h5")
        print(json.dumps({"weights": name, "accuracy": found["accuracy"], "loss": found["loss"]}))


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("train", "evaluate"))
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", default="30", help="when to keep the weights; last: the end")
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

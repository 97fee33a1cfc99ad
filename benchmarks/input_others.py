"""Other implementations of an input stage, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from benchmarks.contenders.pillow_input import load
from benchmarks.input_stages import AUGMENT, COARSE, DECODE
from benchmarks.line import Line
from pipeline.config import DataConfig
from pipeline.data.split import Split

# Encoded images are kept in memory, so that only the work of the implementation is timed.
_KEPT = 512


def others(data: DataConfig, split: Split, ours: Sequence[Line]) -> list[Line]:
    """Returns lines that do the same work with other libraries."""
    titles = [line.title for line in ours]
    if split.images is not None:
        return _in_memory(data, split.images, titles) if data.resize == "none" else []
    contents = jpeg_contents(split)
    return [] if contents is None else _from_jpeg(data, contents, titles)


def jpeg_contents(split: Split) -> list[bytes] | None:
    """Returns the contents of up to 512 files, or None if they are not JPEGs."""
    if split.images is not None:
        return None
    kept = np.linspace(0, split.num_examples - 1, min(_KEPT, split.num_examples)).astype(int)
    contents = [split.content(index) for index in kept]
    return contents if all(content[:3] == b"\xff\xd8\xff" for content in contents) else None


def _in_memory(data: DataConfig, images: npt.NDArray[np.uint8], titles: list[str]) -> list[Line]:
    if AUGMENT not in titles:
        return []
    # On a batch, Keras chooses one crop and one list of operations for all images. That is less
    # work than ours, and faster. Applied to single images, it does the same work.
    lines = []
    with_rand_augment = bool(data.augment.rand_augment_layers)
    work = "crop, flip, RandAugment" if with_rand_augment else "crop, flip"
    for how, by_image in (("image by image", True), ("one draw a batch", False)):
        make = _keras(data, images, with_rand_augment, by_image)
        lines.append(Line(f"Keras, {how}: {work}", make, data.global_batch_size, AUGMENT))
    if not with_rand_augment:
        make = _numpy(data, images)
        lines.append(Line("NumPy: crop, flip", make, data.global_batch_size, AUGMENT))
    return lines


def _from_jpeg(data: DataConfig, contents: list[bytes], titles: list[str]) -> list[Line]:
    batch, whole = data.global_batch_size, AUGMENT if AUGMENT in titles else DECODE
    lines = [Line("tf.io.decode_jpeg alone", lambda: _decode_alone(contents, batch), batch, whole)]
    if COARSE in titles:
        again = "tf.io.decode_jpeg alone, again"
        lines.append(Line(again, lambda: _decode_alone(contents, batch), batch, COARSE))
    if data.augment.resized_crop_min_area is not None:
        lines += [
            Line("Pillow: decode, resized crop, flip, normalize",
                 lambda: _pillow(data, contents), batch, whole),
            Line("Keras: decode, resize, crop, flip, normalize",
                 lambda: _keras_from_jpeg(data, contents), batch, whole),
        ]  # fmt: skip
    elif DECODE in titles and data.resize == "none":
        lines.append(
            Line("Pillow: decode, normalize", lambda: _pillow(data, contents), batch, DECODE)
        )
    return lines


def _keras(
    data: DataConfig, images: npt.NDArray[np.uint8], with_rand_augment: bool, by_image: bool
) -> Callable[[], tf.data.Dataset]:
    size, augment = data.image_size, data.augment
    layers: list[Any] = [
        keras.layers.ZeroPadding2D(augment.crop_padding),
        keras.layers.RandomCrop(size, size),
        keras.layers.RandomFlip("horizontal"),
    ]
    if with_rand_augment:
        layers.append(
            keras.layers.RandAugment(
                num_ops=augment.rand_augment_layers, factor=augment.rand_augment_magnitude / 10
            )
        )
    layers.append(keras.layers.Rescaling(1 / 127.5, -1.0))

    def make() -> tf.data.Dataset:
        dataset = tf.data.Dataset.from_tensor_slices(images).shuffle(10_000).repeat()
        if by_image:
            dataset = dataset.map(
                lambda image: _apply(layers, image[tf.newaxis])[0], tf.data.AUTOTUNE
            )
        dataset = dataset.batch(data.global_batch_size, drop_remainder=True)
        if not by_image:
            dataset = dataset.map(lambda batch: _apply(layers, batch), tf.data.AUTOTUNE)
        return dataset.prefetch(tf.data.AUTOTUNE)

    return make


def _keras_from_jpeg(data: DataConfig, contents: list[bytes]) -> tf.data.Dataset:
    size = data.image_size
    larger = size * 8 // 7
    layers = [
        keras.layers.Resizing(larger, larger, crop_to_aspect_ratio=True, antialias=data.antialias),
        keras.layers.RandomCrop(size, size),
        keras.layers.RandomFlip("horizontal"),
        keras.layers.Rescaling(1 / 127.5, -1.0),
    ]

    def load(content: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")
        return _apply(layers, image[tf.newaxis])[0]

    dataset = tf.data.Dataset.from_tensor_slices(contents).repeat()
    dataset = dataset.map(load, tf.data.AUTOTUNE)
    return dataset.batch(data.global_batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _apply(layers: list[Any], images: tf.Tensor) -> tf.Tensor:
    values = tf.cast(images, tf.float32)
    for layer in layers:
        values = layer(values, training=True)
    return values


def _decode_alone(contents: list[bytes], batch_size: int) -> tf.data.Dataset:
    """Decodes, and returns one number per image, which avoids copying a batch of images."""

    def decode(content: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")
        return tf.shape(image)[0]

    dataset = tf.data.Dataset.from_tensor_slices(contents).repeat()
    return dataset.map(decode, tf.data.AUTOTUNE).batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _pillow(data: DataConfig, contents: list[bytes]) -> tf.data.Dataset:
    """Uses Pillow in threads of tf.data: Pillow releases the interpreter lock while it works."""
    size, min_area = data.image_size, data.augment.resized_crop_min_area

    def one(number: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        content = contents[int(number) % len(contents)]
        return load(content, size, min_area, np.random.default_rng(int(number)))

    def read(number: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(one, [number], tf.float32), [size, size, 3])

    dataset = tf.data.Dataset.range(2**62).map(read, tf.data.AUTOTUNE)
    return dataset.batch(data.global_batch_size).prefetch(tf.data.AUTOTUNE)


def _numpy(data: DataConfig, images: npt.NDArray[np.uint8]) -> Callable[[], tf.data.Dataset]:
    size, padding = data.image_size, data.augment.crop_padding

    def batches() -> Iterator[npt.NDArray[np.float32]]:
        rng = np.random.default_rng(0)
        while True:
            batch = np.empty((data.global_batch_size, size, size, 3), np.float32)
            for place, index in enumerate(rng.integers(len(images), size=len(batch))):
                padded = np.pad(images[index], ((padding,) * 2, (padding,) * 2, (0, 0)))
                top, left = rng.integers(2 * padding + 1, size=2)
                image = padded[top : top + size, left : left + size]
                batch[place] = image[:, :: rng.choice((-1, 1))]
            yield batch / 127.5 - 1.0

    spec = tf.TensorSpec([data.global_batch_size, size, size, 3], tf.float32)
    return lambda: tf.data.Dataset.from_generator(batches, output_signature=spec).prefetch(2)

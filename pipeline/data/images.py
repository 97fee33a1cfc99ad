"""Encoded images to pixels, a batch at a time, and what becomes of those that are none."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline.config import DataConfig
from pipeline.data.crop_box import centre_box, whole_box
from pipeline.data.encode import UnreadableError, read_image
from pipeline.data.preprocess import decode_box, image_size, resize_box
from pipeline.data.split import Split
from pipeline.errors import DataError

# An error that leaves a graph keeps only its text: the message travels between these marks.
_MARKS = ("<<wrong image: ", " :wrong image>>")

# Which part of each image is seen: sizes int32 [n, 2] and places in the batch [n] to boxes [n, 4].
Boxes = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class SkippedImages:
    """The images that were left out, each once, whichever thread found it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reasons: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        with self._lock:
            self._reasons.setdefault(name, reason)

    @property
    def count(self) -> int:
        return len(self._reasons)

    @property
    def paths(self) -> tuple[str, ...]:
        """Their names, sorted."""
        with self._lock:
            return tuple(sorted(self._reasons))

    @property
    def reasons(self) -> dict[str, str]:
        """What was wrong with each."""
        with self._lock:
            return dict(self._reasons)


def eval_boxes(config: DataConfig) -> Boxes:
    """What evaluation sees of an image, and training where it does not crop at random."""
    if config.resize == "crop":
        return lambda sizes, places: centre_box(sizes, config.crop_fraction)
    return lambda sizes, places: whole_box(sizes)


def load_image(content: bytes, name: str, config: DataConfig) -> npt.NDArray[np.uint8]:
    """One encoded image, decoded and resized as evaluation does it.

    Returns:
      uint8 [S, S, 3], S being data.image_size.

    Raises:
      DataError: It is no image, or of another size where data.resize is "none"; `name` is said.
    """
    boxes, size = eval_boxes(config), config.image_size
    arguments = size, config.resize, config.antialias

    def box_of(height_and_width: Sequence[int]) -> tf.Tensor:
        return boxes(tf.constant([height_and_width]), tf.constant([0]))[0]

    with tf.device("CPU:0"):
        try:
            stated = image_size(tf.constant(content))
            if int(tf.reduce_prod(tf.cast(stated, tf.int64))) <= config.max_pixels:
                return decode_box(tf.constant(content), box_of(stated), *arguments).numpy()
        except (ValueError, tf.errors.OpError):
            pass  # Pillow knows more formats, and why it is none
        try:
            image, _ = read_image(content, config.max_pixels)
        except UnreadableError as error:
            raise _unreadable(name, str(error)) from None
        _check_size(name, image, config)
        return resize_box(tf.constant(image), box_of(image.shape[:2]), *arguments).numpy()


def load_example(split: Split, index: int, config: DataConfig) -> npt.NDArray[np.uint8]:
    """As `load_image`, of a split that holds files or records."""
    try:
        content = _content(split, index)
    except UnreadableError as error:
        raise _unreadable(split.name(index), str(error)) from None
    return load_image(content, split.name(index), config)


def read_contents(
    split: Split, index: tf.Tensor, batch_size: int, config: DataConfig, parallel: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The encoded images of a batch and the sizes they state, without decoding.

    Args:
      split: Files or records.
      index: int64 [b].
      batch_size: b.
      config: The largest number of pixels that is decoded.
      parallel: Images that are looked at at a time.

    Returns:
      contents string [b], sizes int32 [b, 2]. Those that are no JPEG or PNG, cannot be read, or
      state more than data.max_pixels, have the content "" and the size 1 x 1.
    """

    def look(content: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size = image_size(content)
        fits = tf.reduce_prod(tf.cast(size, tf.int64)) <= config.max_pixels
        return tf.where(fits, content, ""), size

    default = tf.constant(""), tf.constant([1, 1])
    if split.paths is not None:
        paths = tf.gather(_path_table(split.paths), index)
        (contents, sizes), _ = _try_each(
            lambda path: look(tf.io.read_file(path)), paths, default, batch_size, parallel
        )
        return contents, sizes

    def fetch(places: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
        return np.array(split.contents(places), np.object_)

    contents = tf.ensure_shape(tf.numpy_function(fetch, [index], tf.string), [batch_size])
    (contents, sizes), _ = _try_each(look, contents, default, batch_size, parallel)
    return contents, sizes


def decode_batch(
    split: Split,
    index: tf.Tensor,
    contents: tf.Tensor,
    sizes: tf.Tensor,
    boxes: Boxes,
    batch_size: int,
    config: DataConfig,
    parallel: int,
    skipped: SkippedImages,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes and resizes a batch inside a graph, without the GIL; only what fails sees Python.

    Args:
      split: Files or records.
      index: int64 [b], which examples they are.
      contents: string [b], as `read_contents` gives them.
      sizes: int32 [b, 2], likewise.
      boxes: Which part of each image is seen.
      batch_size: b.
      config: Size, resizing, and what to do with a file that is no image.
      parallel: Images that are decoded at a time.
      skipped: Is told which were left out.

    Returns:
      images uint8 [b, S, S, 3], readable bool [b]. An image that is not readable is all zeros.

    Raises:
      tf.errors.OpError: under `bad_images_named` a DataError.
    """
    size = config.image_size

    def decode_one(content: tf.Tensor, box: tf.Tensor) -> tuple[tf.Tensor]:
        return (decode_box(content, box, size, config.resize, config.antialias),)

    everywhere = boxes(sizes, tf.range(batch_size))
    nothing = (tf.zeros([size, size, 3], tf.uint8),)
    (images,), readable = _try_each(
        decode_one, (contents, everywhere), nothing, batch_size, parallel
    )
    return tf.cond(
        tf.reduce_all(readable),
        lambda: (images, readable),
        lambda: _second_try(split, index, images, readable, boxes, config, skipped),
    )


@contextmanager
def bad_images_named() -> Iterator[None]:
    """Turns what comes out of the input graph for a bad image into an error that names it.

    Raises:
      DataError: Instead of TensorFlow's error around it. Other errors pass as they are.
    """
    try:
        yield
    except Exception as error:
        start, end = map(re.escape, _MARKS)
        found = re.search(f"{start}(.*?){end}", str(error), re.DOTALL)
        if found is None:
            raise
        raise DataError(found.group(1)) from None


# AutoGraph cannot read the source of os.fsencode, and would warn of it.
@tf.autograph.experimental.do_not_convert
def _path_table(paths: Sequence[str]) -> tf.Tensor:
    # Bytes, as the file system has them: a name need not be valid text. Eager, and captured by the
    # graph, which cannot hold a large set's names.
    with tf.init_scope(), tf.device("CPU:0"):
        return tf.constant(list(map(os.fsencode, paths)))


def _try_each(
    function: Callable[..., tuple[tf.Tensor, ...]],
    inputs: tf.Tensor | tuple[tf.Tensor, ...],
    default: tuple[tf.Tensor, ...],
    batch_size: int,
    parallel: int,
) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
    """Calls `function` on each element of a batch, and survives those where it fails.

    A graph cannot catch an error, but a tf.data pipeline can drop the elements that have one. So
    the batch runs through a pipeline of its own, each element with its place, and what comes out
    is put where it belongs. Measured on 32 px JPEGs, CPU time a file: 37 to 45 microseconds with
    an unprotected `tf.map_fn`, 55 to 64 with this and two files at a time. A photograph takes ten
    times that; and with several at a time shared storage is waited for side by side.

    Args:
      function: Of one element of each of `inputs`.
      inputs: [b, ...] each.
      default: What stands where `function` failed.
      batch_size: b.
      parallel: Elements at a time.

    Returns:
      The results, [b, ...] each, and where `function` succeeded, bool [b].
    """
    values = inputs if isinstance(inputs, tuple) else (inputs,)
    # A last element that cannot fail: `get_single_element` needs one where every other does.
    last = tuple(tf.expand_dims(value, 0) for value in (tf.constant(batch_size), *default))
    survivors = (
        tf.data.Dataset.from_tensor_slices((tf.range(batch_size), *values))
        .map(
            lambda place, *value: (place, *function(*value)),
            num_parallel_calls=parallel,
            deterministic=True,  # so that nothing need be sorted where none failed
        )
        .ignore_errors()
        .concatenate(tf.data.Dataset.from_tensor_slices(last))
        .batch(batch_size + 1)
    )
    places, *found = survivors.get_single_element()  # [n+1] each, n <= b
    count = tf.size(places)
    where = tf.fill([batch_size + 1], count - 1)  # the default, until something is found
    where = tf.tensor_scatter_nd_update(where, places[:, tf.newaxis], tf.range(count))
    where = where[:batch_size]

    def in_place(value: tf.Tensor) -> tf.Tensor:
        # Where none failed all are in order, and a gather would copy the batch for nothing.
        return tf.cond(
            count > batch_size, lambda: value[:batch_size], lambda: tf.gather(value, where)
        )

    results = (
        tf.ensure_shape(in_place(value), [batch_size, *like.shape])
        for value, like in zip(found, default, strict=True)
    )
    return tuple(results), where < count - 1


def _second_try(
    split: Split,
    index: tf.Tensor,
    images: tf.Tensor,
    readable: tf.Tensor,
    boxes: Boxes,
    config: DataConfig,
    skipped: SkippedImages,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives what TensorFlow could not read to Pillow, which knows more formats."""
    size = config.image_size

    def read(example: np.int64) -> tuple[npt.NDArray[np.uint8], np.bool_]:
        name = split.name(int(example))
        try:
            content = _content(split, int(example))
            image, _ = read_image(content, config.max_pixels)
        except UnreadableError as error:
            if config.on_bad_image == "raise":
                raise DataError(str(_unreadable(name, str(error))).join(_MARKS)) from None
            skipped.add(name, str(error))
            return np.zeros((size, size, 3), np.uint8), np.False_
        try:
            _check_size(name, image, config)
        except DataError as error:  # a wrong size is a wrong setting: it is never skipped
            raise DataError(str(error).join(_MARKS)) from None
        return image, np.True_

    def read_one(place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, good = tf.numpy_function(read, [index[place]], (tf.uint8, tf.bool))
        image = tf.ensure_shape(image, [None, None, 3])
        box = boxes(tf.shape(image)[tf.newaxis, :2], place[tf.newaxis])[0]
        box = tf.where(good, box, [0, 0, size, size])
        return resize_box(image, box, size, config.resize, config.antialias), good

    missing = tf.where(~readable)  # [m, 1]
    retried, good = tf.map_fn(
        read_one,
        tf.cast(missing[:, 0], tf.int32),
        fn_output_signature=(
            tf.TensorSpec([size, size, 3], tf.uint8),
            tf.TensorSpec([], tf.bool),
        ),
    )
    return (
        tf.tensor_scatter_nd_update(images, missing, retried),
        tf.tensor_scatter_nd_update(readable, missing, good),
    )


def _content(split: Split, example: int) -> bytes:
    try:
        return split.content(example)
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from None
    except DataError as error:
        raise UnreadableError(str(error)) from None


def _unreadable(name: str, reason: str) -> DataError:
    return DataError(
        f"cannot read the image {name}: {reason}. Replace or remove it, or set "
        "data.on_bad_image=skip"
    )


def _check_size(name: str, image: npt.NDArray[np.uint8], config: DataConfig) -> None:
    height, width = image.shape[:2]
    size = config.image_size
    if config.resize == "none" and (height, width) != (size, size):
        raise DataError(
            f"{name} has {width} x {height} pixels, but with data.resize=none every image must "
            f"have data.image_size={size} x {size}. Set data.resize=squash or data.resize=crop"
        )

"""Decodes batches of images. An unreadable image is an error or is marked as missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline.config import DataConfig
from pipeline.data.crop_box import center_box, whole_box
from pipeline.data.decode import jpeg
from pipeline.data.decode.damage import find_damaged, fit
from pipeline.data.decode.header import Headers, read_headers
from pipeline.data.decode.integrity import check_jpeg, check_png
from pipeline.data.decode.pillow_image import check_pixels, read_image, too_little_memory
from pipeline.data.decode.problems import SkippedImages
from pipeline.data.decode.try_each import try_each
from pipeline.data.decode.unreadable import UnreadableError
from pipeline.data.decode.upright import stored_boxes, stored_sizes, turn_upright
from pipeline.data.preprocess import decode_box, resize_box
from pipeline.data.split import Split
from pipeline.errors import RESIZE_IMAGES, SKIP_BAD_IMAGES, DataError
from pipeline.storage.read import ATTEMPTS, reason

# Only the text of an error leaves a graph, so the message is enclosed in these markers.
_MARKS = ("<<wrong image: ", " :wrong image>>")

# Returns crop boxes: sizes int32 [n, 2] and positions in the batch [n] -> boxes [n, 4].
Boxes = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

# Receives libjpeg's warning about an image that it repaired.
Repaired = Callable[[str], None]


def eval_boxes(config: DataConfig) -> Boxes:
    """Returns the crop boxes for evaluation, and for training without random crops."""
    if config.resize == "crop":
        return lambda sizes, places: center_box(sizes, config.crop_fraction)
    return lambda sizes, places: whole_box(sizes)


def load_image(
    content: bytes, name: str, config: DataConfig, on_repaired: Repaired | None = None
) -> npt.NDArray[np.uint8]:
    """Decodes and resizes one image exactly as evaluation does.

    Args:
      content: The encoded image.
      name: The name of the image in error messages.
      config: Size and resizing.
      on_repaired: Called if libjpeg had to repair damaged data.

    Returns:
      uint8 [S, S, 3], where S is data.image_size.

    Raises:
      DataError: It cannot be decoded, or data.resize is "none" and its size is wrong.
    """
    try:
        with tf.device("CPU:0"):
            return _load(content, name, config, on_repaired)
    except UnreadableError as error:
        raise _unreadable(name, str(error)) from None
    except MemoryError:
        raise DataError(too_little_memory(name)) from None


def load_example(
    split: Split, index: int, config: DataConfig, on_repaired: Repaired | None = None
) -> npt.NDArray[np.uint8]:
    """Like `load_image`, for an example of a split."""
    if split.images is not None:
        with tf.device("CPU:0"):
            return _resized(split.images[index], split.name(index), config)
    try:
        content = _content(split, index)
    except UnreadableError as error:
        raise _unreadable(split.name(index), str(error)) from None
    return load_image(content, split.name(index), config, on_repaired)


def read_contents(
    split: Split, index: tf.Tensor, batch_size: int, parallel: int
) -> tuple[tf.Tensor, Headers]:
    """Reads the encoded images of a batch and their headers, without decoding.

    Args:
      split: Files or records.
      index: int64 [b].
      batch_size: b.
      parallel: Number of files that are read in parallel.

    Returns:
      contents string [b], and their headers. An image that cannot be read is "", and `_read_others`
      reports the reason.
    """

    # `tf.io.read_file` is not used: it blocks on a FIFO, follows any link, and has no size limit.
    def read(places: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
        return np.array(split.contents(places, parallel), np.object_)

    contents = tf.numpy_function(read, [index], tf.string)
    contents = tf.ensure_shape(contents, [batch_size])
    return contents, Headers(*read_headers(contents))


def decode_batch(
    split: Split,
    index: tf.Tensor,
    contents: tf.Tensor,
    headers: Headers,
    due: tf.Tensor,
    boxes: Boxes,
    batch_size: int,
    config: DataConfig,
    parallel: int,
    skipped: SkippedImages,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes and resizes a batch in a graph. Only images for Pillow hold the interpreter lock.

    JPEGs are decoded by `decode/jpeg.py`, other images for TensorFlow by its operations. They also
    decode the JPEGs that remain, which need a repair or have unusual subsampling.

    Args:
      split: Files or records.
      index: int64 [b], indices of the examples.
      contents: string [b], from `read_contents`.
      headers: Likewise.
      due: bool [b], images that may need a check for damage.
      boxes: Crop boxes in the upright images.
      batch_size: b.
      config: Size, resizing, and how to handle unreadable images.
      parallel: Number of images that are decoded in parallel.
      skipped: Records images that were left out.

    Returns:
      images uint8 [b, S, S, 3] and readable bool [b]. An unreadable image is all zeros.

    Raises:
      tf.errors.OpError: An image cannot be used. `bad_images_named` turns this into a DataError.
    """
    size = config.image_size
    decode_jpegs = jpeg.make_decoder(config, skipped.states(split), parallel)

    def decode_one(content: tf.Tensor, box: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor]:
        return (decode_box(content, box, width, size, config.resize, config.antialias),)

    shown = boxes(headers.sizes, tf.range(batch_size))
    stored = stored_boxes(shown, headers.sizes, headers.orientations)
    # No decoder accepts "". So images that are not for TensorFlow fail here and are read below.
    wanted = headers.by_tensorflow & fit(headers, config.max_pixels)
    sizes = stored_sizes(headers.sizes, headers.orientations)
    images, decoded = tf.numpy_function(
        decode_jpegs, [index, contents, wanted, due, stored, sizes], (tf.uint8, tf.bool)
    )
    images = tf.ensure_shape(images, [batch_size, size, size, 3])
    decoded = tf.ensure_shape(decoded, [batch_size])

    def decode_rest() -> tuple[tf.Tensor, tf.Tensor]:
        damaged = find_damaged(
            split, index, contents, headers, due & ~decoded, config.max_pixels, parallel, skipped
        )
        rest = wanted & ~decoded & ~damaged
        (found,), good = try_each(
            decode_one,
            (tf.where(rest, contents, ""), stored, sizes[:, 1]),
            (tf.zeros([size, size, 3], tf.uint8),),
            batch_size,
            parallel,
        )
        return tf.where(rest[:, None, None, None], found, images), decoded | good

    images, decoded = tf.cond(
        tf.reduce_any(wanted & ~decoded), decode_rest, lambda: (images, decoded)
    )
    images = turn_upright(images, headers.orientations)
    return tf.cond(
        tf.reduce_all(decoded),
        lambda: (images, decoded),
        lambda: _read_others(
            split, index, contents, headers, images, decoded, boxes, config, skipped
        ),
    )


@contextmanager
def bad_images_named() -> Iterator[None]:
    """Turns an error of the input graph about a bad image into a DataError that names it.

    Raises:
      DataError: Instead of TensorFlow's error. Other errors are not changed.
    """
    try:
        yield
    except Exception as error:
        start, end = map(re.escape, _MARKS)
        found = re.search(f"{start}(.*?){end}", str(error), re.DOTALL)
        if found is None:
            raise
        raise DataError(found.group(1)) from None


def _load(
    content: bytes, name: str, config: DataConfig, on_repaired: Repaired | None
) -> npt.NDArray[np.uint8]:
    """Implements `load_image` with the functions of `decode_batch`, for a batch of one."""
    arguments = config.image_size, config.resize, config.antialias
    headers = Headers(*read_headers(tf.constant([content])))
    boxes = eval_boxes(config)
    if not bool(headers.by_tensorflow[0]):
        image, _ = read_image(content, config.max_pixels)
        return _resized(image, name, config)
    height, width = headers.sizes[0].numpy().tolist()
    check_pixels(height, width, config.max_pixels)
    warning = check_jpeg(content, config.max_pixels)
    if warning is not None and on_repaired is not None:
        on_repaired(warning)
    if config.resize == "none" and (height, width) != (config.image_size, config.image_size):
        _explain(content, name, config)
    shown = boxes(headers.sizes, tf.constant([0]))
    stored = stored_boxes(shown, headers.sizes, headers.orientations)
    sizes = stored_sizes(headers.sizes, headers.orientations)
    image = np.zeros((config.image_size, config.image_size, 3), np.uint8)
    box, whole = tuple(stored[0].numpy().tolist()), tuple(sizes[0].numpy().tolist())
    if not jpeg.decode_box(content, box, whole, image, config):
        try:
            image = decode_box(tf.constant(content), stored[0], sizes[0, 1], *arguments).numpy()
        except tf.errors.InvalidArgumentError:
            _explain(content, name, config)
    return np.asarray(turn_upright(tf.constant(image[np.newaxis]), headers.orientations)[0].numpy())


def _resized(image: npt.NDArray[np.uint8], name: str, config: DataConfig) -> npt.NDArray[np.uint8]:
    height, width = image.shape[:2]
    _check_size(name, height, width, config)
    box = eval_boxes(config)(tf.constant([[height, width]]), tf.constant([0]))[0]
    arguments = config.image_size, config.resize, config.antialias
    return np.asarray(resize_box(tf.constant(image), box, *arguments).numpy())


def _read_others(
    split: Split,
    index: tf.Tensor,
    contents: tf.Tensor,
    headers: Headers,
    images: tf.Tensor,
    decoded: tf.Tensor,
    boxes: Boxes,
    config: DataConfig,
    skipped: SkippedImages,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes images with Pillow, and reports images that TensorFlow failed to decode."""
    size = config.image_size

    def read(
        example: np.int64, content: bytes, by_tensorflow: np.bool_
    ) -> tuple[npt.NDArray[np.uint8], np.bool_]:
        name = split.name(int(example))
        try:
            if not content:
                if _content(split, int(example)):  # the choice of decoder needs its header
                    raise DataError(
                        f"{name} could not be read in {ATTEMPTS} attempts, but later it could: its "
                        "storage failed temporarily. Run the command again"
                    )
                raise UnreadableError("it is empty")
            if by_tensorflow:
                _explain(content, name, config)
            image, _ = read_image(content, config.max_pixels)
            _check_size(name, image.shape[0], image.shape[1], config)
        except UnreadableError as error:
            if config.on_bad_image == "raise":
                raise DataError(str(_unreadable(name, str(error))).join(_MARKS)) from None
            skipped.add(name, str(error))
            return np.zeros((size, size, 3), np.uint8), np.False_
        except MemoryError:
            raise DataError(too_little_memory(name).join(_MARKS)) from None
        except DataError as error:  # a wrong size or a temporary failure is never skipped
            raise DataError(str(error).join(_MARKS)) from None
        return image, np.True_

    def read_one(place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        inputs = [index[place], contents[place], headers.by_tensorflow[place]]
        image, good = tf.numpy_function(read, inputs, (tf.uint8, tf.bool))
        image = tf.ensure_shape(image, [None, None, 3])
        box = boxes(tf.shape(image)[tf.newaxis, :2], place[tf.newaxis])[0]
        box = tf.where(good, box, [0, 0, size, size])
        return resize_box(image, box, size, config.resize, config.antialias), good

    missing = tf.where(~decoded)  # [m, 1]
    found, good = tf.map_fn(
        read_one,
        tf.cast(missing[:, 0], tf.int32),
        fn_output_signature=(
            tf.TensorSpec([size, size, 3], tf.uint8),
            tf.TensorSpec([], tf.bool),
        ),
    )
    return (
        tf.tensor_scatter_nd_update(images, missing, found),
        tf.tensor_scatter_nd_update(decoded, missing, good),
    )


def _explain(content: bytes, name: str, config: DataConfig) -> NoReturn:
    """Raises an error, with Pillow's reason, for a JPEG or PNG that TensorFlow cannot decode."""
    # This may run in a thread of tf.data, where TensorFlow would otherwise use the GPU.
    with tf.device("CPU:0"):
        headers = read_headers(tf.constant([content]))
        height, width = headers.sizes[0].numpy().tolist()
    check_pixels(height, width, config.max_pixels)
    check_jpeg(content, config.max_pixels)
    read_image(content, config.max_pixels)
    check_png(content)
    _check_size(name, height, width, config)
    raise UnreadableError("it is damaged, although some programs can show it. Save it again")


def _content(split: Split, example: int) -> bytes:
    try:
        return split.content(example)
    except OSError as error:
        raise UnreadableError(reason(error)) from None
    except DataError as error:
        raise UnreadableError(str(error)) from None


def _unreadable(name: str, reason: str) -> DataError:
    return DataError(
        f"cannot read the image {name}: {reason}. Replace or remove it{SKIP_BAD_IMAGES}"
    )


def _check_size(name: str, height: int, width: int, config: DataConfig) -> None:
    size = config.image_size
    if config.resize == "none" and (height, width) != (size, size):
        raise DataError(
            f"{name} has {width} x {height} pixels, but with data.resize=none every image must "
            f"have data.image_size={size} pixels per side{RESIZE_IMAGES}"
        )

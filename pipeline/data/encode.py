"""What an image is stored as: as it came where every reader agrees on it, else as PNG."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError


class UnreadableError(Exception):
    """It is no image; the text is the reason."""


class Encoded(NamedTuple):
    """An image to be stored.

    Attributes:
      content: JPEG or PNG.
      pixels: uint8 [H, W, 3].
      converted: Whether `content` is not what came.
    """

    content: bytes
    pixels: npt.NDArray[np.uint8]
    converted: bool


def encode_image(content: bytes, max_pixels: int) -> Encoded:
    """An encoded image, decoded to its end, so that nothing damaged is stored.

    RGB and grey JPEG, and PNG of 8 bits that does not move, stay as they came. Everything else
    becomes PNG: CMYK, 16 bits, GIF, BMP, WebP, TIFF; of an animation the first frame.

    Raises:
      UnreadableError: It is none, damaged, or states more than `max_pixels`.
    """
    pixels, plain = read_image(content, max_pixels)
    return Encoded(content if plain else to_png(pixels), pixels, not plain)


def read_image(content: bytes, max_pixels: int) -> tuple[npt.NDArray[np.uint8], bool]:
    """An image of any format Pillow knows, uint8 [H, W, 3], and whether it is a plain JPEG or PNG.

    16 bits become 8, other colour spaces RGB, and of an animation the first frame is taken.

    Raises:
      UnreadableError: It is none, damaged, or states more than `max_pixels`.
    """
    if not content:
        raise UnreadableError("it is empty")
    Image.MAX_IMAGE_PIXELS = None  # `max_pixels` stands in its place
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if width * height <= max_pixels:
                plain = _is_plain(image)
                return _to_rgb(image), plain
        reason = f"it says it has {width} x {height} pixels, more than data.max_pixels={max_pixels}"
    except UnidentifiedImageError:
        reason = "it is no image of a known format"
    except Exception as error:  # damaged files raise almost anything in Pillow's readers
        reason = str(error) or repr(error)
    raise UnreadableError(reason)


def to_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """uint8 [H, W, 3] as PNG; without loss."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _is_plain(image: Image.Image) -> bool:
    if image.format in ("JPEG", "MPO"):
        return image.mode in ("RGB", "L")
    still = not getattr(image, "is_animated", False)
    return image.format == "PNG" and still and image.mode in ("RGB", "RGBA", "L", "LA", "P", "1")


def _to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip instead of scale
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., np.newaxis], 3, axis=-1)  # [H, W] -> [H, W, 3]
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))

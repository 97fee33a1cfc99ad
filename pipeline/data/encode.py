"""What an image is stored as: as it came where every reader agrees on it, else as PNG."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data.decode.integrity import check_jpeg, check_png
from pipeline.data.decode.pillow_image import PillowImage, read_image


class Encoded(NamedTuple):
    """An image to be stored.

    Attributes:
      content: JPEG or PNG.
      pixels: uint8 [H, W, 3], upright.
      converted: Whether `content` is not what came.
      warning: libjpeg's, if it repaired damaged data; else None.
    """

    content: bytes
    pixels: npt.NDArray[np.uint8]
    converted: bool
    warning: str | None = None


def encode_image(content: bytes, max_pixels: int) -> Encoded:
    """An encoded image, decoded to its end, so that nothing damaged is stored.

    RGB and grey JPEGs, and still PNGs of 8 bits, stay as they came, with their EXIF orientation,
    which is applied when they are read. Everything else becomes an upright PNG: CMYK, 16 bits, GIF,
    BMP, WebP, TIFF, AVIF, JPEG 2000; of an animation the first frame.

    Raises:
      UnreadableError: It is no image, damaged, or states more than `max_pixels`.
    """
    (pixels, plain), warning = read_whole_image(content, max_pixels)
    return Encoded(content if plain else to_png(pixels), pixels, not plain, warning)


def read_whole_image(content: bytes, max_pixels: int) -> tuple[PillowImage, str | None]:
    """Decodes an image, and refuses what training would refuse.

    Returns:
      The image, and what libjpeg repaired, as `check_jpeg` returns it.

    Raises:
      UnreadableError: As `read_image`, `check_jpeg` and `check_png`.
    """
    image = read_image(content, max_pixels)
    check_png(content)
    return image, check_jpeg(content, max_pixels) if image.plain else None


def to_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """uint8 [H, W, 3] as PNG; without loss."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()

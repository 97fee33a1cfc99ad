"""The stored form of an image: its original bytes if all decoders agree on them, otherwise PNG."""

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
      content: JPEG or PNG file.
      pixels: uint8 [H, W, 3], upright.
      converted: Whether `content` differs from the original bytes.
      warning: libjpeg's warning if it repaired damaged data, otherwise None.
    """

    content: bytes
    pixels: npt.NDArray[np.uint8]
    converted: bool
    warning: str | None = None


def encode_image(content: bytes, max_pixels: int) -> Encoded:
    """Converts an image to its stored form. It is decoded completely, so no damage is stored.

    RGB and grayscale JPEGs and non-animated 8-bit PNGs keep their original bytes and their EXIF
    orientation, which is applied on reading. All others become upright PNGs: CMYK, 16 bits, GIF,
    BMP, WebP, TIFF, AVIF and JPEG 2000. An animation is reduced to its first frame.

    Raises:
      UnreadableError: It is not an image, is damaged, or declares more than `max_pixels`.
    """
    (pixels, plain), warning = read_whole_image(content, max_pixels)
    return Encoded(content if plain else to_png(pixels), pixels, not plain, warning)


def read_whole_image(content: bytes, max_pixels: int) -> tuple[PillowImage, str | None]:
    """Decodes an image with the same checks as in training.

    Returns:
      The image, and libjpeg's warning as from `check_jpeg`.

    Raises:
      UnreadableError: As for `read_image`, `check_jpeg` and `check_png`.
    """
    image = read_image(content, max_pixels)
    check_png(content)
    return image, check_jpeg(content, max_pixels) if image.plain else None


def to_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encodes uint8 [H, W, 3] as PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()

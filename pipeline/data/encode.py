"""The stored form of an image: its original bytes if all decoders agree on them, otherwise PNG.

Images that are larger than wanted are reduced, and stored as JPEG.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data.decode.integrity import check_jpeg, check_png
from pipeline.data.decode.pillow_image import PillowImage, read_image


class Reduction(NamedTuple):
    """How large images are reduced.

    Attributes:
      max_side: Most pixels of the longer side. Smaller images are stored as they are.
      quality: Quality of the JPEGs, 1 to 100.
    """

    max_side: int
    quality: int


class Encoded(NamedTuple):
    """An image to be stored.

    Attributes:
      content: JPEG or PNG file.
      pixels: uint8 [H, W, 3], upright; of a reduced image, before it was encoded.
      converted: Whether `content` is a PNG of the original pixels.
      warning: libjpeg's warning if it repaired damaged data, otherwise None.
      reduced: Whether the image was reduced.
    """

    content: bytes
    pixels: npt.NDArray[np.uint8]
    converted: bool
    warning: str | None = None
    reduced: bool = False


def encode_image(content: bytes, max_pixels: int, reduction: Reduction | None = None) -> Encoded:
    """Converts an image to its stored form. It is decoded completely, so no damage is stored.

    RGB and grayscale JPEGs and non-animated 8-bit PNGs keep their original bytes and their EXIF
    orientation, which is applied on reading. All others become upright PNGs: CMYK, 16 bits, GIF,
    BMP, WebP, TIFF, AVIF and JPEG 2000. An animation is reduced to its first frame.

    Args:
      content: The original bytes.
      max_pixels: An image that declares more is refused.
      reduction: How large images are reduced; None keeps their size.

    Raises:
      UnreadableError: It is not an image, is damaged, or declares more than `max_pixels`.
    """
    (pixels, plain), warning = read_whole_image(content, max_pixels)
    if reduction is not None and max(pixels.shape[:2]) > reduction.max_side:
        return reduce(pixels, reduction)._replace(warning=warning)
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


def reduce(pixels: npt.NDArray[np.uint8], reduction: Reduction) -> Encoded:
    """Reduces uint8 [H, W, 3] until its longer side has `max_side` pixels, and encodes it."""
    image = Image.fromarray(pixels)
    # It keeps the proportions, and uses a reducing gap of 2: a factor of 2 or more is first
    # averaged, which has no visible effect.
    image.thumbnail((reduction.max_side,) * 2, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    # Colors keep their resolution. Photographs often have half of it, but were larger.
    image.save(stream, "JPEG", quality=reduction.quality, subsampling="4:4:4")
    return Encoded(stream.getvalue(), np.asarray(image), converted=False, reduced=True)


def to_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encodes uint8 [H, W, 3] as PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()

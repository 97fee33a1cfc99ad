"""Decodes images with Pillow to upright 8-bit RGB.

Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import io
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from pipeline.data.decode.gray_levels import gray_levels
from pipeline.data.decode.orientation import turn_pixels
from pipeline.data.decode.other_formats import other_format
from pipeline.data.decode.unreadable import UnreadableError

# Pillow uses only the plug-ins in this list. Others are unsafe: the EPS plug-in starts a program.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000")
_NAMES = "JPEG, PNG, GIF, WebP, TIFF, BMP, AVIF and JPEG 2000"

# A photograph has one scan, or about ten if it is progressive. Encoders that optimize the scan
# script use up to twenty. A scan takes a second per billion pixels.
_USUAL_SCANS = 20
_MOST_SCANNED_PIXELS = 2**32
_MOST_LAYERS = 8  # planes of a TIFF, each with its own strips
_PIXELS_AT_A_TIME = 2**22

_KNOWN_FORMATS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)


class PillowImage(NamedTuple):
    """An image that Pillow decoded.

    Attributes:
      pixels: uint8 [H, W, 3], upright.
      plain: Whether the file is an RGB or grayscale JPEG, or a non-animated 8-bit PNG.
    """

    pixels: npt.NDArray[np.uint8]
    plain: bool


def read_image(content: bytes, max_pixels: int) -> PillowImage:
    """Decodes a complete image.

    Other color spaces are converted to RGB, and transparency is dropped. Of an animation, the
    first frame is used. Values with more than 8 bits are scaled by `gray_levels`. The EXIF
    orientation is applied.

    Raises:
      UnreadableError: The format is not supported, or the image is damaged or declares more than
        `max_pixels`.
      MemoryError: There is not enough memory to decode it.
    """
    if not content:
        raise UnreadableError("it is empty")
    Image.MAX_IMAGE_PIXELS = None  # replaced by `max_pixels`
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            check_pixels(height, width, max_pixels)
            if image.format in ("JPEG", "MPO"):
                check_scans(content, height * width)
            _check_tiles(image)
            return _read(image)
    except (UnreadableError, MemoryError):  # a lack of memory is not an error of the image
        raise
    except UnidentifiedImageError:
        reason = _why_unknown(content)
    except Exception as error:  # damaged files can raise almost anything in Pillow's plug-ins
        reason = str(error) or repr(error)
    raise UnreadableError(reason)


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Raises UnreadableError if an image declares more than `max_pixels`."""
    if height * width > max_pixels:
        raise UnreadableError(
            f"it declares {width} x {height} pixels, more than data.max_pixels={max_pixels}"
        )


def too_little_memory(name: str) -> str:
    """Returns the message for a MemoryError. The image is not skipped, since it may be valid."""
    return (
        f"there is not enough memory to decode {name}, which takes about 20 bytes per pixel. "
        "Reduce data.max_pixels, so that it is refused, or data.threads, or use a machine with "
        "more memory"
    )


def check_scans(content: bytes, pixels: int) -> None:
    """Refuses a JPEG with thousands of scans, each of which covers all pixels.

    Raises:
      UnreadableError: Decoding it would take more than about ten seconds.
    """
    # Within a scan, FF is never followed by DA.
    scans = content.count(b"\xff\xda")
    if scans > _USUAL_SCANS and scans * pixels > _MOST_SCANNED_PIXELS:
        raise UnreadableError(
            f"it has {scans:,} scans of {pixels:,} pixels, which would take minutes to decode. "
            "Save it again"
        )


def _check_tiles(image: Image.Image) -> None:
    """Refuses a TIFF whose strips or tiles cover its pixels many times."""
    width, height = image.size
    tiles = getattr(image, "tile", ())
    covered = sum((x1 - x0) * (y1 - y0) for _, (x0, y0, x1, y1), *_ in tiles)
    if covered > _MOST_LAYERS * width * height:
        raise UnreadableError(f"it has {len(tiles):,} strips or tiles, more than its pixels need")


def _read(image: Image.Image) -> PillowImage:
    plain = _is_plain(image)
    image.load()
    # For TIFF, `load` has already turned the image upright and set its orientation to 1.
    orientation = _orientation(image)
    if image.mode.startswith("I") or image.mode == "F":
        levels = gray_levels(image)
        pixels = np.repeat(levels[..., np.newaxis], 3, axis=-1)  # [H, W] -> [H, W, 3]
    else:
        pixels = _rgb(image)
    return PillowImage(np.ascontiguousarray(turn_pixels(pixels, orientation)), plain)


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Converts to uint8 [H, W, 3], some rows at a time, which takes a third of the memory."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    # Pillow recommends this conversion for a palette with transparency.
    see_through = image.mode == "P" and "transparency" in image.info
    rows = max(1, _PIXELS_AT_A_TIME // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        part = image if rows >= height else image.crop((0, top, width, bottom))
        if see_through or image.mode == "RGBa":
            part = part.convert("RGBA")
        pixels[top:bottom] = np.asarray(part.convert("RGB"))
    return pixels


def _orientation(image: Image.Image) -> int:
    """Returns the orientation from EXIF. XMP, which Pillow also uses, is ignored."""
    for name in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(name, None)
    value = None
    with suppress(Exception):  # a damaged EXIF block is ignored
        value = image.getexif().get(ExifTags.Base.Orientation)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _is_plain(image: Image.Image) -> bool:
    if image.format in ("JPEG", "MPO"):
        return image.mode in ("RGB", "L")
    still = not getattr(image, "is_animated", False)
    return image.format == "PNG" and still and image.mode in ("RGB", "RGBA", "L", "LA", "P", "1")


def _why_unknown(content: bytes) -> str:
    for signature, name in _KNOWN_FORMATS:
        if content.startswith(signature):
            what = (
                "of a kind that Pillow does not support"
                if name == "TIFF"
                else "with a damaged header"
            )
            return f"it is a {name} {what}"
    other = other_format(content)
    if other is not None:
        return f"it is {other}, which is not supported. Convert it to one of {_NAMES}"
    return f"it is not an image in a supported format ({_NAMES})"

"""Sample images with which an export is verified if no data set is available."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config import DataConfig

_ORIENTATION_TAG = 0x0112

# Height and width as multiples of the input size: much larger, so that JPEGs are decoded at 1/2,
# 1/4 and 1/8; about as large; smaller; and far from square.
_SCALES = ((7.3, 9.1), (14.2, 12.6), (26.0, 25.0), (1.3, 1.7), (0.6, 0.9), (0.4, 2.7))

_JPEG_KINDS: tuple[dict[str, Any], ...] = (
    {"subsampling": 2}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True},
)  # fmt: skip
_PNG_MODES = ("RGB", "RGBA", "L", "P")
_MAX_PIXELS = 4_000_000  # larger images are skipped, for models with a large input


def sample_images(config: DataConfig) -> list[bytes]:
    """Creates JPEGs and PNGs of several kinds and sizes, equal for equal settings."""
    size, contents = config.image_size, []
    sizes = [(max(1, round(h * size)), max(1, round(w * size))) for h, w in _SCALES]
    if config.resize == "none":
        sizes = [(size, size)] * len(_JPEG_KINDS)
    most = min(config.max_pixels, _MAX_PIXELS)
    for number, (height, width) in enumerate(sizes):
        if height * width > most and config.resize != "none":
            continue
        image = _picture(height, width, number)
        exif = Image.Exif()
        exif[_ORIENTATION_TAG] = 1 + number % 8
        settings = _JPEG_KINDS[number % len(_JPEG_KINDS)]
        gray = image.convert("L")
        contents.append(_encode(image, "JPEG", quality=90, exif=exif, **settings))
        contents.append(_encode(gray, "JPEG", quality=80))
        mode = _PNG_MODES[number % len(_PNG_MODES)]
        contents.append(_encode(image.convert(mode), "PNG", exif=exif, compress_level=1))
    return contents


def _picture(height: int, width: int, seed: int) -> Image.Image:
    """Smooth random colors, without flat areas and without noise in single pixels."""
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def _encode(image: Image.Image, kind: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()

"""Shards of pixels, written by `vit prepare --raw`: NumPy files of images of one size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError
from pipeline.storage.npz import ArraysRefused, read_npy
from pipeline.storage.read import read_file, reason

SUFFIX = ".npy"

Images = npt.NDArray[np.uint8]


class PixelShard(NamedTuple):
    """A file of images.

    Attributes:
      path: The file.
      examples: Number of images.
      sha256: SHA-256 of the file, in hexadecimal.
    """

    path: Path
    examples: int
    sha256: str


def read_images(shards: Sequence[PixelShard], size: tuple[int, int]) -> Images:
    """Reads all images of a split into memory, and verifies their checksums.

    Args:
      shards: The files, in the order of the examples.
      size: Height and width of all images.

    Returns:
      uint8 [N, H, W, 3].

    Raises:
      DataError: A file cannot be read or was altered, or there is too little memory.
    """
    shape = (sum(shard.examples for shard in shards), *size, 3)
    try:
        images, first = np.empty(shape, np.uint8), 0
        for shard in shards:
            images[first : first + shard.examples] = read_shard(shard, size)
            first += shard.examples
    except (MemoryError, ValueError):  # NumPy raises ValueError for more than 2**63 bytes
        raise DataError(
            f"there is too little memory for the {np.prod(shape, dtype=float) / 1e9:,.1f} GB of "
            f"{shards[0].path.parent}. Prepare the data without --raw"
        ) from None
    return images


def read_shard(shard: PixelShard, size: tuple[int, int]) -> Images:
    """Reads one file, uint8 [n, H, W, 3]. It raises DataError as `read_images` does."""
    path = shard.path
    try:
        content = read_file(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason(error)}. Copy it again") from None
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise DataError(f"{path} was altered: its checksum is wrong. Copy it again")
    try:
        images = read_npy(content)
    except ArraysRefused as error:
        raise DataError(f"{path}: {error}. Copy it again") from None
    if images.dtype != np.uint8 or images.shape != (shard.examples, *size, 3):
        raise DataError(
            f"{path} must contain {shard.examples:,} images of {size[1]} x {size[0]} pixels. "
            f"Received: {images.dtype} with shape {images.shape}. Prepare the data again"
        )
    return images

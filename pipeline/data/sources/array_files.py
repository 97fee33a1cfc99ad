"""NumPy files of a prepared data set: labels, and the shards of pixels of `vit prepare --raw`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError
from pipeline.storage.npz import Array, ArraysRefused, read_npy
from pipeline.storage.read import read_file, reason

# End of the name of a shard of pixels.
SUFFIX = ".npy"

Images = npt.NDArray[np.uint8]


class PixelShard(NamedTuple):
    """A file of images of one size.

    Attributes:
      path: The file.
      examples: Number of images.
      sha256: SHA-256 of the file, in hexadecimal.
    """

    path: Path
    examples: int
    sha256: str


def read_images(shards: Sequence[PixelShard], size: tuple[int, int]) -> Images:
    """Reads all images of a split into memory.

    Args:
      shards: The files, in the order of the examples.
      size: Height and width of all images.

    Returns:
      uint8 [N, H, W, 3].

    Raises:
      DataError: A file cannot be read, was altered or has other images; or there is too little
        memory.
    """
    try:
        return np.concatenate([read_shard(shard, size) for shard in shards])
    except MemoryError:
        raise DataError(
            f"{shards[0].path.parent}: there is too little memory for its pixels. Prepare the data "
            "without --raw"
        ) from None


def read_shard(shard: PixelShard, size: tuple[int, int]) -> Images:
    """Reads one file, uint8 [n, H, W, 3].

    Raises:
      DataError: It cannot be read, was altered, or has other images.
    """
    images = read_array(shard.path, shard.sha256)
    if images.dtype != np.uint8 or images.shape != (shard.examples, *size, 3):
        raise DataError(
            f"{shard.path} must contain {shard.examples:,} images of {size[1]} x {size[0]} pixels. "
            f"Received: {images.dtype} with shape {images.shape}. Prepare the data again"
        )
    return images


def read_array(path: Path, sha256: str) -> Array:
    """Reads an array whose file has a known checksum.

    Raises:
      DataError: The file cannot be read or was altered.
    """
    try:
        content = read_file(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason(error)}. Copy it again") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path} was altered: its checksum is wrong. Copy it again")
    try:
        return read_npy(content)
    except ArraysRefused as error:
        raise DataError(f"{path}: {error}. Copy it again") from None

"""Writes the examples of a shard as ArrayRecord or as a NumPy file of pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from array_record.python.array_record_module import ArrayRecordWriter

from pipeline.data.encode import Encoded
from pipeline.data.sources.example import encode_example
from pipeline.errors import DataError
from pipeline.storage.write import replace_file

# One record per chunk, so that each is read separately. JPEG and PNG cannot be compressed further.
_WRITER_OPTIONS = "group_size:1,uncompressed"


class RecordWriter:
    """Writes encoded images with labels and names as records.

    Raises:
      RuntimeError: The file cannot be written, here and in the methods.
    """

    def __init__(self, path: Path) -> None:
        self._writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)

    def write(self, image: Encoded, label: int, name: str) -> None:
        """Adds an example."""
        self._writer.write(encode_example(image.content, label, os.path.basename(name)))

    def close(self) -> None:
        """Completes the file."""
        self._writer.close()


class PixelWriter:
    """Writes the pixels of images of one size as uint8 [n, H, W, 3]. Nothing else is stored."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._images: list[npt.NDArray[np.uint8]] = []

    def write(self, image: Encoded, label: int, name: str) -> None:
        """Adds an image; DataError if it does not have the size of those before."""
        pixels = image.pixels
        if self._images and pixels.shape != self._images[0].shape:
            raise different_sizes(pixels.shape, self._images[0].shape, name)
        self._images.append(pixels)

    def close(self) -> None:
        """Writes the file; OSError if that fails."""
        images = np.stack(self._images) if self._images else np.empty((0, 0, 0, 3), np.uint8)

        def save(stream: BinaryIO) -> None:
            np.save(stream, images, allow_pickle=False)

        replace_file(self._path, save)


def different_sizes(one: Sequence[int], other: Sequence[int], name: str = "an image") -> DataError:
    """The error for images of two sizes, each (H, W)."""
    return DataError(
        f"--raw needs images of one size, but {name} has {one[1]} x {one[0]} pixels and another "
        f"one {other[1]} x {other[0]}. Leave out --raw"
    )

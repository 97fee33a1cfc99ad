"""Encoded images in shards, read by index from many files in parallel."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.data.sources.example import bytes_feature
from pipeline.errors import DataError

# Number of threads that fetch records: enough to hide the latency of shared storage.
_READERS = 16
# Upper bound for the open files of a process besides its shards.
_OTHER_FILES = 256


class ShardReader(Protocol):
    """An open file of records."""

    def read(self, place: int) -> bytes:
        """Reads a record, a serialized tf.Example; raises DataError if it is damaged."""

    def checksum(self, place: int) -> bytes:
        """Returns the stored checksum of a record, if the format has one per record."""


class ShardRecords:
    """Records of many files, in any order. Files are opened when they are first read.

    Args:
      files: The shards.
      shard: int32 [N], the index of each record's file.
      place: int64 [N], the position of each record in its file: its number or its first byte,
        depending on `open_shard`.
      open_shard: Opens a file.
      image_key: The name of the feature with the encoded image.
      checksums: Checksum of each file; None to use the sizes of the files instead.
    """

    def __init__(
        self,
        files: tuple[str, ...],
        shard: npt.NDArray[np.int32],
        place: npt.NDArray[np.int64],
        open_shard: Callable[[str], ShardReader],
        image_key: str,
        checksums: tuple[str, ...] | None = None,
    ) -> None:
        self._files, self._shard, self._place = files, shard, place
        self._open_shard, self._image_key = open_shard, image_key
        self._checksums = checksums
        self._pool: ThreadPoolExecutor | None = None
        self._begin()

    def __len__(self) -> int:
        return len(self._place)

    @property
    def num_files(self) -> int:
        """Number of shards. Each stays open after it was first read."""
        return len(self._files)

    def __getstate__(self) -> dict[str, Any]:
        # Open files and threads cannot be sent to another process.
        return {k: v for k, v in self.__dict__.items() if k not in ("_open", "_lock", "_pool")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def read(self, indices: npt.NDArray[np.int64]) -> list[bytes]:
        """Returns the encoded images, with b"" for those that cannot be read."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_READERS)
        parts = np.array_split(indices, min(_READERS, max(1, len(indices) // 4)))
        return [image for part in self._pool.map(self._read_part, parts) for image in part]

    def read_one(self, index: int) -> bytes:
        """Returns one encoded image.

        Raises:
          DataError: The record is damaged or has no image.
        """
        shard, place = int(self._shard[index]), int(self._place[index])
        record = self._opened(shard).read(place)
        try:
            return bytes_feature(record, self._image_key)
        except ValueError as error:
            raise DataError(str(error)) from None

    def name(self, index: int) -> str:
        """Returns the name of a record in messages: its file and its position."""
        return f"{self._files[self._shard[index]]}[{self._place[index]}]"

    def take(self, indices: npt.NDArray[np.int64]) -> ShardRecords:
        """Returns some of the records, in the given order."""
        return ShardRecords(
            self._files,
            self._shard[indices],
            self._place[indices],
            self._open_shard,
            self._image_key,
            self._checksums,
        )

    def identity(self) -> list[bytes]:
        """Returns names and checksums (or sizes) of the shards, and the position of each record."""
        marks = self._checksums or [str(os.path.getsize(file)) for file in self._files]
        names = (os.path.basename(file) for file in self._files)
        shards = [os.fsencode(f"{n}={m}\0") for n, m in zip(names, marks, strict=True)]
        return [*shards, self._shard.astype("<i4").tobytes(), self._place.astype("<i8").tobytes()]

    def marks(self) -> Iterator[bytes]:
        """Yields bytes that identify the content of each record.

        They are the checksum of its shard with its position, or its own stored checksum.

        Raises:
          DataError: A shard cannot be read.
        """
        for shard, place in zip(self._shard.tolist(), self._place.tolist(), strict=True):
            if self._checksums is not None:
                yield f"{self._checksums[shard]}[{place}]".encode()
            else:
                yield self._opened(shard).checksum(place)

    def _begin(self) -> None:
        self._open: dict[int, ShardReader] = {}
        self._lock = threading.Lock()
        self._pool = None

    def _read_part(self, indices: npt.NDArray[np.int64]) -> list[bytes]:
        images = []
        for index in indices.tolist():
            try:
                images.append(self.read_one(index))
            except DataError:
                images.append(b"")
        return images

    def _opened(self, number: int) -> ShardReader:
        shard = self._open.get(number)
        if shard is None:
            with self._lock:
                if not self._open:
                    allow_open_files(len(self._files))
                shard = self._open.get(number) or self._open_shard(self._files[number])
                self._open[number] = shard
        return shard


def allow_open_files(count: int) -> None:
    """Raises the limit of open files of this process, if necessary.

    Raises:
      DataError: The hard limit is too low for `count` shards.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise DataError(
            f"cannot keep {count} shards open: this machine allows only {hard} open files. Raise "
            "the limit (ulimit -Hn), or write fewer, larger shards (vit prepare --shard-size)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))

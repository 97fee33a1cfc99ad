"""Encoded images in shards, read by index from many files at a time."""

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

# Records fetched side by side: enough to hide the latency of shared storage.
_READERS = 16
# What a process keeps open besides its shards.
_OTHER_FILES = 256


class ShardReader(Protocol):
    """One open file of records."""

    def read(self, place: int) -> bytes:
        """A record, a serialized tf.Example; DataError where it is damaged."""

    def checksum(self, place: int) -> bytes:
        """The stored checksum of a record, where the format has one a record."""


class ShardRecords:
    """Records of many files, in an order of our own. Files are opened when first read.

    Args:
      files: The shards.
      shard: int32 [N], the file each record is in.
      place: int64 [N], where in it: its number, or its first byte, as `open_shard` has it.
      open_shard: Opens a file.
      image_key: The feature that holds the encoded image.
      checksums: Of each file, where they are known; None: the sizes of the files stand for them.
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
        """Shards, each of which is kept open once it was read."""
        return len(self._files)

    def __getstate__(self) -> dict[str, Any]:
        # Neither open files nor threads go to another process.
        return {k: v for k, v in self.__dict__.items() if k not in ("_open", "_lock", "_pool")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def read(self, indices: npt.NDArray[np.int64]) -> list[bytes]:
        """The images' bytes, b"" for one that cannot be read."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_READERS)
        parts = np.array_split(indices, min(_READERS, max(1, len(indices) // 4)))
        return [image for part in self._pool.map(self._read_part, parts) for image in part]

    def read_one(self, index: int) -> bytes:
        """One image's bytes.

        Raises:
          DataError: The record is damaged, or holds no image.
        """
        shard, place = int(self._shard[index]), int(self._place[index])
        record = self._opened(shard).read(place)
        try:
            return bytes_feature(record, self._image_key)
        except ValueError as error:
            raise DataError(str(error)) from None

    def name(self, index: int) -> str:
        """What a message calls the record: its file, and its place in it."""
        return f"{self._files[self._shard[index]]}[{self._place[index]}]"

    def take(self, indices: npt.NDArray[np.int64]) -> ShardRecords:
        """Some of the records, in the order given."""
        return ShardRecords(
            self._files,
            self._shard[indices],
            self._place[indices],
            self._open_shard,
            self._image_key,
            self._checksums,
        )

    def identity(self) -> list[bytes]:
        """Names and checksums (or sizes) of the shards, and the place of each record."""
        marks = self._checksums or [str(os.path.getsize(file)) for file in self._files]
        names = (os.path.basename(file) for file in self._files)
        shards = [os.fsencode(f"{n}={m}\0") for n, m in zip(names, marks, strict=True)]
        return [*shards, self._shard.astype("<i4").tobytes(), self._place.astype("<i8").tobytes()]

    def marks(self) -> Iterator[bytes]:
        """Of each record, what tells its content from another's: the checksum of its shard, or its
        own stored one.

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
    """Raises this process's own limit of open files, as far as it may.

    Raises:
      DataError: The machine's limit is too low for `count` shards.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise DataError(
            f"{count} shards cannot be kept open: this machine allows {hard} open files. Raise "
            "the limit (ulimit -Hn), or write fewer, larger shards (vit prepare --shard-size)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))

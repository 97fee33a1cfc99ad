"""The paths of many files in little memory."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

_AT_ONCE = 4096  # the numbers of this many files are Python objects at the same time


class Paths(Sequence[str]):
    """A sequence of paths, stored as folders and the bytes of names.

    A million files take 34 MB if their names have 20 bytes, and about 120 MB as a list of strings.

    Args:
      folders: Folders, which need not all have files.
      folder_of: int32 [N], the folder of each file.
      names: The names of all files, in the encoding of the file system, without separators.
      starts: int64 [N], where each name starts in `names`.
      lengths: uint16 [N], the length of each name in bytes.
    """

    def __init__(
        self,
        folders: Sequence[str],
        folder_of: npt.NDArray[np.int32],
        names: bytes,
        starts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.uint16],
    ) -> None:
        self.folders, self._folder_of = folders, folder_of
        self._names, self._starts, self._lengths = names, starts, lengths

    @classmethod
    def of(
        cls,
        folders: Sequence[str],
        folder_of: npt.NDArray[np.int32],
        names: bytes,
        lengths: npt.NDArray[np.uint16],
    ) -> Paths:
        """Returns paths whose names follow each other without gaps.

        Raises:
          ValueError: The arguments do not fit together, or a name is not that of a file.
        """
        ends = np.cumsum(lengths, dtype=np.int64)
        count = len(folder_of)
        if folder_of.shape != lengths.shape or len(names) != (ends[-1] if count else 0):
            raise ValueError("the numbers of folders, names and lengths differ")
        if count and not (folder_of.min() >= 0 and folder_of.max() < len(folders)):
            raise ValueError("a file is in a folder that does not exist")
        if b"/" in names or b"\0" in names:
            raise ValueError("a name contains / or a zero byte")
        return cls(folders, folder_of, names, ends - lengths, lengths)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Paths: ...

    def __getitem__(self, index: int | slice) -> str | Paths:
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self))))
        start = int(self._starts[index])
        name = self._names[start : start + int(self._lengths[index])]
        return f"{self.folders[self._folder_of[index]]}/{os.fsdecode(name)}"

    def __iter__(self) -> Iterator[str]:
        return map(os.fsdecode, self.encoded(self.folders))

    def encoded(self, folders: Sequence[str]) -> Iterator[bytes]:
        """Yields all paths, in the encoding of the file system, with other names of the folders."""
        prefixes = [os.fsencode(f"{folder}/") for folder in folders]
        columns = (self._folder_of, self._starts, self._starts + self._lengths)
        for first in range(0, len(self), _AT_ONCE):
            part = (column[first : first + _AT_ONCE].tolist() for column in columns)
            for folder, start, end in zip(*part, strict=True):
                yield prefixes[folder] + self._names[start:end]

    def used(self) -> list[str]:
        """Returns the folders that have files."""
        return [self.folders[place] for place in np.unique(self._folder_of).tolist()]

    def columns(
        self, folders: Sequence[str]
    ) -> tuple[npt.NDArray[np.int32], bytes, npt.NDArray[np.uint16]]:
        """Returns the arguments of `of`, with indices into other folders, which have all of these.

        Returns:
          folder_of int32 [N], names, lengths uint16 [N].
        """
        place_of = {folder: place for place, folder in enumerate(folders)}
        places = np.array([place_of.get(folder, -1) for folder in self.folders], np.int32)
        names = bytearray()
        for path in self.encoded([""] * len(self.folders)):
            names += path[1:]
        return places[self._folder_of], bytes(names), self._lengths

    def take(self, indices: npt.NDArray[np.int64]) -> Paths:
        """Returns the paths with these indices, int64 [n], in the given order."""
        return Paths(
            self.folders, self._folder_of[indices], self._names, self._starts[indices],
            self._lengths[indices],
        )  # fmt: skip


def encoded(paths: Sequence[str]) -> Iterator[bytes]:
    """Yields paths in the encoding of the file system."""
    return paths.encoded(paths.folders) if isinstance(paths, Paths) else map(os.fsencode, paths)


def normalized(path: str | bytes) -> bytes:
    """Returns a path in Unicode normal form NFC, because file systems store accents differently."""
    if isinstance(path, bytes) and path.isascii():
        return path
    return os.fsencode(unicodedata.normalize("NFC", os.fsdecode(path)))


class PathsBuilder:
    """Collects paths folder by folder.

    Attributes:
      folders: The folders so far.
    """

    def __init__(self) -> None:
        self.folders: list[str] = []
        self._counts: list[int] = []
        self._names = bytearray()
        self._lengths: list[npt.NDArray[np.uint16]] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, folder: str, names: Sequence[str]) -> None:
        """Adds files of one folder."""
        # No name contains "/". Encoding all names at once is several times as fast.
        encoded = os.fsencode("/".join(names)).split(b"/") if names else []
        self.folders.append(folder)
        self._counts.append(len(encoded))
        self._size += len(encoded)
        self._names += b"".join(encoded)
        self._lengths.append(np.fromiter(map(len, encoded), np.uint16, len(encoded)))

    def build(self) -> Paths:
        """Returns the paths in the order in which they were added."""
        lengths = np.concatenate([np.zeros(0, np.uint16), *self._lengths])
        folder_of = np.repeat(np.arange(len(self.folders), dtype=np.int32), self._counts)
        return Paths.of(self.folders, folder_of, bytes(self._names), lengths)

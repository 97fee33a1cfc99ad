"""Lists the image files in class folders in a fixed order, each file and folder once."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.data.paths import Paths, PathsBuilder
from pipeline.data.split import Split
from pipeline.errors import DataError
from pipeline.printable import printable
from pipeline.storage import read as storage

# Folders that NAS systems, archivers and operating systems create among images, in lower case.
# Folders whose name starts with a dot are skipped as well.
_NOT_IMAGES = frozenset(
    ("@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "__macosx", "__pycache__",
     "$recycle.bin", "system volume information", "lost+found")
)  # fmt: skip

Identity = tuple[int, int]  # device and inode


def is_skipped(folder: str) -> bool:
    """Whether a folder with this name does not belong to the data set, such as @eaDir."""
    return folder.startswith(".") or folder.lower() in _NOT_IMAGES


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; False for a circular link."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


@dataclass
class Listing:
    """The files of one split, grouped by class, and sorted by name within each class.

    Attributes:
      folder: The split's folder.
      extensions: Extensions of image files, in lower case, with a dot.
      root: Links must not lead outside this folder; None allows all links.
      limit_bytes: Larger files are not read.
      paths: The files, once `drop_repeated` was called.
      left_out: Number of files that were left out, by extension.
      skipped: Number of folders that were skipped, by name.
      repeated: Links and hard links that were left out because the same file or folder is already
        listed with another name, as pairs of both names.
      conflicts: The pairs in `repeated` that are in two different classes.
      times: When each listed folder was last modified, before it was listed, in ns since 1970.
    """

    folder: str
    extensions: tuple[str, ...]
    root: storage.RealFolder | None = None
    limit_bytes: int | None = None
    paths: Paths = field(default_factory=lambda: PathsBuilder().build())
    left_out: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    repeated: list[tuple[str, str]] = field(default_factory=list)
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    times: dict[str, int] = field(default_factory=dict)
    _found: PathsBuilder = field(default_factory=PathsBuilder)
    _labels: array[int] = field(default_factory=lambda: array("i"))
    _visited: dict[Identity, str] = field(default_factory=dict)
    _links: set[int] = field(default_factory=set)  # indices of the files that are links
    _devices: array[int] = field(default_factory=lambda: array("Q"))
    _inodes: array[int] = field(default_factory=lambda: array("Q"))

    def __post_init__(self) -> None:
        self._real = os.path.realpath(self.folder)
        found = storage.stat(self.folder)
        self._visited[_identity(found)] = self.folder
        self.times[self.folder] = found.st_mtime_ns

    def __len__(self) -> int:
        return len(self._found)

    def split(self, title: str) -> Split:
        return Split(
            np.array(self._labels, np.int32),
            paths=self.paths,
            title=title,
            root=self.root,
            limit_bytes=self.limit_bytes,
        )

    def names(self) -> Iterator[bytes]:
        """Yields the names of the files relative to the split's folder, with "/"."""
        relative = [os.path.relpath(folder, self.folder) for folder in self._found.folders]
        return self.paths.encoded([folder.replace(os.sep, "/") for folder in relative])

    def add_class(self, name: str, label: int) -> Counter[str]:
        """Lists a class folder and its subfolders; returns what was left out of this folder."""
        left_out = Counter[str]()
        waiting = [os.path.join(self.folder, name)]
        self.check_link(waiting[0])
        while waiting:
            path = waiting.pop()
            if self._visit_folder(path):
                waiting.extend(reversed(self._list_files(path, label, left_out)))
        self.left_out += left_out
        return left_out

    def drop_repeated(self) -> None:
        """Completes the list. Each file is listed once, preferably not through a link.

        Reading inode numbers from the folder costs nothing, but on some network file systems they
        are not reliable. So they only determine which files to compare.
        """
        self.paths = self._found.build()
        inodes = np.frombuffer(self._inodes, np.uint64)
        found, counts = np.unique(inodes[inodes > 0], return_counts=True)
        places = np.flatnonzero(np.isin(inodes, found[counts > 1]))
        groups: dict[Identity, list[int]] = {}
        for place in places.tolist():
            groups.setdefault((self._devices[place], self._inodes[place]), []).append(place)
        dropped: dict[int, int] = {}
        for group in groups.values():
            for same in self._same_files(group) if len(group) > 1 else ():
                kept = min(same, key=lambda place: (place in self._links, place))
                dropped |= {place: kept for place in same if place != kept}
        for place, kept in sorted(dropped.items()):
            pair = self.paths[place], self.paths[kept]
            self.repeated.append(pair)
            if self._labels[place] != self._labels[kept]:
                self.conflicts.append(pair)
        if dropped:
            self._keep(np.delete(np.arange(len(self)), sorted(dropped)))

    def shared_with(self, other: Listing) -> list[tuple[str, str]]:
        """Returns files that are also in another listing, through links, as pairs of names."""
        mine, theirs = (
            np.frombuffer(one._inodes, np.uint64)  # noqa: SLF001  # of the same class
            for one in (self, other)
        )
        common = np.intersect1d(_occurring_once(mine), _occurring_once(theirs))
        places = np.flatnonzero(np.isin(theirs, common)).tolist()
        known = {(other._devices[place], other._inodes[place]): place for place in places}
        shared = []
        for place in np.flatnonzero(np.isin(mine, common)).tolist():
            twin = known.get((self._devices[place], self._inodes[place]))
            if twin is not None and _is_same(self.paths[place], other.paths[twin]):
                shared.append((self.paths[place], other.paths[twin]))
        return shared

    def check_link(self, path: str) -> None:
        """Refuses a link that leads outside the data set, where nobody expects training data.

        Raises:
          DataError: The path is such a link, and `root` is not None.
        """
        if self.root is None or not os.path.islink(path):
            return
        target = os.path.realpath(path)
        if os.path.commonpath([target, self.root]) != self.root:
            raise DataError(
                f"{printable(path)} is a link to {printable(target)}, outside "
                f"{printable(self.root)}. Copy the target to the folder, or allow such links "
                "with data.links_out=true"
            )

    def _visit_folder(self, path: str) -> bool:
        """Whether to list the folder; False if its files are already listed another way."""
        try:
            found = storage.stat(path)
        except OSError as error:
            raise DataError(f"cannot list {printable(path)}: {storage.reason(error)}") from None
        identity = _identity(found)
        other = self._visited.get(identity)
        if other is None and os.path.islink(path):
            other = self._own_folder(os.path.realpath(path))
        if other is not None:
            self.repeated.append((path, other))
            return False
        self._visited[identity] = path
        self.times[path] = found.st_mtime_ns
        return True

    def _own_folder(self, target: str) -> str | None:
        """Returns the target of a link if it is listed without the link, otherwise None."""
        if os.path.commonpath([target, self._real]) == target:
            return target
        inside = os.path.relpath(target, self._real).split(os.sep)
        return None if inside[0] == ".." or any(map(is_skipped, inside)) else target

    def _list_files(self, where: str, label: int, left_out: Counter[str]) -> list[str]:
        """Adds the files of one folder; returns its subfolders, sorted."""
        folders, names = list[str](), list[str]()
        try:
            found = storage.list_folder(where)
            device = storage.stat(where).st_dev
        except OSError as error:
            raise DataError(f"cannot list {printable(where)}: {storage.reason(error)}") from None
        first = len(self)
        for entry in found:
            name = entry.name
            # Most entries need no other checks. These are fast, because there may be a million.
            if (
                name.lower().endswith(self.extensions)
                and not name.startswith(".")
                and entry.is_file(follow_symlinks=False)
            ):
                self._devices.append(device)
                self._inodes.append(entry.inode())
            elif self._is_image(entry, folders, left_out):
                self._add_identity(entry, first + len(names), device)
            else:
                continue
            names.append(name)
        self._found.add(where, names)
        self._labels.extend([label] * len(names))
        return folders

    def _is_image(
        self, entry: os.DirEntry[str], folders: list[str], left_out: Counter[str]
    ) -> bool:
        """Whether to add an entry. Others are added to `folders` or counted."""
        if is_skipped(entry.name):
            if is_folder(entry):
                self.skipped[printable(entry.name)] += 1
                return False
            if entry.name.startswith("."):
                return False
        if entry.is_symlink():
            self.check_link(entry.path)
        if is_folder(entry):
            folders.append(entry.path)
            return False
        kind = self._other_kind(entry)
        if kind is not None:
            left_out[kind] += 1
        return kind is None

    def _other_kind(self, entry: os.DirEntry[str]) -> str | None:
        """Returns the kind of a file that is not an image; None for images and broken links."""
        extension = os.path.splitext(entry.name)[1].lower()
        if extension not in self.extensions:
            return printable(extension) or "no extension"
        is_file = os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()
        # Reading a pipe would block forever.
        return None if is_file or not os.path.exists(entry.path) else "not a regular file"

    def _add_identity(self, entry: os.DirEntry[str], place: int, device: int) -> None:
        identity = device, entry.inode()
        if entry.is_symlink():
            self._links.add(place)
            try:
                identity = _identity(storage.stat(entry.path))
            except OSError:
                identity = 0, 0  # reading the file will report the error
        self._devices.append(identity[0])
        self._inodes.append(identity[1])

    def _same_files(self, group: Sequence[int]) -> list[list[int]]:
        """Returns groups of paths to the same file, among paths with equal inode numbers."""
        regular = [place for place in group if place not in self._links]
        first = _stat(self.paths[group[0]])
        if len(regular) == len(group) and (first is None or first.st_nlink == 1):
            return []  # without links and hard links, these are different files
        found: dict[Identity, list[int]] = {}
        for place in group:
            if (stat := _stat(self.paths[place])) is not None:
                found.setdefault(_identity(stat), []).append(place)
        return [same for same in found.values() if len(same) > 1]

    def _keep(self, places: npt.NDArray[np.int64]) -> None:
        self.paths = self.paths.take(places)
        self._labels = array("i", np.array(self._labels)[places].tobytes())
        self._devices = array("Q", np.array(self._devices)[places].tobytes())
        self._inodes = array("Q", np.array(self._inodes)[places].tobytes())
        self._links.clear()


def _occurring_once(inodes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    found, counts = np.unique(inodes[inodes > 0], return_counts=True)
    return found[counts == 1]


def _identity(stat: os.stat_result) -> Identity:
    return stat.st_dev, stat.st_ino


def _stat(path: str) -> os.stat_result | None:
    try:
        return storage.stat(path)
    except OSError:
        return None


def _is_same(path: str, other: str) -> bool:
    a, b = _stat(path), _stat(other)
    return a is not None and b is not None and _identity(a) == _identity(b)

"""Lists the image files in class folders in a fixed order, each file and folder once."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

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
      extensions: Extensions of image files, in lower case.
      root: Links must not lead outside this folder; None allows all links.
      limit_bytes: Larger files are not read.
      paths, names, labels: One entry per file. Names are relative to the split's folder, with "/".
      left_out: Number of files that were left out, by extension.
      skipped: Number of folders that were skipped, by name.
      repeated: Links and hard links that were left out because the same file or folder is already
        listed with another name, as pairs of both names.
      conflicts: The pairs in `repeated` that are in two different classes.
    """

    folder: str
    extensions: Sequence[str]
    root: storage.RealFolder | None = None
    limit_bytes: int | None = None
    paths: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    repeated: list[tuple[str, str]] = field(default_factory=list)
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    _visited: dict[Identity, str] = field(default_factory=dict)
    _links: set[int] = field(default_factory=set)  # indices of the files that are links
    _devices: array[int] = field(default_factory=lambda: array("Q"))
    _inodes: array[int] = field(default_factory=lambda: array("Q"))

    def __post_init__(self) -> None:
        self._real = os.path.realpath(self.folder)
        self._visited[_identity(storage.stat(self.folder))] = self.folder

    def split(self, title: str) -> Split:
        return Split(
            np.asarray(self.labels, np.int32),
            paths=self.paths,
            title=title,
            root=self.root,
            limit_bytes=self.limit_bytes,
        )

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
        """Removes duplicates, so that each file is listed once, preferably not through a link.

        Reading inode numbers from the folder costs nothing, but on some network file systems they
        are not reliable. So they only determine which files to compare.
        """
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
            if self.labels[place] != self.labels[kept]:
                self.conflicts.append(pair)
        if dropped:
            self._keep([place for place in range(len(self.paths)) if place not in dropped])

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
            identity = _identity(storage.stat(path))
        except OSError as error:
            raise DataError(f"cannot list {printable(path)}: {storage.reason(error)}") from None
        other = self._visited.get(identity)
        if other is None and os.path.islink(path):
            other = self._own_folder(os.path.realpath(path))
        if other is not None:
            self.repeated.append((path, other))
            return False
        self._visited[identity] = path
        return True

    def _own_folder(self, target: str) -> str | None:
        """Returns the target of a link if it is listed without the link, otherwise None."""
        if os.path.commonpath([target, self._real]) == target:
            return target
        inside = os.path.relpath(target, self._real).split(os.sep)
        return None if inside[0] == ".." or any(map(is_skipped, inside)) else target

    def _list_files(self, where: str, label: int, left_out: Counter[str]) -> list[str]:
        """Adds the files of one folder; returns its subfolders, sorted."""
        folders = []
        try:
            found = storage.list_folder(where)
            device = storage.stat(where).st_dev
        except OSError as error:
            raise DataError(f"cannot list {printable(where)}: {storage.reason(error)}") from None
        prefix = os.path.relpath(where, self.folder).replace(os.sep, "/")
        for entry in found:
            if is_skipped(entry.name):
                if is_folder(entry):
                    self.skipped[printable(entry.name)] += 1
                    continue
                if entry.name.startswith("."):
                    continue
            if entry.is_symlink():
                self.check_link(entry.path)
            if is_folder(entry):
                folders.append(entry.path)
            elif (kind := self._other_kind(entry)) is not None:
                left_out[kind] += 1
            else:
                self._add(entry, f"{prefix}/{entry.name}", label, device)
        return folders

    def _other_kind(self, entry: os.DirEntry[str]) -> str | None:
        """Returns the kind of a file that is not an image; None for images and broken links."""
        extension = os.path.splitext(entry.name)[1].lower()
        if extension not in self.extensions:
            return printable(extension) or "no extension"
        is_file = os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()
        # Reading a pipe would block forever.
        return None if is_file or not os.path.exists(entry.path) else "not a regular file"

    def _add(self, entry: os.DirEntry[str], name: str, label: int, device: int) -> None:
        identity = device, entry.inode()
        if entry.is_symlink():
            self._links.add(len(self.paths))
            try:
                identity = _identity(storage.stat(entry.path))
            except OSError:
                identity = 0, 0  # reading the file will report the error
        self.paths.append(entry.path)
        self.names.append(name)
        self.labels.append(label)
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

    def _keep(self, places: Sequence[int]) -> None:
        chosen: npt.NDArray[np.int64] = np.asarray(places, np.int64)
        self.paths = [self.paths[place] for place in places]
        self.names = [self.names[place] for place in places]
        self.labels = [self.labels[place] for place in places]
        self._devices = array("Q", np.frombuffer(self._devices, np.uint64)[chosen].tobytes())
        self._inodes = array("Q", np.frombuffer(self._inodes, np.uint64)[chosen].tobytes())
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

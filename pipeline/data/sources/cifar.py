"""CIFAR-10 and CIFAR-100 as originally distributed: Python pickles in a folder or an archive.

References:
  Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009;
  https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.sources.plain_pickle import PickleRefused, read_plain_pickle
from pipeline.errors import DataError
from pipeline.storage.archive import GZIP, gunzip, read_tar
from pipeline.storage.read import read_file

# CIFAR-100 takes 187 MB.
MOST_BYTES = 512 * 2**20


class Layout(NamedTuple):
    """The file names and keys of one of the two data sets."""

    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: bytes
    names: bytes


LAYOUTS = {
    #                 folder                 archive
    "cifar10": Layout("cifar-10-batches-py", "cifar-10-python.tar.gz",
                      tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch",
                      "batches.meta", b"labels", b"label_names"),
    "cifar100": Layout("cifar-100-python", "cifar-100-python.tar.gz",
                       ("train",), "test",
                       "meta", b"fine_labels", b"fine_label_names"),
}  # fmt: skip

Read = Callable[[str], bytes]
Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def read_cifar(kind: str, path: Path) -> tuple[tuple[str, ...], Arrays, Arrays]:
    """Reads a data set from its folder, its archive, or a folder that contains either.

    Returns:
      Class names, (images uint8 [N, 32, 32, 3], labels int64 [N]) for training, and the same for
      test.

    Raises:
      DataError: A file is missing or damaged, or its content differs from the original format.
    """
    layout = LAYOUTS[kind]
    read = _open(layout, path)
    classes = _names(_load(read, layout.meta, path).get(layout.names, []))
    train = [_batch(read, name, layout, path) for name in layout.train]
    test = _batch(read, layout.test, layout, path)
    images = np.concatenate([part[0] for part in train])
    return classes, (images, np.concatenate([part[1] for part in train])), test


def _open(layout: Layout, path: Path) -> Read:
    """Returns a function that reads a file of the data set by name."""
    folder = path if (path / layout.meta).is_file() else path / layout.folder
    if (folder / layout.meta).is_file():
        return lambda name: read_file(folder / name, limit_bytes=MOST_BYTES)
    archive = path / layout.archive if path.is_dir() else path
    if not archive.is_file():
        raise DataError(
            f"{path} contains neither {layout.folder}/{layout.meta} nor {layout.archive}. Put "
            f"{layout.archive} (https://www.cs.toronto.edu/~kriz/{layout.archive}) there, or set "
            "data.path to the folder that contains it"
        )
    try:
        content = read_file(archive, limit_bytes=MOST_BYTES)
        if content[:2] == GZIP:
            content = gunzip(content, MOST_BYTES)
        # The archive is read in memory. Nothing is ever unpacked to a path from the archive.
        members = read_tar(content, (layout.meta, *layout.train, layout.test))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the archive {archive}: {error}. Download it again") from None
    return lambda name: members[name]


def _batch(read: Read, name: str, layout: Layout, path: Path) -> Arrays:
    content = _load(read, name, path)
    try:
        data, labels = content[b"data"], _labels(content[layout.labels])
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
            raise TypeError("its images must be an array of bytes")
        images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # [N, 3072] -> [N, 32, 32, 3]
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"{name} in {path} differs from the one in {layout.archive}: {error!r}. Download it "
            "again"
        ) from None
    if len(images) != len(labels):
        raise DataError(f"{name} in {path} has {len(images)} images but {len(labels)} labels")
    return images, labels


def _labels(found: Any) -> npt.NDArray[np.int64]:
    """Converts labels to an array. Nested lists are refused; they can be larger than the file."""
    is_list = isinstance(found, list) and all(type(label) is int for label in found)
    if not is_list and not (isinstance(found, np.ndarray) and found.ndim == 1):
        raise TypeError("its labels must be a list of integers")
    return np.asarray(found, np.int64)


def _names(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(n, (str, bytes)) for n in found):
        raise DataError("the names of the classes must be a list of texts")
    return tuple(n.decode(errors="replace") if isinstance(n, bytes) else n for n in found)


def _load(read: Read, name: str, path: Path) -> dict[bytes, Any]:
    try:
        content = read_plain_pickle(read(name))
    except PickleRefused as error:
        raise DataError(f"{name} in {path}: {error}. Download it again") from None
    except (KeyError, OSError) as error:
        raise DataError(f"{name} is missing in {path} ({error}). Download it again") from None
    if not isinstance(content, dict):
        raise DataError(f"{name} in {path} must contain a dict. Received: {type(content).__name__}")
    return {k if isinstance(k, bytes) else str(k).encode(): v for k, v in content.items()}

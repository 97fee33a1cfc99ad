"""CIFAR-10 and CIFAR-100 in their original form: pickles for Python, in a folder or an archive.

References:
  Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009;
  https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError
from pipeline.storage.read import read_file


class Layout(NamedTuple):
    """How one of the two archives is laid out."""

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
    """Class names, training and test part, from the folder, the archive or the folder of either.

    Returns:
      names, (images uint8 [N, 32, 32, 3], labels int64 [N]) for training, and the same for test.

    Raises:
      DataError: A file is missing, damaged, or holds what the original does not.
    """
    layout = LAYOUTS[kind]
    read, close = _open(layout, path)
    try:
        names = _load(read, layout.meta, path).get(layout.names, [])
        train = [_batch(read, name, layout, path) for name in layout.train]
        test = _batch(read, layout.test, layout, path)
    finally:
        close()
    classes = tuple(n.decode() if isinstance(n, bytes) else str(n) for n in names)
    images = np.concatenate([part[0] for part in train])
    return classes, (images, np.concatenate([part[1] for part in train])), test


def _open(layout: Layout, path: Path) -> tuple[Read, Callable[[], None]]:
    """A function that reads a member by name, and one that closes what it reads from."""
    folder = path if (path / layout.meta).is_file() else path / layout.folder
    if (folder / layout.meta).is_file():
        return lambda name: read_file(folder / name), lambda: None
    archive_path = path / layout.archive if path.is_dir() else path
    if not archive_path.is_file():
        raise DataError(
            f"{path} holds neither {layout.folder}/{layout.meta} nor {layout.archive}. Put "
            f"{layout.archive} (https://www.cs.toronto.edu/~kriz/{layout.archive}) there, or set "
            "data.path to where it is"
        )
    archive = None
    try:
        content = io.BytesIO(read_file(archive_path))
        archive = tarfile.open(fileobj=content)  # noqa: SIM115 - `close` is returned
        members = {Path(m.name).name: m for m in archive.getmembers() if m.isfile()}
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        if archive is not None:
            archive.close()
        raise DataError(f"{archive_path} is no whole archive: {error}. Download it again") from None

    def read(name: str) -> bytes:
        # Read from the archive in memory: nothing is ever unpacked to a path the archive chose.
        stream = archive.extractfile(members[name])
        return stream.read() if stream else b""

    return read, archive.close


def _batch(read: Read, name: str, layout: Layout, path: Path) -> Arrays:
    content = _load(read, name, path)
    try:
        data = np.asarray(content[b"data"], np.uint8)
        labels = np.asarray(content[layout.labels], np.int64)
        images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # [N, 3072] -> [N, 32, 32, 3]
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{name} in {path} is not what {layout.archive} holds: {error!r}. Download it again"
        ) from None
    if len(images) != len(labels):
        raise DataError(f"{name} in {path} has {len(images)} images but {len(labels)} labels")
    return images, labels


def _load(read: Read, name: str, path: Path) -> dict[bytes, Any]:
    try:
        content = _Unpickler(io.BytesIO(read(name)), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{name} in {path}: {error}") from None
    except (KeyError, OSError) as error:
        raise DataError(f"{name} is missing in {path} ({error}). Download it again") from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        raise DataError(f"{name} in {path} is damaged: {error!r}. Download it again") from None
    if not isinstance(content, dict):
        raise DataError(f"{name} in {path} must hold a dict. Received: {type(content).__name__}")
    return {k if isinstance(k, bytes) else str(k).encode(): v for k, v in content.items()}


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    # Python 3 writes bytes into old pickles through codecs.encode; no other codec is needed.
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Admits NumPy arrays and plain types. A pickle from elsewhere could otherwise run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module == "_codecs" and name == "encode":
            return _latin1
        raise DataError(
            f"refused: it asks for {module}.{name}, and a data set holds only arrays and plain "
            "types. Do not use this file; download the original"
        )

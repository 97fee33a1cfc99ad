"""The list of an image folder, saved in the run folder, so that a run is resumed quickly.

Listing a million files and reading their sizes takes as long as the rest of a start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import DataConfig
from pipeline.data.fingerprint import file_sizes, sampled
from pipeline.data.paths import Paths
from pipeline.data.split import DataSource, Split, check_labels
from pipeline.errors import DataError
from pipeline.printable import printable
from pipeline.storage.limits import image_bytes
from pipeline.storage.npz import read_npz
from pipeline.storage.read import open_file, real_folder, stat
from pipeline.storage.write import replace_file
from pipeline.strict_json import from_json, to_json

# Fewer files are listed at each start, which takes a fraction of a second.
LEAST_FILES = 20_000
# The sizes of this many files of each split are compared when a saved list is used.
_SAMPLED = 10_000
_READERS = 32
_MOST_BYTES = 2**33  # of all arrays: 200 million files
# The settings that determine the list.
_SETTINGS = ("links_out", "max_pixels", "validation_fraction", "validation_split")

Arrays = dict[str, npt.NDArray[Any]]


def save_listing(
    file: Path, config: DataConfig, source: DataSource, fingerprints: Mapping[str, str]
) -> None:
    """Saves the list of an image folder with 20,000 or more files.

    Nothing is saved if the folder was being changed while it was listed, or if the file cannot be
    written: the next start then lists the folder again.

    Args:
      file: The file, .npz.
      config: The settings with which the folder was listed.
      source: The listed folder.
      fingerprints: The fingerprint of each split.
    """
    files = sum(split.num_examples for split in source.splits.values())
    if source.folder_times is None or files < LEAST_FILES:
        return
    root = str(Path(config.path or "").expanduser())
    folders = list(source.folder_times)
    facts = {
        "settings": _settings(config),
        "classes": source.classes,
        "notes": source.notes,
        "fingerprints": dict(fingerprints),
    }
    arrays: Arrays = {
        "facts": _bytes(to_json(facts).encode()),
        "folders": _bytes(b"\0".join(os.fsencode(os.path.relpath(f, root)) for f in folders)),
        "times": np.array(list(source.folder_times.values()), np.int64),
    }
    for name, split in source.splits.items():
        arrays |= {f"{name}.{key}": array for key, array in _pack(split, folders).items()}
    with suppress(OSError):
        replace_file(
            file, lambda stream: np.savez(stream, allow_pickle=False, **arrays), durable=False
        )


def read_listing(file: Path, config: DataConfig) -> DataSource | None:
    """Reads a saved list, if it still describes the folder in `data.path`.

    No folder may have been modified since it was listed, so files were neither added nor removed.
    The sizes of 10,000 files of each split must be the same. A file that was overwritten in its
    place and is not among them is not noticed.

    Returns:
      The data set, with fingerprints; None if there is no list, or the folder has changed.
    """
    if config.source != "image_folder" or config.path is None:
        return None
    damaged = suppress(OSError, ValueError, KeyError, TypeError, DataError)
    with damaged, open_file(file) as stream:
        return _unpack(read_npz(stream, _MOST_BYTES), config)
    return None


def _settings(config: DataConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in _SETTINGS}


def _pack(split: Split, folders: Sequence[str]) -> Arrays:
    if not isinstance(split.paths, Paths):
        raise TypeError(f"{split.title} was not listed")
    folder_of, names, lengths = split.paths.columns(folders)
    return {
        "labels": split.labels,
        "folder_of": folder_of,
        "names": _bytes(names),
        "lengths": lengths,
        "sizes": _sampled_sizes(split.paths),
    }


def _unpack(arrays: Arrays, config: DataConfig) -> DataSource | None:
    facts = from_json(arrays["facts"].tobytes().decode())
    root = Path(config.path or "").expanduser()
    relative = map(os.fsdecode, arrays["folders"].tobytes().split(b"\0"))
    folders = [str(root / name) for name in relative]
    times = arrays["times"]
    if facts["settings"] != _settings(config) or _folder_times(folders) != times.tolist():
        return None
    splits = {}
    for name, mark in facts["fingerprints"].items():
        part = {key: arrays[f"{name}.{key}"] for key in ("labels", "folder_of", "lengths")}
        paths = Paths.of(folders, part["folder_of"], arrays[f"{name}.names"].tobytes(),
                         part["lengths"])  # fmt: skip
        if not np.array_equal(_sampled_sizes(paths), arrays[f"{name}.sizes"]):
            return None
        splits[name] = Split(
            check_labels(part["labels"], len(facts["classes"]), name),
            paths=paths,
            title=f"{printable(str(root))}, {name}",
            root=None if config.links_out else real_folder(root),
            limit_bytes=image_bytes(config.max_pixels),
            known_fingerprint=mark,
        )
    return DataSource(tuple(facts["classes"]), splits, None, tuple(facts["notes"]))


def _folder_times(folders: Sequence[str]) -> list[int]:
    """When each folder was last modified, in ns since 1970.

    Raises:
      OSError: One does not exist.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(lambda folder: stat(folder).st_mtime_ns, folders))


def _sampled_sizes(paths: Paths) -> npt.NDArray[np.int64]:
    return file_sizes(paths.take(sampled(len(paths), _SAMPLED)))


def _bytes(content: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(content, np.uint8)

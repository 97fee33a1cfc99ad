"""The index of TFRecord files: where each record begins, and its label. It is built once."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.config import DataConfig
from pipeline.cores import available_cores
from pipeline.data.sources.tfrecord_shard import FOOTER, HEADER, TFRecordShard, scan
from pipeline.errors import DataError
from pipeline.storage.folders import make_folder
from pipeline.storage.npz import read_npz
from pipeline.storage.read import open_file, stat
from pipeline.storage.write import replace_file

# Number of records whose stored checksum is compared at each start: two small reads per record.
_SAMPLED = 1024
_READERS = 32

# Memory of an index in bytes: per record, and for the headers.
_INDEX_BYTES, _INDEX_HEADERS_BYTES = 4 + 8 + 8 + 4, 4096


class Index(NamedTuple):
    """The positions of the records of a split.

    Attributes:
      shard: int32 [N], index of the file.
      start: int64 [N], first byte of the record in the file.
      labels: int64 [N], labels as stored in the records.
      checksums: uint32 [N], the stored checksum of each record.
    """

    shard: npt.NDArray[np.int32]
    start: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint32]


def find_index(root: Path, split: str, paths: Sequence[Path], config: DataConfig) -> Index:
    """Returns the saved index, or builds a new one and saves it if possible.

    A saved index is valid for files with the same names, sizes and times. The inode change time
    (ctime) detects a file that was rewritten with the same size and modification time. Not all file
    systems keep it, so the stored checksums of a sample of records are compared as well: the first
    and last record of each file, and some in between. So a file with other records is always
    detected. If single records are replaced on a file system without ctime, this may not be
    detected, and the labels are then those of the saved index.
    """
    stats = [stat(path) for path in paths]
    keys = config.tfrecord_label_key, config.tfrecord_image_key
    facts = [str(path.relative_to(root)) for path in paths], keys
    state = [(one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in stats]
    key = hashlib.blake2b(repr((facts, state)).encode(), digest_size=8).hexdigest()
    folder = root if config.index_path is None else Path(config.index_path).expanduser()
    kept = folder / f".vit-index-{split}-{key}.npz"
    with suppress(OSError, ValueError):
        index = _read_index(kept, [one.st_size for one in stats])
        if find_changed(paths, index) is None:
            return index
    with ThreadPoolExecutor(available_cores()) as pool:
        parts = list(pool.map(lambda path: scan(path, *keys), paths))
    counts = [len(part[0]) for part in parts]
    index = Index(
        np.repeat(np.arange(len(paths), dtype=np.int32), counts),
        *(np.concatenate(column) for column in zip(*parts, strict=True)),
    )
    if not len(index.start):
        raise DataError(f"{root}: the {split} shards contain no records")
    with suppress(OSError):  # if the folder is read-only, the files are scanned again next time
        _keep(kept, index)
    return index


def find_changed(paths: Sequence[Path], index: Index) -> Path | None:
    """Returns the first file whose sampled records differ from the index."""
    sampled = _sampled(index.shard)

    def differs(number: int) -> bool:
        shard = TFRecordShard(str(paths[number]))
        return any(
            shard.checksum(int(index.start[place])) != FOOTER.pack(index.checksums[place])
            for place in sampled[index.shard[sampled] == number]
        )

    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(differs, range(len(paths))))
    return next((path for path, wrong in zip(paths, found, strict=True) if wrong), None)


def packed(index: Index) -> str:
    """Returns the index as text, to be sent to other processes."""
    stream = io.BytesIO()
    # Differences are small numbers, which compress well. Checksums do not, so only those are sent
    # that the other processes compare.
    np.savez_compressed(
        stream,
        shard=index.shard,
        start=np.diff(index.start, prepend=0),
        labels=index.labels,
        checksums=index.checksums[_sampled(index.shard)],
    )
    return base64.b64encode(stream.getvalue()).decode()


def unpacked(text: str, sizes: Sequence[int]) -> Index:
    """Reverses `packed`, for files of these sizes in bytes."""
    arrays = read_npz(io.BytesIO(base64.b64decode(text)), _most_index_bytes(sizes))
    shard = arrays["shard"]
    checksums = np.zeros(len(shard), np.uint32)
    checksums[_sampled(shard)] = arrays["checksums"]
    return Index(shard, np.cumsum(arrays["start"]), arrays["labels"], checksums)


def _read_index(kept: Path, sizes: Sequence[int]) -> Index:
    """Reads an index that `_keep` wrote, for shards of these sizes in bytes.

    Raises:
      OSError: The file is missing or cannot be read.
      ValueError: The index is damaged, or refers to records that the shards cannot have.
    """
    with open_file(kept) as file:
        arrays = read_npz(file, _most_index_bytes(sizes))
    if arrays.keys() != set(Index._fields):
        raise ValueError("its arrays are not those of an index")
    index = Index(**arrays)
    kinds = {"shard": np.int32, "start": np.int64, "labels": np.int64, "checksums": np.uint32}
    for name, array in arrays.items():
        if array.dtype != kinds[name] or array.shape != (len(index.shard),) or not len(array):
            raise ValueError(f"its {name} are not valid")
    if np.any(np.diff(index.shard, prepend=0) < 0) or index.shard[-1] >= len(sizes):
        raise ValueError("it refers to shards that do not exist")
    if index.start.min() < 0 or np.any(index.start >= np.asarray(sizes)[index.shard]):
        raise ValueError("it refers to records after the end of a shard")
    return index


def _keep(path: Path, index: Index) -> None:
    # Several processes may do this at once. Each writes the same content to its own temporary file
    # and renames it.
    make_folder(path.parent, parents=True)
    replace_file(path, lambda stream: np.savez(stream, **index._asdict()), durable=False)


def _most_index_bytes(sizes: Sequence[int]) -> int:
    """Returns the memory of an index of the most (empty) records that fit in the files."""
    records = sum(sizes) // (HEADER.size + FOOTER.size)
    return records * _INDEX_BYTES + _INDEX_HEADERS_BYTES


def _sampled(shard: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Returns the first and last record of each file, and others spread over all; int64 [n].

    Args:
      shard: int32 [N], the file of each record. The records of a file are contiguous.
    """
    first = np.flatnonzero(np.diff(shard, prepend=-1))
    last = np.append(first[1:], len(shard)) - 1
    spread = np.linspace(0, len(shard) - 1, min(len(shard), _SAMPLED)).astype(np.int64)
    return np.unique(np.concatenate([first, last, spread]))

"""Opens the data of a run on all processes and checks that all have the same data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.config import Config, DataConfig
from pipeline.data.duplicates import find_duplicates
from pipeline.data.fingerprint import file_sizes, relative_names, sampled
from pipeline.data.sources.saved_listing import read_listing
from pipeline.data.sources.source import (
    DataSource,
    measure_normalization,
    open_source,
    scan_source,
    with_first_label,
)
from pipeline.data.split import Color, Split
from pipeline.runs.folder import RunFolder
from pipeline.runtimes.agreement import check_same, on_all, on_chief
from pipeline.runtimes.runtime import Runtime
from pipeline.strict_json import to_json

_SHOWN = 5
_MAX_SIZES = 4096  # number of file sizes to compare


def open_data(
    config: Config, runtime: Runtime, first_label: int | None = None
) -> tuple[DataSource, Color, Color]:
    """Opens the data set and measures the mean and std of its pixels.

    All processes must call it. Only the chief indexes TFRecord files, measures pixels and searches
    for duplicates. Every process lists the files, and the lists must be the same.

    Args:
      config: The settings.
      runtime: Connects the processes.
      first_label: The label of class 0 in TFRecord files that the run has recorded. The setting
        `data.first_label` takes precedence.

    Returns:
      The data set, and mean and std of each color channel, for pixels between 0 and 1.

    Raises:
      PipelineError: On every process, with the exit code of the cause. The data is missing or
        invalid on one process, or differs between processes.
    """
    data = with_first_label(config.data, first_label)
    scanned = None
    if runtime.world_size > 1:
        scanned = on_chief(runtime, lambda: scan_source(data))
    source = on_all(
        runtime, lambda: _saved(config, data) or open_source(data, config.seed, scanned)
    )
    check_data(runtime, source)
    mean, std, notes = on_chief(runtime, lambda: _measure(source, config))
    return replace(source, notes=(*source.notes, *notes)), _color(mean), _color(std)


def _saved(config: Config, data: DataConfig) -> DataSource | None:
    """The data set as its list in the run folder describes it; None without a valid list."""
    return None if config.run.dir is None else read_listing(RunFolder(config.run_dir).listing, data)


def check_data(runtime: Runtime, source: DataSource) -> None:
    """Raises an error unless the data is the same on all processes. All must call it.

    Raises:
      PipelineError: On every process, with DataError's exit code. The message names the ranks and
        the differences.
    """
    if runtime.world_size == 1:
        return
    facts = on_all(runtime, lambda: data_facts(source))
    check_same(
        runtime, facts, lambda first, own: _differences(first, own, source), "data",
        "All hosts need the same files. Copy them to all hosts, or use shared storage",
    )  # fmt: skip


def data_facts(source: DataSource) -> dict[str, Any]:
    """Facts about the data that must be equal on all processes; JSON-serializable.

    These are the class names, the metadata of the data set, and for each split its number of
    examples, a digest and, if it consists of image files, the sizes of a sample of files.
    """
    return {
        "classes": list(source.classes),
        "set": {
            "mean and deviation": source.normalization,
            "image size": source.image_shape,
            "label of class 0": source.first_label,
        },
        "examples": {name: split.num_examples for name, split in source.splits.items()},
        "digests": {name: _digest(split) for name, split in source.splits.items()},
        "sizes": {name: _sampled_sizes(split) for name, split in source.splits.items()},
    }


def _measure(source: DataSource, config: Config) -> list[Any]:
    mean, std = measure_normalization(source, config.data)
    duplicates = None if source.compared else find_duplicates(source)
    notes = () if duplicates is None else duplicates.notes(source.classes)
    return [list(mean), list(std), list(notes)]


def _color(values: Sequence[float]) -> Color:
    red, green, blue = values
    return red, green, blue


def _digest(split: Split) -> str:
    """Digest of the labels and names of all examples in order, or of the images in memory.

    It does not read image files: with many processes, that would overload shared storage.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(split.labels, "<i4").tobytes(), digest_size=16)
    if split.images is not None:
        digest.update(np.ascontiguousarray(split.images).data)
    for name in relative_names(split.paths or ()):
        digest.update(name + b"\0")
    for part in split.records.identity() if split.records is not None else ():
        digest.update(part)
    return digest.hexdigest()


def _sampled_sizes(split: Split) -> list[int]:
    """Sizes of up to 4,096 files in bytes, the same files on all processes; -1 if not readable.

    With 32 requests in parallel and 1 ms per request, the sizes of a million files on shared
    storage would take half a minute, while all processes send requests at once. 4,096 files take
    0.1 s.
    """
    if split.paths is None:
        return []
    chosen = [split.paths[index] for index in sampled(len(split.paths), _MAX_SIZES)]
    sizes: list[int] = file_sizes(chosen).tolist()
    return sizes


def _differences(first: Mapping[str, Any], own: Mapping[str, Any], source: DataSource) -> list[str]:
    """Differences between the data of rank 0 and of this process, one line each."""
    lines = []
    if first["classes"] != own["classes"]:
        lines.append(f"classes: {_class_difference(first['classes'], own['classes'])}")
    lines += [
        f"{what}: {there} on rank 0, {own['set'][what]} on this rank"
        for what, there in first["set"].items()
        if to_json(there) != to_json(own["set"][what])
    ]
    for name in dict.fromkeys([*first["examples"], *own["examples"]]):
        there, here = (facts["examples"].get(name, 0) for facts in (first, own))
        if there != here:
            lines.append(f"{name}: {there:,} images on rank 0, {here:,} on this rank")
        elif first["digests"].get(name) != own["digests"].get(name):
            lines.append(
                f"{name}: the same number of images, but with other names or labels, or in another "
                "order"
            )
        elif first["sizes"][name] != own["sizes"][name]:
            lines.append(_size_difference(first["sizes"][name], own["sizes"][name], source, name))
    return lines


def _size_difference(
    first: Sequence[int], own: Sequence[int], source: DataSource, name: str
) -> str:
    split = source.splits[name]
    differing = [number for number, sizes in enumerate(zip(first, own, strict=True))
                 if sizes[0] != sizes[1]]  # fmt: skip
    number = differing[0]
    place = int(sampled(split.num_examples, _MAX_SIZES)[number])
    there, here = (
        "cannot be read" if size < 0 else f"has {size:,} bytes"
        for size in (first[number], own[number])
    )
    return (
        f"{name}: {len(differing):,} of {len(own):,} compared files have other sizes: "
        f"{split.name(place)} {here}, but {there} on rank 0"
    )


def _class_difference(first: Sequence[str], own: Sequence[str]) -> str:
    missing, more = sorted(set(first) - set(own)), sorted(set(own) - set(first))
    parts = [
        f"only {where}: {', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}"
        for where, names in (("on rank 0", missing), ("on this rank", more))
        if names
    ]
    return "; ".join(parts) or "the same names in another order"

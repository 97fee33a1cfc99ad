"""The data of a run is opened: by one process for all where that is possible, and compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.data.duplicates import find_duplicates
from pipeline.data.fingerprint import relative_names
from pipeline.data.sources.source import (
    DataSource,
    measure_normalization,
    open_source,
    scan_source,
    with_first_label,
)
from pipeline.data.split import Colour, Split
from pipeline.distribute.agreement import check_same, on_all, on_chief
from pipeline.distribute.runtime import Runtime

_SHOWN = 5


def open_data(
    config: Config, runtime: Runtime, first_label: int | None = None
) -> tuple[DataSource, Colour, Colour]:
    """Opens the data set, and measures the mean and deviation of its colours, in units of 0..1.

    All processes must call it. The chief alone indexes TFRecord files, measures colours and looks
    for duplicates. Every process lists the files, and all must have found the same.

    Args:
      config: All settings.
      runtime: Joins the processes.
      first_label: The label of class 0 in TFRecord files that the run recorded; a setting goes
        before it.

    Raises:
      PipelineError: On every process, with the exit code of what went wrong: the data is missing
        or wrong on one of them, or differs between them.
    """
    data = with_first_label(config.data, first_label)
    scanned = None
    if runtime.world_size > 1:
        scanned = on_chief(runtime, lambda: scan_source(data))
    source = on_all(runtime, lambda: open_source(data, config.seed, scanned))
    if runtime.world_size > 1:
        check_same(
            runtime, data_facts(source), _differences, "data",
            "All hosts need the same files: copy them, or use shared storage",
        )  # fmt: skip
    mean, std, notes = on_chief(runtime, lambda: _measure(source, config))
    return replace(source, notes=(*source.notes, *notes)), _colour(mean), _colour(std)


def data_facts(source: DataSource) -> dict[str, Any]:
    """What all processes must have in common: class names, and of each split size and digest."""
    return {
        "classes": list(source.classes),
        "examples": {name: split.num_examples for name, split in source.splits.items()},
        "digests": {name: _digest(split) for name, split in source.splits.items()},
    }


def _measure(source: DataSource, config: Config) -> list[Any]:
    mean, std = measure_normalization(source, config.data)
    duplicates = None if source.compared else find_duplicates(source)
    notes = () if duplicates is None else duplicates.notes(source.classes)
    return [list(mean), list(std), list(notes)]


def _colour(values: Sequence[float]) -> Colour:
    red, green, blue = values
    return red, green, blue


def _digest(split: Split) -> str:
    """Of the labels and of what the examples are called, in their order.

    No file is looked at: with many processes that would strain shared storage.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(split.labels, "<i4").tobytes(), digest_size=16)
    for name in relative_names(split.paths or ()):
        digest.update(name + b"\0")
    for part in split.records.identity() if split.records is not None else ():
        digest.update(part)
    return digest.hexdigest()


def _differences(first: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """How this process's data differs from that of rank 0, a line each."""
    lines = []
    if first["classes"] != own["classes"]:
        lines.append(f"classes: {_class_difference(first['classes'], own['classes'])}")
    for name in dict.fromkeys([*first["examples"], *own["examples"]]):
        there, here = (facts["examples"].get(name, 0) for facts in (first, own))
        if there != here:
            lines.append(f"{name}: {there:,} images on rank 0, {here:,} there")
        elif first["digests"].get(name) != own["digests"].get(name):
            lines.append(
                f"{name}: as many images, but of other names or labels, or in another order"
            )
    return lines


def _class_difference(first: Sequence[str], own: Sequence[str]) -> str:
    missing, more = sorted(set(first) - set(own)), sorted(set(own) - set(first))
    parts = [
        f"only {where}: {', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}"
        for where, names in (("on rank 0", missing), ("there", more))
        if names
    ]
    return "; ".join(parts) or "the same names in another order"

"""Combines the reports of all shards: dataset.json, labels, and lists for the user."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pipeline.data.duplicates import Duplicates, Place, find_pairs
from pipeline.data.prepare.shard_file import ShardReport, ShardTask
from pipeline.data.sources.records import FACTS, FORMAT, SetFacts, ShardFacts, SplitFacts
from pipeline.data.sources.source import moments
from pipeline.data.split import DataSource
from pipeline.errors import DataError
from pipeline.printable import printable
from pipeline.storage.folders import remove_file, remove_folder
from pipeline.storage.write import replace_file

DUPLICATES = "duplicates.txt"
CONFLICTS = "conflicts.txt"


def describe_set(
    source: DataSource, out: Path, tasks: Sequence[ShardTask], reports: Sequence[ShardReport]
) -> SetFacts:
    """Writes labels and lists of equal images, and finally dataset.json, which completes the set.

    Raises:
      DataError: A split has no readable images, or the folder cannot be written to.
    """
    splits = {}
    classes = tuple(map(printable, source.classes))
    for name in source.splits:
        mine = [(t, r) for t, r in zip(tasks, reports, strict=True) if t.split_name == name]
        if not any(report.labels for _, report in mine):
            raise DataError(f"{source.splits[name].title}: no image can be read")
        splits[name] = _split_facts(name, classes, out, mine)
    train = [r for t, r in zip(tasks, reports, strict=True) if t.split_name == "train"]
    mean, std = moments(np.sum([report.histogram for report in train], axis=0))
    filled = [report for report in reports if report.labels]
    found = _find_pairs(tasks, reports)
    duplicates = [f"{a.split}\t{a.name}\t{b.split}\t{b.name}" for a, b in found.splits]
    write_lists(out / DUPLICATES, duplicates)
    conflicts = [
        f"{classes[a.label]}\t{a.name}\t{classes[b.label]}\t{b.name}" for a, b in found.labels
    ]
    write_lists(out / CONFLICTS, conflicts)
    facts = SetFacts(
        format=FORMAT,
        tool=f"vit-pipeline {version('vit-pipeline')}",
        classes=classes,
        mean=mean,
        std=std,
        smallest=(min(r.smallest[0] for r in filled), min(r.smallest[1] for r in filled)),
        largest=(max(r.largest[0] for r in filled), max(r.largest[1] for r in filled)),
        unreadable=sum(len(report.unreadable) for report in reports),
        repaired=sum(len(report.repaired) for report in reports),
        converted=sum(report.converted for report in reports),
        reduced=sum(report.reduced for report in reports),
        duplicates=len(duplicates),
        conflicts=len(conflicts),
        splits=splits,
    )
    _write(out / FACTS, facts.model_dump_json(indent=1).encode())
    remove_folder(tasks[0].reports, below=out)
    return facts


def write_lists(path: Path, lines: Sequence[str]) -> None:
    """Writes a list for the user, or removes an old one if there is nothing to list."""
    if lines:
        _write(path, "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace"))
    else:
        remove_file(path)


def _split_facts(
    name: str, classes: Sequence[str], out: Path, mine: Sequence[tuple[ShardTask, ShardReport]]
) -> SplitFacts:
    labels = np.concatenate([np.array(report.labels, np.int32) for _, report in mine])
    stream = io.BytesIO()
    np.save(stream, labels, allow_pickle=False)
    file = f"{name}.labels.npy"
    _write(out / file, stream.getvalue())
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    return SplitFacts(
        examples=len(labels),
        per_class=dict(zip(classes, counts, strict=True)),
        labels=file,
        labels_sha256=hashlib.sha256(stream.getvalue()).hexdigest(),
        shards=tuple(
            ShardFacts(
                file=task.file.name,
                examples=len(report.labels),
                size=report.size,
                sha256=report.sha256,
                inputs=report.inputs,
            )
            for task, report in mine
        ),
    )


def _find_pairs(tasks: Sequence[ShardTask], reports: Sequence[ShardReport]) -> Duplicates:
    """Finds images with the same pixels in two splits or with two labels."""
    return find_pairs(
        (content, Place(task.split_name, label, name))
        for task, report in zip(tasks, reports, strict=True)
        for content, label, name in zip(report.contents, report.labels, report.names, strict=True)
    )


def _write(path: Path, content: bytes) -> None:
    try:
        replace_file(path, content)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from None

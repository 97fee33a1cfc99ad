"""Verifies all files of a prepared data set: checksums, records, images and labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.decode.unreadable import UnreadableError
from pipeline.data.encode import read_whole_image
from pipeline.data.prepare.prepare import Done, run_in_processes
from pipeline.data.prepare.shard_file import hash_file
from pipeline.data.sources.array_files import SUFFIX, PixelShard, read_shard
from pipeline.data.sources.example import IMAGE_KEY, LABEL_KEY, bytes_feature, int_feature
from pipeline.data.sources.records import (
    ArrayRecordShard,
    SetFacts,
    ShardFacts,
    read_facts,
    read_labels,
)
from pipeline.errors import DataError


@dataclass(frozen=True)
class _Check:
    """A shard to verify, its labels, and the largest height and width of an image."""

    path: Path
    facts: ShardFacts
    labels: npt.NDArray[np.int32]
    largest: tuple[int, int]


def verify(root: Path, processes: int, on_done: Done) -> tuple[SetFacts, list[str]]:
    """Reads every record and decodes every image of a prepared data set.

    Args:
      root: The folder.
      processes: Number of parallel processes.
      on_done: Called with the number of examples of each verified shard.

    Returns:
      The content of dataset.json, and a list of problems.

    Raises:
      DataError: dataset.json or a file of labels is missing or damaged.
    """
    facts = read_facts(root)
    checks = []
    for split in facts.splits.values():
        labels, first = read_labels(root, split), 0
        for shard in split.shards:
            part = labels[first : first + shard.examples]
            checks.append(_Check(root / shard.file, shard, part, facts.largest))
            first += shard.examples
    wrong: dict[Path, list[str]] = {}

    def on_result(check: _Check, problems: list[str]) -> None:
        wrong[check.path] = problems
        on_done(check.facts.examples)

    run_in_processes(_problems, checks, min(processes, len(checks)), on_result)
    return facts, [problem for check in checks for problem in wrong[check.path]]


def _problems(check: _Check) -> list[str]:
    try:
        size = check.path.stat().st_size
        if size != check.facts.size:
            return [f"{check.path} must have {check.facts.size} bytes, but has {size}"]
        if check.path.name.endswith(SUFFIX):
            return _pixel_problems(check)
        digest = hash_file(check.path)
    except OSError as error:
        return [f"{check.path}: {error.strerror}"]
    problems = []
    if digest != check.facts.sha256:
        problems.append(f"{check.path} was altered: its checksum is wrong")
    try:
        shard = ArrayRecordShard(str(check.path), check.facts.examples)
    except DataError as error:
        return [*problems, str(error)]
    for number, label in enumerate(check.labels.tolist()):
        problem = _record_problem(shard, number, label, check.largest[0] * check.largest[1])
        if problem is not None:
            problems.append(f"{check.path}[{number}]: {problem}")
    shard.close()
    return problems


def _pixel_problems(check: _Check) -> list[str]:
    if not check.facts.examples:
        return []
    try:
        read_shard(PixelShard(check.path, check.facts.examples, check.facts.sha256), check.largest)
    except DataError as error:
        return [str(error)]
    return []


def _record_problem(
    shard: ArrayRecordShard, number: int, label: int, max_pixels: int
) -> str | None:
    try:
        record = shard.read(number)
        found = int_feature(record, LABEL_KEY)
        read_whole_image(bytes_feature(record, IMAGE_KEY), max_pixels)
    except MemoryError:
        return "there is not enough memory to decode it"
    except (DataError, ValueError, UnreadableError) as error:
        return str(error)
    return None if found == label else f"its label is {found}, but the file of labels has {label}"

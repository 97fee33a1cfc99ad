"""A prepared set in words: what it contains, and what is wrong with it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from pipeline.data.prepare.prepare import REPAIRED, UNREADABLE
from pipeline.data.prepare.set_facts import CONFLICTS, DUPLICATES
from pipeline.data.sources.records import FACTS, SetFacts
from pipeline.errors import DataError

_MOST_PROBLEMS = 20


def summarize(facts: SetFacts, out: Path) -> str:
    """Describes a prepared set in a few lines.

    Args:
      facts: The content of `dataset.json`.
      out: The folder of the set.
    """
    counts = ", ".join(f"{split.examples:,} {name}" for name, split in facts.splits.items())
    shards = [shard for split in facts.splits.values() for shard in split.shards]
    lines = [
        (
            f"{counts} images of {len(facts.classes)} classes in {len(shards)} shards, "
            f"{sum(shard.size for shard in shards) / 1e6:,.1f} MB"
        ),
        (
            f"height {facts.smallest[0]} to {facts.largest[0]}, width {facts.smallest[1]} to "
            f"{facts.largest[1]}, mean {_numbers(facts.mean)}, deviation {_numbers(facts.std)}"
        ),
    ]
    if facts.converted:
        lines.append(f"{facts.converted} images in other formats were converted to PNG")
    if facts.reduced:
        lines.append(f"{facts.reduced} large images were reduced and stored as JPEG")
    if facts.unreadable:
        lines.append(f"{facts.unreadable} unreadable images were left out: {out / UNREADABLE}")
    if facts.repaired:
        lines.append(
            f"warning: libjpeg repaired damaged data of {facts.repaired} images, which are used: "
            f"{out / REPAIRED}"
        )
    if facts.duplicates:
        lines.append(
            f"warning: {facts.duplicates} images have the same pixels as an image of another "
            f"split: {out / DUPLICATES}"
        )
    if facts.conflicts:
        lines.append(
            f"warning: {facts.conflicts} images have the same pixels as an image with another "
            f"label: {out / CONFLICTS}"
        )
    path = shlex.quote(f"data.path={out}")
    lines.append(f"train from it   vit train RECIPE data.source=records {path}")
    return "\n".join(lines)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def damage_error(out: Path, problems: Sequence[str]) -> DataError:
    """Returns the error for a prepared set in which `verify` found problems."""
    shown = "\n".join(f"  {problem}" for problem in problems[:_MOST_PROBLEMS])
    rest = len(problems) - _MOST_PROBLEMS
    more = f"\n  and {rest} more" if rest > 0 else ""
    return DataError(
        f"{out} is damaged:\n{shown}{more}\nCopy these files again, or remove {out / FACTS} and "
        "prepare the set again"
    )

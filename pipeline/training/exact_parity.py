"""The exact parity check, for recipes with `train.deterministic`: any number of workers must train
the same bits as one.

Compares hashes of the weights after each step. parity_training.py trains them. This module does not
import TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.storage.read import read_file
from pipeline.storage.write import replace_file
from pipeline.strict_json import from_json, to_json


@dataclass(frozen=True)
class ExactResult:
    """What one process trained for the exact parity check.

    Attributes:
      sha256: SHA-256 of the bytes of all tensors after the last step, in their order.
      tensors: Names in the order of the model: "PATH" of the weights, then "average/PATH".
      hashes: SHA-256 of each tensor after each step, [steps][tensors].
      losses: Mean loss of each step, float64 as written by `float.hex`, [steps].
    """

    sha256: str
    tensors: Sequence[str]
    hashes: Sequence[Sequence[str]]
    losses: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """The result as JSON-serializable values."""
        return asdict(self)


def save_results(ranks: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes the results of all processes, from `ExactResult.as_json`, by rank."""
    replace_file(path, to_json(ranks))


def load_results(path: Path) -> list[ExactResult]:
    """Reads the results that `save_results` has written, by rank."""
    return [ExactResult(**rank) for rank in from_json(read_file(path))]


def first_difference(ranks: Sequence[ExactResult], reference: ExactResult) -> str | None:
    """Names the first step, and the first tensor in it, that differ from the reference.

    The loss of a step counts as its last tensor.

    Args:
      ranks: Results of all processes of a training run.
      reference: Result of one worker.

    Returns:
      For example "step 3, vit/block_0/mlp/dense_1/kernel", and the ranks unless all of them have
      the same other value; None if every rank has the bits of the reference.
    """
    expected = _rows(reference)
    rows = [_rows(rank) for rank in ranks]
    for step, expected_row in enumerate(expected):
        for place, value in enumerate(expected_row):
            found = [row[step][place] for row in rows]
            if set(found) != {value}:
                name = [*reference.tensors, "loss"][place]
                return f"step {step + 1}, {name}{_name_ranks(found, value)}"
    return None


def _rows(result: ExactResult) -> list[tuple[str, ...]]:
    steps = zip(result.hashes, result.losses, strict=True)
    return [(*hashes, loss) for hashes, loss in steps]


def _name_ranks(found: Sequence[str], expected: str) -> str:
    if len(set(found)) == 1:
        return ""
    wrong = [str(rank) for rank, value in enumerate(found) if value != expected]
    return f", on rank{'s' if len(wrong) > 1 else ''} {', '.join(wrong)}"

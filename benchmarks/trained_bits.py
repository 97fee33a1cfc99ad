"""The SHA-256 of what a training run has produced."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file

from pipeline.runs.checkpoints.store import CheckpointStore
from pipeline.storage.json_lines import read_json_lines
from pipeline.strict_json import to_json


class TrainedBits(NamedTuple):
    """SHA-256 of a finished run, in hexadecimal digits.

    Attributes:
      weights: Of the weights in the newest checkpoint.
      average: Of their moving average (EMA) there; None if the run keeps none.
      losses: Of all losses in metrics.jsonl, with step and split.
    """

    weights: str
    average: str | None
    losses: str


def read_bits(run: Path) -> TrainedBits:
    """Reads the files of a finished run."""
    checkpoints = CheckpointStore(run / "checkpoints")
    newest = checkpoints.path(checkpoints.steps()[-1])
    average = newest / "average.safetensors"
    return TrainedBits(
        digest_of_tensors(load_file(newest / "model.safetensors")),
        digest_of_tensors(load_file(average)) if average.exists() else None,
        digest_of_losses(read_rows(run)),
    )


def read_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, as far as they are complete."""
    return read_json_lines(run / "metrics.jsonl", lambda row: "loss" in row)[0]


def digest_of_tensors(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the names, types, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def digest_of_losses(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 of all digits of the losses. The order of rows does not matter."""
    # A resumed run may write the rows of a step in another order.
    losses = sorted((row["step"], row["split"], to_json(row["loss"])) for row in rows)
    return hashlib.sha256(to_json(losses).encode()).hexdigest()

"""What the functions of the Python API return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Metrics:
    """Means over all examples of a split.

    Attributes:
      loss: Cross-entropy.
      accuracy: Fraction in 0..1 of examples whose most likely class is the label.
      top_5_accuracy: Fraction in 0..1 of examples with the label among the five most likely
        classes.
    """

    loss: float | None
    accuracy: float | None
    top_5_accuracy: float | None

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Metrics:
        """The metrics of a row of metrics.jsonl. A value that is not finite there is None."""
        return cls(row.get("loss"), row.get("accuracy"), row.get("top_5_accuracy"))


@dataclass(frozen=True)
class RunResult:
    """The result of a finished run.

    Attributes:
      folder: The run folder.
      step: The step of the best weights, which the metrics are of.
      validation: Metrics on the validation split; None if the data set has none, or the run ended
        before its first evaluation.
      test: Metrics on the test split; None if the data set has none.
    """

    folder: Path
    step: int | None
    validation: Metrics | None
    test: Metrics | None


@dataclass(frozen=True)
class Evaluation:
    """The best weights of a run, evaluated on a split.

    Attributes:
      split: The name of the split.
      step: The step of the weights.
      metrics: The metrics.
      examples: Number of examples that were counted.
      skipped_examples: Number of images that cannot be read.
      same_images: Whether these are the images that the run recorded; None if the run recorded
        only their number.
    """

    split: str
    step: int
    metrics: Metrics
    examples: int
    skipped_examples: int
    same_images: bool | None

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Evaluation:
        """The evaluation in a row as `vit evaluate --json` prints it."""
        return cls(
            row["split"], row["step"], Metrics.of_row(row), row["examples"],
            row["skipped_examples"], row["same_images"],
        )  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """What a model says about one image.

    Attributes:
      image: The path of the file.
      top: Class names with their probabilities, the most likely class first. Empty if the image
        cannot be read.
      problem: Why the image cannot be read; None if it was.
    """

    image: str
    top: tuple[tuple[str, float], ...]
    problem: str | None = None

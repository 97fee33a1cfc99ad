"""The parity check: N workers must train the same weights as one.

Defines the settings of the check and compares two results. parity_training.py trains them. This
module does not import TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from pipeline.config import Config, parse_config

STEPS = 20
TOLERANCE = 1e-5

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ParityResult:
    """Result of a training run for the parity check.

    Attributes:
      weights: Float32 arrays by "model/PATH" and "average/PATH".
      curves: Float64 [STEPS] by "loss" (mean over the batch), "gradient_norm" (before clipping) and
        "examples" (number of examples over all processes).
      rank_difference: Largest difference between the weights of two processes, as defined by
        `compare_weights`.
    """

    weights: Arrays
    curves: Arrays
    rank_difference: float

    def save(self, path: Path) -> None:
        """Writes the result as safetensors."""
        tensors = {f"weights/{name}": value for name, value in self.weights.items()}
        # safetensors ignores strides and writes the memory of an array as it is.
        tensors |= {f"curves/{n}": np.ascontiguousarray(v) for n, v in self.curves.items()}
        save_file(tensors | {"rank_difference": np.array(self.rank_difference)}, path)

    @classmethod
    def load(cls, path: Path) -> ParityResult:
        """Reads a result that `save` has written."""
        tensors = load_file(path)
        groups: dict[str, dict[str, np.ndarray]] = {"weights": {}, "curves": {}}
        for name, value in tensors.items():
            group, _, rest = name.partition("/")
            if rest:
                groups[group][rest] = value
        return cls(groups["weights"], groups["curves"], float(tensors["rank_difference"]))


@dataclass(frozen=True)
class Comparison:
    """Relative differences between a training run and the reference; 0 means equal.

    Attributes:
      tensor: Name of the tensor with the largest max |difference| / max |weight|.
      worst: That ratio.
      whole: L2 norm of the difference divided by that of the weights, over all tensors.
      loss, gradient_norm: Largest relative difference over all steps.
      examples: Number of examples in the step that differs most, in this training and in the
        reference.
      rank_difference: Largest difference between two processes of this training.
    """

    tensor: str
    worst: float
    whole: float
    loss: float
    gradient_norm: float
    examples: tuple[float, float]
    rank_difference: float

    @property
    def is_same(self) -> bool:
        """Whether both trainings are equal up to float32 rounding."""
        values = (self.worst, self.whole, self.loss, self.gradient_norm, self.rank_difference)
        # NaN fails, because a comparison with NaN is false.
        return all(x <= TOLERANCE for x in values) and self.examples[0] == self.examples[1]


def parity_config(config: Config, clip_norm: float | None) -> Config:
    """Returns the settings of the parity check for a recipe.

    Enables everything that a wrong reduction would affect, and disables everything that uses random
    numbers per replica.

    Args:
      config: The recipe. Its model, data, batch size and learning rate are kept.
      clip_norm: Value of `optim.clip_norm`. A value between the gradient norms of the steps detects
        most errors. Without clipping, or if every step is clipped, a gradient that is N times too
        large has no effect with Adam.
    """
    tree = config.model_dump()
    data, optim = tree["data"], tree["optim"]
    data["label_smoothing"] = data["label_smoothing"] or 0.1
    data["mixup_alpha"] = data["mixup_alpha"] or 0.8
    augment = data["augment"]
    augment["flip"] = True
    augment["crop_padding"] = augment["crop_padding"] or max(1, data["image_size"] // 8)
    tree["model"] |= {"dropout": 0.0, "attention_dropout": 0.0, "stochastic_depth": 0.0}
    optim |= {"clip_norm": clip_norm, "warmup_steps": 5, "ema_momentum": 0.9}
    optim["weight_decay"] = optim["weight_decay"] or 0.05
    tree["train"] |= {"max_steps": STEPS, "precision": "float32"}
    if tree["train"]["xla"] == "auto":  # the choice could differ between one GPU and several
        tree["train"]["xla"] = "never"
    tree["distribute"]["compression"] = "none"
    return parse_config(tree, "parity")


def compare(ours: ParityResult, reference: ParityResult) -> Comparison:
    """Compares a training run with the reference."""
    tensor, worst, whole = compare_weights(ours.weights, reference.weights)
    counts, expected = ours.curves["examples"], reference.curves["examples"]
    furthest = int(np.argmax(np.abs(counts - expected)))
    return Comparison(
        tensor=tensor,
        worst=worst,
        whole=whole,
        loss=_worst_step(ours.curves["loss"], reference.curves["loss"]),
        gradient_norm=_worst_step(ours.curves["gradient_norm"], reference.curves["gradient_norm"]),
        examples=(float(counts[furthest]), float(expected[furthest])),
        rank_difference=ours.rank_difference,
    )


def compare_weights(ours: Arrays, reference: Arrays) -> tuple[str, float, float]:
    """Returns the worst tensor, its max |difference| / max |weight|, and the relative L2 of all.

    The key biases of attention are excluded. Softmax is invariant to a constant, so their exact
    gradient is zero, and Adam amplifies the rounding noise in it.
    """
    names = [name for name in reference if not name.endswith("attention/key/bias")]
    differences = {
        name: ours[name].astype(np.float64) - reference[name].astype(np.float64) for name in names
    }
    relative = {
        name: float(np.abs(d).max() / max(np.abs(reference[name]).max(), 1e-30))
        for name, d in differences.items()
    }
    # Plain max() ignores a NaN that is not the first value.
    tensor = max(names, key=lambda name: (np.isnan(relative[name]), relative[name]))
    square = sum(float((d**2).sum()) for d in differences.values())
    norm = sum(float((reference[name].astype(np.float64) ** 2).sum()) for name in names)
    return tensor, relative[tensor], float(np.sqrt(square / norm))


def _worst_step(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(np.max(np.abs(ours - reference) / np.abs(reference)))

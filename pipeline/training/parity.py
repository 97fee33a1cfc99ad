"""The proof that N workers train what one trains: what is trained, and how far apart it ends.

brief.py trains it. Nothing here needs TensorFlow.
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
class Trace:
    """What a brief training left behind.

    Attributes:
      weights: Float32, by "model/PATH" and "average/PATH".
      curves: Float64 [STEPS] by "loss" (mean over the batch), "gradient_norm" (before clipping) and
        "examples" (how many the step counted, over all processes).
      apart: Largest difference between the weights of two processes, by the measure of `compare`.
    """

    weights: Arrays
    curves: Arrays
    apart: float

    def save(self, path: Path) -> None:
        """Writes it as safetensors."""
        tensors = {f"weights/{name}": value for name, value in self.weights.items()}
        # safetensors writes the memory behind an array, whatever its strides.
        tensors |= {f"curves/{n}": np.ascontiguousarray(v) for n, v in self.curves.items()}
        save_file(tensors | {"apart": np.array(self.apart)}, path)

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Reads what `save` wrote."""
        tensors = load_file(path)
        groups: dict[str, dict[str, np.ndarray]] = {"weights": {}, "curves": {}}
        for name, value in tensors.items():
            group, _, rest = name.partition("/")
            if rest:
                groups[group][rest] = value
        return cls(groups["weights"], groups["curves"], float(tensors["apart"]))


@dataclass(frozen=True)
class Comparison:
    """How far a training is from another; all relative, 0 being equal.

    Attributes:
      tensor: The worst tensor by max |difference| / max |weight|.
      worst: That number.
      whole: L2 of the difference over L2 of the weights, all tensors together.
      loss, gradient_norm: The largest of the steps.
      examples: Counted in the step that is furthest off, and how many the reference counted there.
      apart: Largest difference between two processes of this training.
    """

    tensor: str
    worst: float
    whole: float
    loss: float
    gradient_norm: float
    examples: tuple[float, float]
    apart: float

    @property
    def is_same(self) -> bool:
        """Whether both are the same training, within the rounding of float32."""
        figures = (self.worst, self.whole, self.loss, self.gradient_norm, self.apart)
        # Written so that a NaN is no pass.
        return all(x <= TOLERANCE for x in figures) and self.examples[0] == self.examples[1]


def proof_config(config: Config, clip_norm: float | None) -> Config:
    """The recipe with all on that a wrong reduction would change, and off what draws per replica.

    Args:
      config: Its network, data, batch and learning rate are kept.
      clip_norm: One between the gradient norms of the steps shows most: Adam is blind to a gradient
        that is N times too large, and so is a clip that always acts.
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
    if tree["train"]["xla"] == "auto":  # one GPU may choose otherwise than several
        tree["train"]["xla"] = "never"
    tree["distribute"]["compression"] = "none"
    return parse_config(tree, "parity")


def compare(ours: Trace, reference: Trace) -> Comparison:
    """How far one training is from another."""
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
        apart=ours.apart,
    )


def compare_weights(ours: Arrays, reference: Arrays) -> tuple[str, float, float]:
    """The worst tensor, its max |difference| / max |weight|, and the relative L2 of all.

    The attention's key biases are left out: their true gradient is zero, softmax being blind to a
    constant, and Adam blows up the rounding noise that is left of it.
    """
    names = [name for name in reference if not name.endswith("attention/key/bias")]
    differences = {
        name: ours[name].astype(np.float64) - reference[name].astype(np.float64) for name in names
    }
    relative = {
        name: float(np.abs(d).max() / max(np.abs(reference[name]).max(), 1e-30))
        for name, d in differences.items()
    }
    # max() would pass over a NaN that does not come first.
    tensor = max(names, key=lambda name: (np.isnan(relative[name]), relative[name]))
    square = sum(float((d**2).sum()) for d in differences.values())
    norm = sum(float((reference[name].astype(np.float64) ** 2).sum()) for name in names)
    return tensor, relative[tensor], float(np.sqrt(square / norm))


def _worst_step(ours: np.ndarray, reference: np.ndarray) -> float:
    return float(np.max(np.abs(ours - reference) / np.abs(reference)))

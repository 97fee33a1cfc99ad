"""Published weights and their metadata, read from the layouts of Google, Hugging Face and timm."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

from pipeline.errors import SettingsError
from pipeline.model.weights.layouts import PATCHES, POSITIONS, Arrays, translate

Normalization = tuple[tuple[float, ...], tuple[float, ...]]  # mean, deviation
Gelu = Literal["exact", "tanh"]

_MAX_HEADS = 1024
TOKEN = "class_token/token"  # noqa: S105

# transformers' names of the GELU (src/transformers/activations.py).
_GELU: dict[str, Gelu] = {
    "gelu": "exact",
    "gelu_python": "exact",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "gelu_pytorch_tanh": "tanh",
}


@dataclass(frozen=True)
class Published:
    """A published network: its weights under the names of this package, and its metadata.

    Attributes:
      origin: Source of the layout, for display.
      weights: Arrays from `layouts.translate`.
      names: Name of each array in the file.
      gelu: Form of the GELU in training.
      pool: Input of the head.
      left_out: Tensors of the file that are not weights, such as an optimizer's.
      num_heads: None if the file does not say.
      normalization: Of the pixels in training, or None if the file does not say.
      notes: Other remarks for the user.
    """

    origin: str
    weights: Arrays
    names: Mapping[str, str]
    gelu: Gelu
    pool: Literal["token", "mean"]
    left_out: tuple[str, ...] = ()
    num_heads: int | None = None
    normalization: Normalization | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> dict[str, int]:
        """The size of the network as far as the file shows it, by names of settings in `model`."""
        kernel = self.weights[PATCHES]
        blocks = (re.match(r"block_(\d+)/", name) for name in self.weights)
        size = {
            "patch_size": kernel.shape[0],
            "width": kernel.shape[-1],
            "depth": max((int(m[1]) for m in blocks if m), default=-1) + 1,
        }
        if "block_0/mlp/hidden/bias" in self.weights:
            size["mlp_dim"] = len(self.weights["block_0/mlp/hidden/bias"])
        return size | ({} if self.num_heads is None else {"num_heads": self.num_heads})

    @property
    def grid(self) -> int:
        """Rows of the square grid of positions; 0 if the file has none."""
        return isqrt(len(self.weights[POSITIONS])) if POSITIONS in self.weights else 0

    @property
    def token_has_position(self) -> bool:
        """Whether the first position belongs to the class token."""
        return self.grid > 0 and len(self.weights[POSITIONS]) == self.grid**2 + 1

    @property
    def num_classes(self) -> int:
        """The number of logits; 0 if there is no head."""
        return len(self.weights["head/bias"]) if "head/bias" in self.weights else 0


def read_google(arrays: Arrays, metadata: Mapping[str, Any]) -> Published:
    """Reads the tensors of an .npz file by Google.

    big_vision stores weights below `params/`; older files store them below `opt/target/`. The
    networks use the GELU of flax, which defaults to the tanh form, and pixels from -1 to 1.
    """
    kernels = (name for name in arrays if re.fullmatch("(.*/)?embedding/kernel", name))
    prefix = min(kernels, key=len).removesuffix("embedding/kernel")
    inside = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
    weights, names = translate(inside, "google")
    queries = [a for n, a in inside.items() if n.endswith("query/kernel") and a.ndim == 3]
    return Published(
        "Google's ViT",
        weights,
        {ours: prefix + name for ours, name in names.items()},
        gelu="tanh",
        pool="token" if TOKEN in weights else "mean",
        left_out=tuple(name for name in arrays if not name.startswith(prefix)),
        num_heads=queries[0].shape[1] if queries else None,
        normalization=((0.5,) * 3, (0.5,) * 3),
    )


def read_hugging_face(arrays: Arrays, metadata: Mapping[str, Any]) -> Published:
    """Reads the tensors of a model.safetensors file by Hugging Face.

    Its norms have an epsilon of 1e-12, and ours 1e-6. The difference is not visible in the logits.

    Args:
      arrays: Tensors of the file.
      metadata: Contents of config.json and of preprocessor_config.json in the same folder.

    Raises:
      SettingsError: The network is not a ViT, or config.json is missing.
    """
    kind, heads = metadata.get("model_type", "vit"), metadata.get("num_attention_heads")
    if kind != "vit":
        raise SettingsError(f"its config.json has model_type={kind!s:.40}, but must have vit")
    if heads is None:
        raise SettingsError(
            "a config.json in the same folder must give num_attention_heads, which cannot be "
            "derived from the weights"
        )
    if type(heads) is not int or not 0 < heads <= _MAX_HEADS:
        raise SettingsError(
            f"num_attention_heads in its config.json must be an integer from 1 to {_MAX_HEADS}. "
            f"Received: {heads!r:.40}"
        )
    form = metadata.get("hidden_act", "gelu")
    if not isinstance(form, str) or form not in _GELU:
        raise SettingsError(
            f"its config.json has hidden_act={form!s:.40}, but must have one of {', '.join(_GELU)}"
        )
    weights, names = translate(arrays, "hugging_face")
    return Published(
        "Hugging Face's ViT",
        weights,
        names,
        gelu=_GELU[form],
        pool="token",
        num_heads=heads,
        normalization=_normalization(metadata.get("image_mean"), metadata.get("image_std")),
    )


def read_timm(arrays: Arrays, metadata: Mapping[str, Any]) -> Published:
    """Reads the tensors of a .safetensors file by timm.

    Args:
      arrays: Tensors of the file.
      metadata: Contents of the config.json from the Hub, if present.
    """
    weights, names = translate(arrays, "timm")
    trained = metadata.get("pretrained_cfg") or {}
    if not isinstance(trained, Mapping):
        raise SettingsError("pretrained_cfg in its config.json must be an object")
    notes = ["the file does not give the number of heads, so model.variant decides it"]
    if "fc_norm.weight" in arrays:
        notes.append(
            "it normalizes the mean of the tokens, but this network normalizes each token first: "
            "the head must adapt in training"
        )
    means = (
        TOKEN not in weights or "fc_norm.weight" in arrays or metadata.get("global_pool") == "avg"
    )
    return Published(
        "timm's ViT",
        weights,
        names,
        gelu="exact",
        pool="mean" if means else "token",
        normalization=_normalization(trained.get("mean"), trained.get("std")),
        notes=tuple(notes),
    )


READERS: Mapping[str, Callable[[Arrays, Mapping[str, Any]], Published]] = {
    "google": read_google,
    "hugging_face": read_hugging_face,
    "timm": read_timm,
}


def _normalization(mean: Any, std: Any) -> Normalization | None:
    if not mean or not std:
        return None
    for values in (mean, std):
        if not isinstance(values, list) or not all(type(v) in (int, float) for v in values):
            raise SettingsError(
                "the JSON files must give mean and deviation as lists of numbers. Received: "
                f"{values!r:.100}"
            )
    return tuple(mean), tuple(std)

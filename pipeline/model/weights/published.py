"""A published file's weights and what else it says of its network, whoever wrote it."""

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

_MOST_HEADS = 1024
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
    """A published network: its weights under our names, and what its file says beside them.

    Attributes:
      origin: Whose layout it has.
      weights: Of `layouts.translate`.
      names: What each is called in the file.
      gelu: Form of the GELU it was trained with.
      pool: What its head sees.
      left_out: Tensors of the file that are no weights, such as an optimizer's.
      num_heads: None where the file does not say.
      normalization: Of the pixels it was trained on; None where the file does not say.
      notes: What else its reader should know.
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
        """The network's size as far as the file shows it, by the settings in `model`."""
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
        """Rows of positions, which are as many as columns; 0 where none are in the file."""
        return isqrt(len(self.weights[POSITIONS])) if POSITIONS in self.weights else 0

    @property
    def token_has_position(self) -> bool:
        """Whether the first position is the class token's; the others are of the patches."""
        return self.grid > 0 and len(self.weights[POSITIONS]) == self.grid**2 + 1

    @property
    def num_classes(self) -> int:
        """Length of its logits; 0 where it has no head."""
        return len(self.weights["head/bias"]) if "head/bias" in self.weights else 0


def read_google(arrays: Arrays, facts: Mapping[str, Any]) -> Published:
    """Of an .npz file: big_vision's has the weights below `params/`, an older one `opt/target/`.

    Google's code takes flax's gelu, whose default is the tanh form, and pixels from -1 to 1.
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


def read_hugging_face(arrays: Arrays, facts: Mapping[str, Any]) -> Published:
    """Of model.safetensors.

    Its epsilon of the norms is 1e-12 where ours is 1e-6, which no logit shows.

    Args:
      arrays: Its tensors.
      facts: Of its config.json, and of the preprocessor_config.json beside it.

    Raises:
      SettingsError: It is another network, or config.json is missing.
    """
    kind, heads = facts.get("model_type", "vit"), facts.get("num_attention_heads")
    if kind != "vit":
        raise SettingsError(f"its config.json says model_type={kind!s:.40}, and only vit is taken")
    if heads is None:
        raise SettingsError(
            "its config.json must stand beside it and say num_attention_heads, which the weights "
            "do not show"
        )
    if type(heads) is not int or not 0 < heads <= _MOST_HEADS:
        raise SettingsError(
            f"its config.json must say a number of heads. Received: {heads!r:.40} as "
            "num_attention_heads"
        )
    form = facts.get("hidden_act", "gelu")
    if not isinstance(form, str) or form not in _GELU:
        raise SettingsError(
            f"its config.json says hidden_act={form!s:.40}, and this network has a GELU"
        )
    weights, names = translate(arrays, "hugging_face")
    return Published(
        "Hugging Face's ViT",
        weights,
        names,
        gelu=_GELU[form],
        pool="token",
        num_heads=heads,
        normalization=_normalization(facts.get("image_mean"), facts.get("image_std")),
    )


def read_timm(arrays: Arrays, facts: Mapping[str, Any]) -> Published:
    """Of a .safetensors file.

    Args:
      arrays: Its tensors.
      facts: Of the Hub's config.json, where it is at hand.
    """
    weights, names = translate(arrays, "timm")
    trained = facts.get("pretrained_cfg") or {}
    if not isinstance(trained, Mapping):
        raise SettingsError("its config.json must have an object as pretrained_cfg")
    notes = ["how many heads it has is not in the file, and taken from model.variant"]
    if "fc_norm.weight" in arrays:
        notes.append(
            "its last norm stands after the mean of the tokens, here before: the head has to learn "
            "it"
        )
    means = TOKEN not in weights or "fc_norm.weight" in arrays or facts.get("global_pool") == "avg"
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
                "the JSON beside it must say mean and deviation as lists of numbers. Received: "
                f"{values!r:.100}"
            )
    return tuple(mean), tuple(std)

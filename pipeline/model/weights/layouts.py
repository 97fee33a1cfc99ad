"""Tensor names and shapes in published ViT files, and the matching names in this package.

Google's names are those of the ViT and AugReg papers (github.com/google-research/
vision_transformer) and of current big_vision. Hugging Face's names are those of
ViTForImageClassification and ViTModel in transformers; the pooler there is the pre-logits layer of
the ViT paper. timm's names are those of its VisionTransformer, in which query, key and value form
one matrix.

Flax kernels are [in, out] with a separate axis for the heads; PyTorch kernels are [out, in]. In all
layouts, as in this package, the first d units of a query, key or value belong to the first head.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from pipeline.errors import SettingsError

Arrays = dict[str, np.ndarray]
PATCHES, POSITIONS = "patch_embedding/kernel", "position_embedding/positions"
Layout = Literal["google", "hugging_face", "timm"]


class Row(NamedTuple):
    """A row of a name table. # stands for a block; `theirs` is a regular expression."""

    theirs: str
    ours: str
    kind: str


# fmt: off
_GOOGLE = (
    Row("embedding",                                        "patch_embedding",       "patches"),
    Row("cls",                                              "class_token/token",     "array"),
    Row("(Transformer/(posembed_input/)?)?pos_embedding",   POSITIONS,               "tokens"),
    Row("#/LayerNorm_0",                                    "#/attention_norm",      "norm"),
    Row("#/MultiHeadDotProductAttention_[01]/query",        "#/attention/query",     "to_heads"),
    Row("#/MultiHeadDotProductAttention_[01]/key",          "#/attention/key",       "to_heads"),
    Row("#/MultiHeadDotProductAttention_[01]/value",        "#/attention/value",     "to_heads"),
    Row("#/MultiHeadDotProductAttention_[01]/out",          "#/attention/out",       "of_heads"),
    Row("#/LayerNorm_[12]",                                 "#/mlp_norm",            "norm"),
    Row("#/MlpBlock_[03]/Dense_0",                          "#/mlp/hidden",          "dense"),
    Row("#/MlpBlock_[03]/Dense_1",                          "#/mlp/out",             "dense"),
    Row("Transformer/encoder_norm",                         "norm",                  "norm"),
    Row("pre_logits",                                       "pre_logits",            "dense"),
    Row("head",                                             "head",                  "dense"),
)

_HUGGING_FACE = (
    Row("(vit.)?embeddings.patch_embeddings.projection",    "patch_embedding",       "patches"),
    Row("(vit.)?embeddings.cls_token",                      "class_token/token",     "array"),
    Row("(vit.)?embeddings.position_embeddings",            POSITIONS,               "tokens"),
    Row("#.layernorm_before",                               "#/attention_norm",      "norm"),
    Row("#.attention.attention.query",                      "#/attention/query",     "dense"),
    Row("#.attention.attention.key",                        "#/attention/key",       "dense"),
    Row("#.attention.attention.value",                      "#/attention/value",     "dense"),
    Row("#.attention.output.dense",                         "#/attention/out",       "dense"),
    Row("#.layernorm_after",                                "#/mlp_norm",            "norm"),
    Row("#.intermediate.dense",                             "#/mlp/hidden",          "dense"),
    Row("#.output.dense",                                   "#/mlp/out",             "dense"),
    Row("(vit.)?layernorm",                                 "norm",                  "norm"),
    Row("(vit.)?pooler.dense",                              "pre_logits",            "dense"),
    Row("classifier",                                       "head",                  "dense"),
)

_TIMM = (
    Row("patch_embed.proj",                                 "patch_embedding",       "patches"),
    Row("cls_token",                                        "class_token/token",     "array"),
    Row("pos_embed",                                        POSITIONS,               "tokens"),
    Row("#.norm1",                                          "#/attention_norm",      "norm"),
    Row("#.attn.qkv",                                       "#/attention",           "qkv"),
    Row("#.attn.proj",                                      "#/attention/out",       "dense"),
    Row("#.norm2",                                          "#/mlp_norm",            "norm"),
    Row("#.mlp.fc1",                                        "#/mlp/hidden",          "dense"),
    Row("#.mlp.fc2",                                        "#/mlp/out",             "dense"),
    Row("(fc_)?norm",                                       "norm",                  "norm"),
    Row("pre_logits.fc",                                    "pre_logits",            "dense"),
    Row("head",                                             "head",                  "dense"),
)

# For each kind of row: the suffixes in the file, and the conversion to suffixes and arrays here.
Become = Callable[[np.ndarray], Arrays]
_COMMON: dict[str, dict[str, Become]] = {
    "array":    {"": lambda x: {"": x}},
    "tokens":   {"": lambda x: {"": x.reshape(x.shape[-2:])}},              # [1, T, D] -> [T, D]
}
_FLAX: dict[str, dict[str, Become]] = _COMMON | {
    "norm":     {"/scale":  lambda x: {"/gamma": x},
                 "/bias":   lambda x: {"/beta": x}},
    "dense":    {"/kernel": lambda x: {"/kernel": x},
                 "/bias":   lambda x: {"/bias": x}},
    "patches":  {"/kernel": lambda x: {"/kernel": x},                       # [P, P, 3, D]
                 "/bias":   lambda x: {"/bias": x}},
    "to_heads": {"/kernel": lambda x: {"/kernel": x.reshape(len(x), -1)},  # [D, n, d] -> [D, n d]
                 "/bias":   lambda x: {"/bias": x.reshape(-1)}},            # [n, d] -> [n d]
    "of_heads": {"/kernel": lambda x: {"/kernel": x.reshape(-1, x.shape[-1])},  # [n, d, D] -> ...
                 "/bias":   lambda x: {"/bias": x}},
}
_TORCH: dict[str, dict[str, Become]] = _COMMON | {
    "norm":     {".weight": lambda x: {"/gamma": x},
                 ".bias":   lambda x: {"/beta": x}},
    "dense":    {".weight": lambda x: {"/kernel": x.T},                     # [O, I] -> [I, O]
                 ".bias":   lambda x: {"/bias": x}},
    "patches":  {".weight": lambda x: {"/kernel": x.transpose(2, 3, 1, 0)},  # [D, 3, P, P] -> ours
                 ".bias":   lambda x: {"/bias": x}},
    "qkv":      {".weight": lambda x: _query_key_value(x.T, "kernel"),      # [3 D, D] -> 3 x [D, D]
                 ".bias":   lambda x: _query_key_value(x, "bias")},         # [3 D] -> 3 x [D]
}

#         prefix of a block's names             rows           suffixes
_TABLES: dict[Layout, tuple[str, tuple[Row, ...], dict[str, dict[str, Become]]]] = {
    "google":       (r"Transformer/encoderblock_(?P<block>\d+)",  _GOOGLE,       _FLAX),
    "hugging_face": (r"(vit.)?encoder.layer.(?P<block>\d+)",      _HUGGING_FACE, _TORCH),
    "timm":         (r"blocks.(?P<block>\d+)",                    _TIMM,         _TORCH),
}

# Patterns of unsupported tensors, and the feature that they indicate.
_FOREIGN = (
    (r"MAPHead|probe|attn_pool",                   "attention pooling"),
    (r"conv_root|gn_root|^block\d|backbone",       "a ResNet before the blocks (a hybrid)"),
    (r"dist_token|head_dist|distillation",         "a distillation token (DeiT)"),
    (r"reg_token|register",                        "register tokens"),
    (r"ls\d\.gamma|layer_scale|lambda|\.gamma_\d", "LayerScale (CaiT, DeiT III)"),
    (r"q_norm|k_norm",                             "norms of query and key"),
    (r"norm_pre|pre_layrnorm",                     "a norm before the first block (CLIP)"),
    (r"rope|freqs",                                "rotary positions"),
    (r"relative_position|rel_pos",                 "relative positions (BEiT)"),
    (r"w12|fc1_[gx]|gate",                         "gated MLPs (SwiGLU)"),
    (r"decoder|mask_token",                        "parts of masked pretraining"),
)
# fmt: on

_DIMENSIONS = {"kernel": 2, "bias": 1, "gamma": 1, "beta": 1, "positions": 2, "token": 3}

_SIGNS = (
    ("ours", r"vit/patch_embedding/kernel"),
    ("google", r"(.*/)?embedding/kernel"),
    ("hugging_face", r"(vit\.|deit\.)?embeddings\.patch_embeddings\.projection\.weight"),
    ("timm", r"patch_embed\.proj\.weight"),
)
_LISTED = 5


def recognize(names: Mapping[str, Any]) -> str | None:
    """Recognizes the layout: google, hugging_face, timm, ours (this package's), or None."""
    signs = (who for who, sign in _SIGNS if any(re.fullmatch(sign, name) for name in names))
    return next(signs, None)


def translate(arrays: Arrays, layout: Layout) -> tuple[Arrays, dict[str, str]]:
    """Converts tensors to the names and shapes of this package.

    Names come without the prefix `vit/`. `patch_embedding/kernel` is [P, P, C, D]; all other shapes
    are those of the variables. The dtype is float32.

    Returns:
      The arrays by name, and the name of each in the file.

    Raises:
      SettingsError: A tensor has no counterpart in this network, or an unexpected shape.
    """
    weights: Arrays = {}
    names: dict[str, str] = {}
    foreign = []
    for name, array in arrays.items():
        found = _find(name, layout)
        if found is None:
            foreign.append(name)
            continue
        ours, become = found
        for ending, part in _convert(name, array, ours, become).items():
            if ours + ending in weights:
                raise SettingsError(f"its {name} and {names[ours + ending]} are the same parameter")
            weights[ours + ending], names[ours + ending] = part, name
    if foreign:
        raise SettingsError(_explain(foreign))
    return weights, names


def _convert(name: str, array: np.ndarray, ours: str, become: Become) -> Arrays:
    """Converts one tensor. The keys of the result are suffixes of names in this package."""
    try:
        parts = become(np.asarray(array, np.float32))
    except (ValueError, IndexError, TypeError):
        parts = {}
    strange = [part for ending, part in parts.items() if part.ndim != _dimensions(ours + ending)]
    if strange or not parts:
        raise SettingsError(f"its {name} has an unexpected shape: {array.shape}")
    return parts


def _dimensions(name: str) -> int:
    return 4 if name == PATCHES else _DIMENSIONS[name.rpartition("/")[2]]


def _find(name: str, layout: Layout) -> tuple[str, Become] | None:
    """The name in this package without its suffix, and the conversion of the tensor."""
    block, rows, endings = _TABLES[layout]
    for row in rows:
        for ending, become in endings[row.kind].items():
            pattern = (row.theirs.replace("#", block) + ending).replace(".", r"\.")
            if match := re.fullmatch(pattern, name):
                number = match.groupdict().get("block")
                return row.ours.replace("#", f"block_{number}"), become
    return None


def _explain(foreign: list[str]) -> str:
    """An error message that lists unsupported tensors and the features that they indicate."""
    signs = [what for sign, what in _FOREIGN if any(re.search(sign, name) for name in foreign)]
    listed = ", ".join(sorted(foreign)[:_LISTED])
    more = f" and {len(foreign) - _LISTED} more" if len(foreign) > _LISTED else ""
    what = f": {', '.join(signs)}" if signs else ""
    return f"its network is not supported{what}. Unsupported tensors: {listed}{more}"


def _query_key_value(joined: np.ndarray, what: str) -> Arrays:
    """[..., 3 n d] -> three of [..., n d]"""
    parts = np.split(joined, 3, axis=-1)
    return {f"/{n}/{what}": p for n, p in zip(("query", "key", "value"), parts, strict=True)}

"""Finds a file of published weights, detects its format by content, and reads its tensors."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  safetensors reads bfloat16 with it
from safetensors import SafetensorError
from safetensors.numpy import load_file

from pipeline.errors import SettingsError
from pipeline.model.weights.catalog import CATALOG
from pipeline.model.weights.layouts import PATCHES, POSITIONS, Arrays, recognize
from pipeline.model.weights.published import READERS, TOKEN, Published
from pipeline.storage.npz import ArraysRefused, member_names, read_npz
from pipeline.storage.read import open_file, read_file
from pipeline.strict_json import from_json

# Trained weights hardly compress, so a higher ratio indicates a decompression bomb.
_MAX_RATIO, _SMALL_BYTES = 4, 64 * 2**20
_MAX_METADATA_BYTES = 2**20
_WEIGHTS = ("*.safetensors", "*.npz")
_CONVERT = (
    "it is a PyTorch pickle, which can run arbitrary code when it is loaded. Convert it on a "
    "machine with PyTorch: safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
    '"model.safetensors")'
)


def read_published(path: Path) -> Published:
    """Reads published weights from a file, or from the folder that contains it.

    Raises:
      SettingsError: The file is missing or unreadable, or its network is not supported.
    """
    file = _find_file(path)
    try:
        arrays = _read_tensors(file)
        layout = recognize(arrays)
        if layout == "ours":
            raise SettingsError(
                "it belongs to a checkpoint or an export of this pipeline. Give the run folder"
            )
        if layout is None:
            some = ", ".join(sorted(arrays)[:3]) or "none"
            raise SettingsError(
                "it is not a ViT in the layout of Google, Hugging Face or timm: it has no patch "
                f"embedding among its tensors ({some}, ...)"
            )
        published = READERS[layout](arrays, _read_metadata(file.parent))
        _check(published)
    except SettingsError as error:
        raise SettingsError(f"model.pretrained={path}: {error}") from None
    return published


def _find_file(path: Path) -> Path:
    if not path.exists():
        raise SettingsError(_explain_missing(path))
    if path.is_file():
        return path
    whole = path / "model.safetensors"
    files = [whole] if whole.exists() else [f for p in _WEIGHTS for f in sorted(path.glob(p))]
    if len(files) == 1:
        return files[0]
    if files:
        raise SettingsError(
            f"model.pretrained={path}: there are several weights files, such as {files[0].name} "
            f"and {files[1].name}. Give the path of one"
        )
    pickles = sorted(path.glob("*.bin")) + sorted(path.glob("*.pth"))
    if pickles:
        raise SettingsError(f"model.pretrained={pickles[0]}: {_CONVERT}")
    raise SettingsError(
        f"model.pretrained={path}: this is neither a run folder (no config.yaml) nor a folder "
        "with model.safetensors or an .npz file"
    )


def _explain_missing(path: Path) -> str:
    by_name = {entry.name: entry for entry in CATALOG}
    if entry := by_name.get(str(path)):
        command, place = entry.download
        settings = " ".join(f"{key}={value}" for key, value in entry.settings.items())
        return (
            f"model.pretrained={path} is the name of a published checkpoint, but must be a path. "
            f"`vit train` downloads nothing. Download the checkpoint and set:\n"
            f"  {command}\n"
            f"  model.pretrained={place} {settings}"
        )
    close = difflib.get_close_matches(str(path), by_name, n=1, cutoff=0.7)
    hint = f" Did you mean the published checkpoint {close[0]}?" if close else ""
    return (
        f"model.pretrained={path}: no such file or folder.{hint} `vit train` downloads nothing. "
        "`vit pretrained list` shows published checkpoints and their URLs"
    )


def _read_tensors(file: Path) -> Arrays:
    """Reads all tensors of a file. The format is detected by content, not by name."""
    try:
        with open_file(file) as stream:
            start = stream.read(9)
        if start[:4] == b"PK\x03\x04":
            return _read_zip(file)
        if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise SettingsError(_CONVERT)
        if start[8:] == b"{":
            return load_file(file)
    except SafetensorError as error:
        raise SettingsError(f"it is damaged or incomplete: {error}. Download it again") from None
    except OSError as error:
        raise SettingsError(f"it cannot be read: {error.strerror or error}") from None
    raise SettingsError("its content is neither .npz nor .safetensors")


def _read_zip(file: Path) -> Arrays:
    with open_file(file) as stream:
        limit = _MAX_RATIO * os.fstat(stream.fileno()).st_size + _SMALL_BYTES
        try:
            if any(name.endswith("data.pkl") for name in member_names(stream)):
                raise SettingsError(_CONVERT)
            return read_npz(stream, limit)
        except ArraysRefused as error:
            raise SettingsError(f"it is rejected: {error}. Download it again") from None


def _read_metadata(folder: Path) -> dict[str, Any]:
    """Reads the JSON files in the same folder as the weights."""
    metadata: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "config.json"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            content = from_json(read_file(file, limit_bytes=_MAX_METADATA_BYTES))
        except (OSError, ValueError) as error:
            raise SettingsError(f"{file} cannot be read: {error}") from None
        if not isinstance(content, dict):
            raise SettingsError(f"{file} must contain a JSON object")
        metadata |= content
    return metadata


def _check(published: Published) -> None:
    """Rejects weights that no network of this package can have."""
    weights = published.weights
    height, width, *_ = weights[PATCHES].shape
    if height != width:
        raise SettingsError(f"its patches must be square. Received: {height} x {width} pixels")
    if POSITIONS in weights and len(weights[POSITIONS]) - published.grid**2 not in (0, 1):
        raise SettingsError(
            f"its {len(weights[POSITIONS])} positions do not form a square grid, with or without a "
            "class token"
        )
    if published.token_has_position and TOKEN not in weights:
        raise SettingsError(
            f"its {len(weights[POSITIONS])} positions form a square grid plus a class token, but "
            "it has no class token"
        )

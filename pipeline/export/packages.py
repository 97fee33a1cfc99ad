"""Packages that a format needs in addition to those of the pipeline."""

from __future__ import annotations

from importlib.util import find_spec

from pipeline.errors import SettingsError

# For each format, what `vit export` needs to write, load and compare it.
NEEDED = {"onnx": ("tf2onnx", "onnx", "onnxruntime")}


def require(*packages: str) -> None:
    """Raises SettingsError if a package of the extra `onnx` is not installed."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise SettingsError(
            f"ONNX needs {' and '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed: pip install "
            "'vit-pipeline[onnx]', or pip install tf2onnx onnx onnxruntime. The other formats of "
            "`vit export` need no extra packages: saved_model, keras, safetensors"
        )


def is_available(form: str) -> bool:
    """Whether the packages of a format are installed."""
    return all(find_spec(package) is not None for package in NEEDED.get(form, ()))

"""Reads settings from a recipe: a YAML file, its `base:`, and settings on the command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config.settings import Config, all_settings
from pipeline.errors import SettingsError


class _Loader(yaml.SafeLoader):
    """PyYAML follows YAML 1.1, where 1e-3 is a string; YAML 1.2 and every user read a number."""


# PyYAML copies the table of its base class here before it adds to it.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_config(recipe: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a recipe and what it inherits, applies `section.key=value`, and checks the result.

    Args:
      recipe: Path of a YAML file; its `base:` names another, relative to it.
      overrides: Settings in the form `section.key=value`, value in YAML; the last one wins.

    Raises:
      SettingsError: A file is missing, a key unknown, or a value not allowed.
    """
    recipe = Path(recipe)
    tree = _read_recipe(recipe, ())
    for override in overrides:
        _apply_override(tree, override)
    if not (tree.get("run") or {}).get("dir"):
        tree["run"] = {**(tree.get("run") or {}), "dir": f"runs/{recipe.stem}"}
    return parse_config(tree, str(recipe))


def parse_config(tree: dict[str, Any], origin: str) -> Config:
    """Checks a tree of settings; `origin` is named in the error."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = "\n".join(f"  {_explain(e)}" for e in error.errors())
        raise SettingsError(f"{origin}: {error.error_count()} wrong setting(s)\n{lines}") from None


def dump_config(config: Config) -> str:
    """The resolved settings as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_recipe(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise SettingsError(f"{path}: the recipe inherits from itself through `base:`")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader) or {}  # noqa: S506
    except OSError as error:
        raise SettingsError(f"cannot read the recipe {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise SettingsError(f"{path} must hold settings as `section: {{key: value}}`")
    base = tree.pop("base", None)
    if base is None:
        return tree
    return _merge(_read_recipe(path.parent / str(base), (*seen, path)), tree)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SettingsError(
            f"a setting is given as section.key=value, for example optim.base_lr=1e-3. "
            f"Received: {override!r}"
        )
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506
    except yaml.YAMLError:
        value = text
    *sections, last = key.split(".")
    for section in sections:
        child = tree.get(section)
        tree[section] = child = dict(child) if isinstance(child, dict) else {}
        tree = child
    tree[last] = value


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = [s.key for s in all_settings()]
        known += sorted({k.rpartition(".")[0] for k in known} - {""})
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else "`vit train --help` lists all settings"
        return f"{key}: no such setting; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{key}: {message}. Received: {error['input']!r}"

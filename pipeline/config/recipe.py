"""Reads settings from a recipe: a YAML file, its `base:`, and settings on the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import ValidationError

from pipeline.config.document import LONGEST_NAME, read_yaml, read_yaml_file
from pipeline.config.explain import COMMAND_LINE, explain_all
from pipeline.config.settings import Config, type_of
from pipeline.config.values import LocalPath, inner_type, is_section, read_value
from pipeline.errors import SettingsError
from pipeline.printable import printable, received, shortened
from pipeline.storage.read import reason

_LONGEST_CHAIN = 20


def load_config(
    recipe: str | Path, overrides: Sequence[str] = (), *, inherits: bool = True
) -> Config:
    """Reads a recipe and what it inherits, applies `section.key=value`, and checks the result.

    A value is read by the type of its setting. On the command line, text is taken as typed, without
    quotes; `null` stands for null where a setting allows it (a folder of that name is `./null`);
    lists and sections are written as in YAML.

    Args:
      recipe: Path of a YAML file; its `base:` names another, relative to it.
      overrides: Settings in the form `section.key=value`; the last one wins.
      inherits: Whether `base:` is allowed. A run folder's settings are resolved and have none.

    Raises:
      SettingsError: A file is missing, a key unknown, or a value not allowed.
    """
    recipe = Path(recipe)
    tree, origins = _read_recipe(recipe, (), inherits)
    for override in overrides:
        _apply_override(tree, origins, override)
    config = parse_config(tree, str(recipe), origins)
    if config.run.dir is not None:
        return config
    run = config.run.model_copy(update={"dir": f"runs/{recipe.stem}"})
    return config.model_copy(update={"run": run})


def parse_config(tree: Any, origin: str, origins: Mapping[str, str] | None = None) -> Config:
    """Checks a tree of settings.

    Args:
      tree: Nested mappings.
      origin: Where it is from, for errors.
      origins: Where single keys are from, by their dotted path.

    Raises:
      SettingsError: With one line for each wrong setting.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = explain_all(error.errors(), origin, origins or {})
        if len(lines) == 1:
            raise SettingsError(lines[0]) from None
        listed = "".join(f"\n  {line}" for line in lines)
        raise SettingsError(f"{error.error_count()} settings are wrong:{listed}") from None


def dump_config(config: Config) -> str:
    """The resolved settings as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_recipe(
    path: Path, seen: tuple[Path, ...], inherits: bool = True
) -> tuple[dict[str, Any], dict[str, str]]:
    """The tree of a recipe over that of its base, and where each key is from."""
    by = f", named by `base:` in {printable(str(seen[-1]))}" if seen else ""
    # Not Path.resolve, which raises RuntimeError at a link that leads to itself.
    path = Path(os.path.realpath(path))
    title = printable(str(path))
    if path in seen:
        raise SettingsError(f"{title}: the recipe inherits from itself through `base:`")
    if len(seen) > _LONGEST_CHAIN:
        raise SettingsError(f"{title}: more than {_LONGEST_CHAIN} recipes inherit from each other")
    try:
        tree, lines = read_yaml_file(path)
    except OSError as error:
        raise SettingsError(f"cannot read the recipe {title}{by}: {reason(error)}") from None
    if tree is None or tree == "":
        tree = {}
    if not isinstance(tree, dict):
        raise SettingsError(f"{title} must hold settings as `section: {{key: value}}`")
    origins = {key: f"{title}, line {line}" for key, line in lines.items()}
    base = tree.pop("base", None)
    if base is None or base == "":
        return tree, origins
    if not inherits:
        raise SettingsError(f"{origins['base']}: the settings of a run have no `base:`. Remove it")
    try:
        base = read_value(base, LocalPath)
    except ValueError:
        raise SettingsError(
            f"{origins['base']}: base must name one YAML file. Received: {received(base)}"
        ) from None
    under, under_origins = _read_recipe(path.parent / base, (*seen, path))
    return _merge(under, tree), under_origins | origins


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and value == "":
            continue  # a section without settings changes none
        both = isinstance(value, dict) and isinstance(below, dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply_override(tree: dict[str, Any], origins: dict[str, str], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SettingsError(
            f"{COMMAND_LINE}: a setting is given as section.key=value, for example "
            f"optim.base_lr=1e-3. Received: {received(override)}"
        )
    if len(key) > LONGEST_NAME:
        raise SettingsError(f"{COMMAND_LINE}: {shortened(key)}: no such setting")
    value = _read_typed(key, text)
    *sections, last = key.split(".")
    for section in sections:
        child = tree.get(section)
        tree[section] = child = dict(child) if isinstance(child, dict) else {}
        tree = child
    tree[last] = value
    for below in [name for name in origins if name.startswith(f"{key}.")]:
        del origins[below]
    origins[key] = COMMAND_LINE


def _read_typed(key: str, text: str) -> Any:
    """A value of the command line, as `read_value` takes it."""
    name = shortened(key)
    if not text:
        raise SettingsError(
            f"{COMMAND_LINE}: {name}= has no value. Where a setting may be null, write {name}=null"
        )
    kind, optional = inner_type(type_of(key))
    if optional and text == "null":
        return None
    is_list = get_origin(kind) is tuple and text.startswith("[")
    if is_section(kind) or is_list:
        return read_yaml(text, f"{COMMAND_LINE}: {name}={shortened(text)}").tree
    return text

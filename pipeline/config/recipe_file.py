"""Reads a recipe file and the files it inherits from through `base:`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.value_parser import LocalPath, parse_value
from pipeline.config.yaml_document import read_yaml_file
from pipeline.errors import SettingsError
from pipeline.printable import printable, received
from pipeline.storage.read import reason

_LONGEST_CHAIN = 20


class RecipeFile(NamedTuple):
    """The settings of a recipe file, merged over those of its bases.

    Attributes:
      tree: Nested mappings.
      origins: File and line of each key, by its dotted path.
    """

    tree: dict[str, Any]
    origins: dict[str, str]


def read_recipe_file(
    path: Path, *, inherits: bool = True, seen: tuple[Path, ...] = ()
) -> RecipeFile:
    """Reads a recipe file and its bases.

    Args:
      path: A YAML file.
      inherits: Whether `base:` is allowed.
      seen: The files that inherit from this one, the most derived first.

    Raises:
      SettingsError: A file cannot be read or is not valid, or the bases form a loop.
    """
    referrer = f", named by `base:` in {printable(str(seen[-1]))}" if seen else ""
    # Path.resolve raises RuntimeError for a link to itself; realpath does not.
    path = Path(os.path.realpath(path))
    title = printable(str(path))
    if path in seen:
        raise SettingsError(f"{title}: the recipe inherits from itself through `base:`")
    if len(seen) > _LONGEST_CHAIN:
        raise SettingsError(
            f"{title}: a chain of recipes with `base:` may have at most {_LONGEST_CHAIN} files"
        )
    try:
        tree, lines = read_yaml_file(path)
    except OSError as error:
        raise SettingsError(f"cannot read the recipe {title}{referrer}: {reason(error)}") from None
    if tree is None or tree == "":
        tree = {}
    if not isinstance(tree, dict):
        raise SettingsError(f"{title} must contain settings as `section: {{key: value}}`")
    origins = {key: f"{title}, line {line}" for key, line in lines.items()}
    base = tree.pop("base", None)
    if base is None or base == "":
        return RecipeFile(tree, origins)
    if not inherits:
        raise SettingsError(
            f"{origins['base']}: the settings of a run must not have a `base:`. Remove it"
        )
    try:
        base = parse_value(base, LocalPath)
    except ValueError:
        raise SettingsError(
            f"{origins['base']}: base must name one YAML file. Received: {received(base)}"
        ) from None
    inherited = read_recipe_file(path.parent / base, seen=(*seen, path))
    return RecipeFile(_merge(inherited.tree, tree), inherited.origins | origins)


def _merge(base: dict[str, Any], derived: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in derived.items():
        inherited = merged.get(key)
        if isinstance(inherited, dict) and value == "":
            continue  # an empty section changes nothing
        both = isinstance(value, dict) and isinstance(inherited, dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged

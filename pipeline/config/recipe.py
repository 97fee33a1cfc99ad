"""Loads and saves settings: a recipe file, then the command line, then validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config.config import Config
from pipeline.config.error_messages import explain_errors
from pipeline.config.overrides import apply_override
from pipeline.config.recipe_file import read_recipe_file
from pipeline.errors import SettingsError


def load_config(
    recipe: str | Path, overrides: Sequence[str] = (), *, inherits: bool = True
) -> Config:
    """Reads a recipe with its bases, applies overrides, and validates the result.

    The type of a setting determines how its value is parsed. On the command line, text needs no
    quotes. `null` means null if the setting allows it; a folder of that name is `./null`. Lists
    and sections are written as in YAML.

    Args:
      recipe: Path of a YAML file. Its `base:` names another file, relative to it.
      overrides: Settings of the form `section.key=value`. The last one wins.
      inherits: Whether `base:` is allowed. It is not in a run folder, whose settings are resolved.

    Raises:
      SettingsError: A file is missing, a key is unknown, or a value is not allowed.
    """
    recipe = Path(recipe)
    tree, origins = read_recipe_file(recipe, inherits=inherits)
    for override in overrides:
        apply_override(tree, origins, override)
    config = parse_config(tree, str(recipe), origins)
    if config.run.dir is not None:
        return config
    run = config.run.model_copy(update={"dir": f"runs/{recipe.stem}"})
    return config.model_copy(update={"run": run})


def parse_config(tree: Any, origin: str, origins: Mapping[str, str] | None = None) -> Config:
    """Validates a tree of settings.

    Args:
      tree: Nested mappings.
      origin: Where the tree comes from, for error messages.
      origins: Where individual keys come from, by their dotted path.

    Raises:
      SettingsError: Some settings are wrong; the message has one line for each.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = explain_errors(error.errors(), origin, origins or {})
        if len(lines) == 1:
            raise SettingsError(lines[0]) from None
        listed = "".join(f"\n  {line}" for line in lines)
        raise SettingsError(f"{error.error_count()} settings are wrong:{listed}") from None


def dump_config(config: Config) -> str:
    """Writes the resolved settings as YAML that `load_config` can read."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)

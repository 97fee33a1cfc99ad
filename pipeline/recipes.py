"""The recipes that are shipped, and the file that a user means by a recipe's name.

The files are data of the package `jobs`. This module imports neither it nor pydantic, so that
`vit --help` stays fast.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path

from pipeline.errors import SettingsError

RECIPES = Path(str(files("jobs") / "configs"))
_RECIPE_SUFFIXES = (".yaml", ".yml")
_MOST_FILES = 1000  # of a folder that are looked at for a suggestion


def find_recipe(name: str) -> Path:
    """The file of a recipe, given as a path or as the name of one that is shipped.

    Raises:
      SettingsError: There is none; the message suggests the one that was meant.
    """
    found = _find(name)
    if found is None:
        raise SettingsError(explain_recipe(name, sorted(_shipped())))
    return found


def _find(name: str) -> Path | None:
    if name in (shipped := _shipped()):
        return shipped[name]
    # Not Path.is_file, which raises where a folder may not be entered.
    return Path(name) if os.path.isfile(name) else None  # noqa: PTH113


def _shipped() -> dict[str, Path]:
    return {file.stem: file for file in RECIPES.glob("*.yaml")}


def is_recipe(name: str) -> bool:
    """Whether `name` is a shipped recipe or a file."""
    return _find(name) is not None


def explain_recipe(name: str, shipped: Sequence[str]) -> str:
    """Why `name` is no recipe, and which one was meant."""
    if "=" in name:
        return f"no recipe {name!r}: the recipe comes first, before settings"
    if os.path.isdir(name):  # noqa: PTH112
        return f"no recipe {name!r}: this is a folder. {_inside(Path(name))}"
    is_path = os.sep in name or name.endswith(_RECIPE_SUFFIXES)
    folder = Path(name).parent
    if is_path and not folder.is_dir():
        return f"no recipe {name!r}: there is no folder {str(folder)!r}"
    files = [str(folder / file) for file in _recipe_files(folder)]
    stems = {Path(file).stem: file for file in files}
    # A name may lack its ending, and may be given one that a shipped recipe does not have.
    candidates = {**stems, **{file: file for file in files}, **{n: n for n in shipped}}
    close = [
        candidates[match]
        for word in (name, Path(name).stem)
        for match in difflib.get_close_matches(word, candidates, n=1)
    ]
    hint = f"did you mean {close[0]}? " if close else ""
    missing = "there is no such file; " if is_path else ""
    return (
        f"no recipe {name!r}: {missing}{hint}Give the path of a YAML file, or one of "
        f"{', '.join(shipped)}"
    )


def _inside(folder: Path) -> str:
    if (folder / "config.yaml").is_file():
        return f"It is a run folder; its settings are the recipe {folder / 'config.yaml'}"
    files = _recipe_files(folder)[:3]
    listed = f", such as {', '.join(str(folder / file) for file in files)}" if files else ""
    return f"Give a YAML file{listed}"


def _recipe_files(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, _MOST_FILES)]
    except OSError:
        return []
    return sorted(name for name in names if name.endswith(_RECIPE_SUFFIXES))

"""What somebody most likely meant whose verb, recipe or option does not exist."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from pipeline.errors import SettingsError

_SETTINGS = "section.key=value"
_RECIPE_SUFFIXES = (".yaml", ".yml")
# How MPI, torchrun and horovodrun call the number of processes on a node, and how `vit` does.
_PROCESSES_ELSEWHERE = {"--slots", "--nproc-per-node", "--nproc_per_node", "--num-proc", "-np"}
_PROCESSES = "--processes-per-node"
_MOST_FILES = 1000  # of a folder that are looked at for a suggestion


def explain_verb(word: str, verbs: Collection[str], is_recipe: bool) -> str:
    """Why `vit WORD` cannot run.

    Args:
      word: What was given as the verb.
      verbs: Those that exist.
      is_recipe: Whether there is a recipe of that name.
    """
    close = difflib.get_close_matches(word.lower(), verbs, n=1)
    if is_recipe:
        hint = f"it is a recipe; did you mean `vit train {word}`?"
    elif close:
        hint = f"did you mean {close[0]}?"
    else:
        hint = f"the verbs are {', '.join(verbs)}."
    return f"no verb {word!r}: {hint} `vit --help` says what each one does"


def explain_recipe(name: str, shipped: Sequence[str]) -> str:
    """Why `name` is no recipe, and which one was meant."""
    if "=" in name:
        return f"no recipe {name!r}: the recipe comes first, before settings"
    if os.path.isdir(name):
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


def paths_of(arguments: argparse.Namespace) -> Iterator[Path]:
    """The arguments of a verb that are of the type Path, and those in its lists."""
    for value in vars(arguments).values():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path):
                yield path


def check_paths(paths: Iterable[str | Path]) -> None:
    """Refuses URLs where local paths are meant; they would be read as folders named `s3:`.

    Raises:
      SettingsError: One is a URL. `Path` has dropped one of its slashes.
    """
    from pipeline.config import URL  # half of the time of `vit --help`, if at the top

    for path in paths:
        if match := URL.match(str(path)):
            raise SettingsError(
                f"{match[1]}:// addresses are not supported. Mount the storage as a folder and "
                f"give a local path. Received: {match[1]}://{str(path)[match.end() :]}"
            )


def explain_options(unknown: Sequence[str], arguments: Sequence[str], help_text: str) -> str:
    """What to write instead of options that a verb does not have.

    Args:
      unknown: What the parser could not use.
      arguments: All that it was given.
      help_text: The verb's help, which lists its options.
    """
    option = next((word for word in unknown if word.startswith("-")), None)
    if option is None:
        return f"too many arguments: {' '.join(unknown)}"
    name, _, value = option.partition("=")
    known = re.findall(r"^ +(?:-\w(?: \S+)?, )?(--[a-z][a-z-]*)", help_text, re.MULTILINE)
    if name in _PROCESSES_ELSEWHERE and _PROCESSES in known:
        return f"no option {name}; did you mean {_PROCESSES}?"
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.75):
        return f"no option {name}; did you mean {close[0]}?"
    from pipeline.config import suggest_setting  # half of the time of `vit --help`, if at the top

    key = suggest_setting(name.lstrip("-"), cutoff=0.8)
    if key is None or _SETTINGS not in help_text:
        return f"no option {name}; --help lists the options"
    after = arguments[list(arguments).index(option) + 1 :]
    if not value and after and not after[0].startswith("--") and "=" not in after[0]:
        value = after[0]
    return f"no option {name}; settings are given without dashes: {key}={value or 'VALUE'}"

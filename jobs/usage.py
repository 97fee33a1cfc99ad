"""What somebody most likely meant whose verb, recipe or option does not exist."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.errors import SettingsError

_SETTINGS = "section.key=value"
# How MPI, torchrun and horovodrun call the number of processes on a node, and how `vit` does.
_PROCESSES_ELSEWHERE = {"--slots", "--nproc-per-node", "--nproc_per_node", "--num-proc", "-np"}
_PROCESSES = "--processes-per-node"


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

"""Suggestions for verbs and options that do not exist."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.errors import SettingsError

_SETTINGS = "section.key=value"
# The names that MPI, torchrun and horovodrun have for the number of processes on a node.
_PROCESSES_ELSEWHERE = {"--nproc-per-node", "--nproc_per_node", "--num-proc", "-np"}
_PROCESSES = "--processes-per-node"


def explain_verb(word: str, verbs: Collection[str], is_recipe: bool) -> str:
    """Explains why `vit WORD` cannot run.

    Args:
      word: The word given as the verb.
      verbs: The existing verbs.
      is_recipe: Whether there is a recipe of that name.
    """
    close = difflib.get_close_matches(word.lower(), verbs, n=1)
    if is_recipe:
        hint = f"it is a recipe; did you mean `vit train {word}`?"
    elif close:
        hint = f"did you mean {close[0]}?"
    else:
        hint = f"the verbs are {', '.join(verbs)}."
    return f"no verb {word!r}: {hint} `vit --help` describes them"


def paths_of(arguments: argparse.Namespace) -> Iterator[Path]:
    """Yields the arguments of a verb that are paths, including those in lists."""
    for value in vars(arguments).values():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path):
                yield path


def check_paths(paths: Iterable[str | Path]) -> None:
    """Refuses URLs in place of local paths, which would be used as folders named `s3:`.

    Raises:
      SettingsError: A path is a URL. `Path` removes one of its slashes.
    """
    # At the top of the file, this import would double the time of `vit --help`.
    from pipeline.config import URL

    for path in paths:
        if match := URL.match(str(path)):
            raise SettingsError(
                f"{match[1]}:// addresses are not supported. Mount the storage as a folder and "
                f"give a local path. Received: {match[1]}://{str(path)[match.end() :]}"
            )


def explain_options(unknown: Sequence[str], arguments: Sequence[str], help_text: str) -> str:
    """Explains what to write instead of options that a verb does not have.

    Args:
      unknown: The arguments that the parser does not know.
      arguments: All arguments of the parser.
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
    # See check_paths.
    from pipeline.config import suggest_setting

    key = suggest_setting(name.lstrip("-"), cutoff=0.8)
    if key is None or _SETTINGS not in help_text:
        return f"no option {name}; --help lists the options"
    after = arguments[list(arguments).index(option) + 1 :]
    if not value and after and not after[0].startswith("--") and "=" not in after[0]:
        value = after[0]
    return f"no option {name}; settings are given without dashes: {key}={value or 'VALUE'}"

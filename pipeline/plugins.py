"""Loads code that a recipe names as `module:name`, and calls it."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from pipeline.errors import PipelineError, SettingsError

_NAME = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")
# Operations whose random numbers depend on the process, and on what was drawn before.
_STATEFUL_RANDOM = re.compile(
    r"Random(?!IndexShuffle)|Multinomial|ParameterizedTruncatedNormal|Stateful(Uniform|Standard|"
    r"Truncated|Random)"
)


def is_plugin(name: str | None) -> bool:
    """Whether a setting has the form `module:name`."""
    return name is not None and _NAME.fullmatch(name) is not None


def load_plugin(setting: str, name: str) -> Callable[..., Any]:
    """Imports the module of `module:name`, and returns the function or class.

    A module that is installed nowhere is looked for in the current folder. The folder is searched
    last, and for this import only: a file there never replaces another module, whatever its name.

    Args:
      setting: The setting that names it, for messages.
      name: As `module:name`.

    Raises:
      SettingsError: The name has another form, there is no such module, importing it fails, or it
        has no such function or class.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise SettingsError(
            f"{setting} must be module:name, for example my_module:make. Received: {name!r}"
        )
    module = _import(setting, name, module_name)
    where = getattr(module, "__file__", None) or "Python itself"
    if not callable(found := getattr(module, attribute, None)):
        raise SettingsError(
            f"{setting}: {name!r}: module {module_name}, which is {where}, has no function or "
            f"class {attribute}. If another file is meant, give it a name of its own"
        )
    return cast("Callable[..., Any]", found)


def call_plugin(
    kind: type[PipelineError], what: str, function: Callable[..., Any], *arguments: Any
) -> Any:
    """Calls a user's function; its error becomes one message that ends in its traceback."""
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:
        own = error.__traceback__.tb_next if error.__traceback__ else None
        lines = traceback.format_exception(type(error), error, own)
        raise kind(f"{what}:\n{''.join(lines).rstrip()}") from error


def check_random(what: str, graph: Any, instead: str) -> None:
    """Refuses a TensorFlow graph that draws random numbers from a state.

    Such numbers differ from process to process, and from those of a run that was resumed.

    Args:
      what: The setting and the plug-in, for the message.
      graph: The graph.
      instead: Where random numbers must come from.

    Raises:
      SettingsError: It does; names the operations.
    """
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    if found := sorted({node.op for node in nodes if _STATEFUL_RANDOM.match(node.op)}):
        raise SettingsError(
            f"{what} uses {', '.join(found)}, whose random numbers depend on the process and on "
            f"the start. {instead}"
        )


def _import(setting: str, name: str, module_name: str) -> ModuleType:
    failed = f"{setting}: {name!r}: importing {module_name} failed"
    folder = str(Path.cwd())
    # A folder that is on the path already, by PYTHONPATH for example, keeps its place.
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    try:
        importlib.invalidate_caches()
        found = call_plugin(SettingsError, failed, importlib.import_module, module_name)
        return cast("ModuleType", found)
    except SettingsError as error:
        missing = error.__cause__
        # Its own absence, not that of a module that it imports.
        if isinstance(missing, ModuleNotFoundError) and missing.name in _packages(module_name):
            raise SettingsError(
                f"{setting}: {name!r}: there is no module {module_name}, neither installed "
                f"nor on PYTHONPATH nor in the current folder {folder}"
            ) from None
        raise
    finally:
        if added:
            with suppress(ValueError):  # the module removed it
                sys.path.remove(folder)


def _packages(module_name: str) -> list[str]:
    """`a.b.c` -> a, a.b, a.b.c."""
    parts = module_name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]

"""Reads YAML as nested text, with the line of each key.

Plain scalars stay text, since only the type of a setting says what they mean; `null` alone is None.
So the rules of YAML 1.1, by which PyYAML turns `no` into false, 010 into 8 and 12:30 into 750, do
not apply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from pipeline.errors import SettingsError

_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("str", "map", "seq", "null")}
_TYPED = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool")}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own, emptied)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile("(~|null|Null|NULL)$"), list("~nN")
)
_Loader.add_implicit_resolver(_MERGE, re.compile("<<$"), ["<"])


class Document(NamedTuple):
    """What a YAML text holds.

    Attributes:
      tree: Nested mappings, lists and text; "" for a value that was left out.
      lines: The line of each key, by its dotted path.
    """

    tree: Any
    lines: dict[str, int]


def read_yaml(text: str, origin: str) -> Document:
    """Reads one YAML document.

    Args:
      text: The document.
      origin: Where it is from, for errors.

    Raises:
      SettingsError: It is not valid YAML, a mapping has a key twice, or a value has a tag other
        than !!str, !!int, !!float, !!bool, !!null, !!seq and !!map, or is not of its tag's type.
    """
    try:
        loader = _Loader(text)
        loader.name = origin
        node = loader.get_single_node()
        if node is None:
            return Document("", {})
        lines = dict(_lines(node, loader, origin, "", ()))
        return Document(loader.construct_document(node), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark is not None and "\n" in text else ""
        problem = ": ".join(part for part in (error.context, error.problem) if part)
        raise SettingsError(f"{origin}{where}: not valid YAML: {problem}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{origin}: not valid YAML: {error}") from None


def _lines(
    node: yaml.Node, loader: _Loader, origin: str, prefix: str, parents: tuple[yaml.Node, ...]
) -> Iterator[tuple[str, int]]:
    """Each key below a node with its line; checks tags, and that no mapping has a key twice."""
    if any(node is parent for parent in parents):
        raise SettingsError(f"{origin}, line {_line(node)}: an alias refers to what contains it")
    _check_tag(node, loader, origin)
    parents = (*parents, node)
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _lines(child, loader, origin, prefix, parents)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if key.tag == _MERGE:
            yield from _lines(value, loader, origin, prefix, parents)
            continue
        if key.tag != _TEXT or not isinstance(key, yaml.ScalarNode):
            raise SettingsError(f"{origin}, line {_line(key)}: the name of a setting must be text")
        name = f"{prefix}{key.value}"
        if key.value in first:
            lines = sorted({_line(first[key.value]), _line(key)})
            where = f"lines {lines[0]} and {lines[1]}" if len(lines) == 2 else f"line {lines[0]}"
            raise SettingsError(
                f"{origin}: {name} is given twice, in {where}. Merge the two, or delete one"
            )
        first[key.value] = key
        yield name, _line(key)
        yield from _lines(value, loader, origin, f"{name}.", parents)


def _check_tag(node: yaml.Node, loader: _Loader, origin: str) -> None:
    if node.tag in _PLAIN:
        return
    where = f"{origin}, line {_line(node)}"
    tag = node.tag.replace("tag:yaml.org,2002:", "!!")
    if node.tag not in _TYPED:
        raise SettingsError(
            f"{where}: the tag {tag} is not supported. Write the value without it, or put text in "
            "quotes"
        )
    try:
        loader.construct_object(node)
    except (ValueError, LookupError):  # of PyYAML's int(), float() and table of booleans
        raise SettingsError(
            f"{where}: {node.value!r} is not of the type {tag}. Write the value without the tag"
        ) from None


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1

"""Reads YAML as nested text, with the line of each key.

Plain scalars stay text, since only the type of a setting says what they mean; `null` alone is None.
So the rules of YAML 1.1, by which PyYAML turns `no` into false, 010 into 8 and 12:30 into 750, do
not apply.

A recipe or a run folder may come from somebody else. An alias of an alias can stand for more values
than fit into memory, and Python code that calls itself for each level of nesting fails at a
thousand. So the values and levels of a document are counted while it is read, with each alias as
large as what it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.config.values import read_value
from pipeline.errors import SettingsError
from pipeline.printable import printable, received, shortened
from pipeline.storage.read import read_file

# Far more than all settings together.
_LIMIT_BYTES = 1 << 20
_LIMIT_VALUES = 10_000
_LIMIT_LEVELS = 50
# Of a setting, with its sections.
LONGEST_NAME = 100

_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("str", "map", "seq", "null")}
_TYPES = {
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:bool": bool,
}


class _Size(NamedTuple):
    """Of a value: how many values it holds with itself, and on how many levels."""

    values: int
    levels: int


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own, emptied)

    def __init__(self, text: str, origin: str) -> None:
        super().__init__(text)
        self.name = self.origin = origin
        self._sizes: dict[int, _Size] = {}
        self._values = self._levels = self._deepest = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """PyYAML's, which makes a node of each value; within the limits."""
        event = self.peek_event()
        before, around = self._values, self._deepest
        self._levels += 1
        self._deepest = self._levels
        self._add(1, event)
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise SettingsError(
                    f"{_place(self.origin, event)}: an alias refers to what contains it"
                )
            size = self._sizes[id(node)]
            self._deepest += size.levels - 1
            self._add(size.values - 1, event)
        else:
            size = _Size(self._values - before, self._deepest - self._levels + 1)
            self._sizes[id(node)] = size
        self._levels -= 1
        self._deepest = max(around, self._deepest)
        return node

    def _add(self, values: int, event: yaml.Event) -> None:
        self._values += values
        if self._values > _LIMIT_VALUES or self._deepest > _LIMIT_LEVELS:
            raise SettingsError(
                f"{_place(self.origin, event)}: settings have at most {_LIMIT_VALUES:,} values, "
                f"nested at most {_LIMIT_LEVELS} deep, where an alias counts as what it stands for"
            )


def _construct_typed(loader: _Loader, node: yaml.ScalarNode) -> Any:
    try:
        return read_value(loader.construct_scalar(node), _TYPES[node.tag])
    except ValueError:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise SettingsError(
            f"{_place(loader.origin, node)}: {received(node.value)} is not of the type {tag}. "
            "Write the value without the tag"
        ) from None


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile("(~|null|Null|NULL)$"), list("~nN")
)
_Loader.add_implicit_resolver(_MERGE, re.compile("<<$"), ["<"])
for _tag in _TYPES:
    _Loader.add_constructor(_tag, _construct_typed)


class Document(NamedTuple):
    """What a YAML text holds.

    Attributes:
      tree: Nested mappings, lists and text; "" for a value that was left out.
      lines: The line of each key, by its dotted path.
    """

    tree: Any
    lines: dict[str, int]


def read_yaml_file(path: Path) -> Document:
    """Reads a file with one YAML document.

    Raises:
      SettingsError: As `read_yaml`, or it is not UTF-8.
      OSError: It cannot be read, is no regular file, or has more than a megabyte.
    """
    content = read_file(path, limit_bytes=_LIMIT_BYTES)
    origin = printable(str(path))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"{origin}, line {line}: not valid YAML: not UTF-8 text ({error.reason}: byte "
            f"0x{content[error.start]:02x})"
        ) from None
    return read_yaml(text, origin)


def read_yaml(text: str, origin: str) -> Document:
    """Reads one YAML document.

    Args:
      text: The document.
      origin: Where it is from, for errors.

    Raises:
      SettingsError: It is not valid YAML, a mapping has a key twice, a value has a tag other than
        !!str, !!int, !!float, !!bool, !!null, !!seq and !!map or is not of its tag's type, or it is
        too large.
    """
    try:
        loader = _Loader(text, origin)
        node = loader.get_single_node()
        if node is None:
            return Document("", {})
        lines = dict(_lines(node, loader, ""))
        return Document(loader.construct_document(node), lines)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SettingsError(
            f"{origin}, line {line}: not valid YAML: the character U+{error.character:04X} is "
            "not allowed"
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark is not None and "\n" in text else ""
        problem = ": ".join(part for part in (error.context, error.problem) if part)
        raise SettingsError(f"{origin}{where}: not valid YAML: {shortened(problem, 200)}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # of PyYAML's chr() and int()
        raise SettingsError(f"{origin}: not valid YAML: {shortened(str(error), 200)}") from None


def _lines(node: yaml.Node, loader: _Loader, prefix: str) -> Iterator[tuple[str, int]]:
    """Each key below a node with its line; checks tags, and that no mapping has a key twice."""
    _check_tag(node, loader.origin)
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _lines(child, loader, prefix)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if key.tag == _MERGE:
            yield from _lines(value, loader, prefix)
            continue
        if key.tag != _TEXT or not isinstance(key, yaml.ScalarNode):
            raise SettingsError(f"{_place(loader.origin, key)}: the name of a setting must be text")
        if len(key.value) > LONGEST_NAME:
            raise SettingsError(
                f"{_place(loader.origin, key)}: the name of a setting has at most {LONGEST_NAME} "
                f"characters. Received: {received(key.value)}"
            )
        name = f"{prefix}{key.value}"
        if key.value in first:
            lines = sorted({_line(first[key.value]), _line(key)})
            where = f"lines {lines[0]} and {lines[1]}" if len(lines) == 2 else f"line {lines[0]}"
            raise SettingsError(
                f"{loader.origin}: {shortened(name)} is given twice, in {where}. Merge the two, or "
                "delete one"
            )
        first[key.value] = key
        yield name, _line(key)
        yield from _lines(value, loader, f"{name}.")


def _check_tag(node: yaml.Node, origin: str) -> None:
    if node.tag not in _PLAIN and node.tag not in _TYPES:
        tag = shortened(node.tag.replace("tag:yaml.org,2002:", "!!"))
        raise SettingsError(
            f"{_place(origin, node)}: the tag {tag} is not supported. Write the value without it, "
            "or put text in quotes"
        )


def _place(origin: str, found: yaml.Node | yaml.Event) -> str:
    return f"{origin}, line {_line(found)}"


def _line(found: yaml.Node | yaml.Event) -> int:
    return 1 if found.start_mark is None else int(found.start_mark.line) + 1

"""Reads YAML as nested text, with the line number of each key.

Plain scalars remain text, because only the type of a setting determines their meaning. The one
exception is `null`, which becomes None. So the rules of YAML 1.1 do not apply, by which PyYAML
turns `no` into false, 010 into 8 and 12:30 into 750.

A recipe or run folder may come from an untrusted source. Nested aliases can expand to more values
than fit into memory, and recursion in Python fails at about a thousand levels. Therefore the values
and nesting levels are counted while a document is read, and each alias counts as much as the value
it refers to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.config.value_parser import parse_value
from pipeline.errors import SettingsError
from pipeline.printable import printable, received, shortened
from pipeline.storage.read import read_file

# Far more than all settings need.
_LIMIT_BYTES = 1 << 20
_LIMIT_VALUES = 10_000
_LIMIT_LEVELS = 50
# Maximum length of a setting's name, including its sections.
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
    """The number of values in a node, including itself, and the number of nesting levels."""

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
        """Composes a node as PyYAML does, and enforces the limits."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        before, around = self._values, self._deepest
        self._levels += 1
        self._deepest = self._levels
        self._add(1, event)
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise SettingsError(
                    f"{_place(self.origin, event)}: an alias refers to a value that contains it"
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
                f"{_place(self.origin, event)}: settings may have at most "
                f"{_LIMIT_VALUES:,} values, nested at most {_LIMIT_LEVELS} levels deep, with all "
                "aliases expanded"
            )


def _construct_typed(loader: _Loader, node: yaml.ScalarNode) -> Any:
    try:
        return parse_value(loader.construct_scalar(node), _TYPES[node.tag])
    except ValueError:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise SettingsError(
            f"{_place(loader.origin, node)}: {received(node.value)} is not of type {tag}. "
            "Remove the tag"
        ) from None


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile("(~|null|Null|NULL)$"), list("~nN")
)
_Loader.add_implicit_resolver(_MERGE, re.compile("<<$"), ["<"])
for _tag in _TYPES:
    _Loader.add_constructor(_tag, _construct_typed)


class Document(NamedTuple):
    """The content of a YAML document.

    Attributes:
      tree: Nested mappings, lists and text. A missing value is "".
      lines: The line number of each key, by its dotted path.
    """

    tree: Any
    lines: dict[str, int]


def read_yaml_file(path: Path) -> Document:
    """Reads a file that contains one YAML document.

    Raises:
      SettingsError: As for `read_yaml`, or the file is not UTF-8.
      OSError: The file cannot be read, is not a regular file, or is larger than 1 MiB.
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
      origin: Where the text comes from, for error messages.

    Raises:
      SettingsError: The text is not valid YAML or is too large, a mapping has a duplicate key, a
        value does not match its tag, or a tag is not one of !!str, !!int, !!float, !!bool, !!null,
        !!seq and !!map.
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
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # from chr() and int()
        raise SettingsError(f"{origin}: not valid YAML: {shortened(str(error), 200)}") from None


def _lines(node: yaml.Node, loader: _Loader, prefix: str) -> Iterator[tuple[str, int]]:
    """Yields each key below a node with its line number; rejects bad tags and duplicate keys."""
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
                f"{_place(loader.origin, key)}: the name of a setting may have at most "
                f"{LONGEST_NAME} characters. Received: {received(key.value)}"
            )
        name = f"{prefix}{key.value}"
        if key.value in first:
            lines = sorted({_line(first[key.value]), _line(key)})
            place = f"lines {lines[0]} and {lines[1]}" if len(lines) == 2 else f"line {lines[0]}"
            raise SettingsError(
                f"{loader.origin}: {shortened(name)} appears twice, on {place}. Merge the two, "
                "or delete one"
            )
        first[key.value] = key
        yield name, _line(key)
        yield from _lines(value, loader, f"{name}.")


def _check_tag(node: yaml.Node, origin: str) -> None:
    if node.tag not in _PLAIN and node.tag not in _TYPES:
        tag = shortened(node.tag.replace("tag:yaml.org,2002:", "!!"))
        raise SettingsError(
            f"{_place(origin, node)}: the tag {tag} is not supported. Remove it, or put the "
            "text in quotes"
        )


def _place(origin: str, found: yaml.Node | yaml.Event) -> str:
    return f"{origin}, line {_line(found)}"


def _line(found: yaml.Node | yaml.Event) -> int:
    return 1 if found.start_mark is None else int(found.start_mark.line) + 1

"""Parses a value according to the type of its setting, in files and on the command line alike.

A recipe contains text, and the type of the setting determines its meaning: `dir: 0` is a folder
named 0, and `seed: 010` is ten. Numbers follow the core schema of YAML 1.2 and may have underscores
between digits.

References:
  YAML 1.2.2, section 10.3, "Core Schema": https://yaml.org/spec/1.2.2/#103-core-schema
"""

from __future__ import annotations

import math
import os
import re
from decimal import Decimal
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel

from pipeline.plugins import is_plugin
from pipeline.printable import shortened

_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_INTEGER = re.compile(rf"[-+]?{_DIGITS}")
_OTHER_BASES = {"0x": (re.compile(r"0x[0-9a-fA-F]+"), 16), "0o": (re.compile(r"0o[0-7]+"), 8)}
_NUMBER = re.compile(rf"[-+]?(?:\.{_DIGITS}|{_DIGITS}(?:\.(?:{_DIGITS})?)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.?(inf|infinity|nan)", re.IGNORECASE)
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False,
             "FALSE": False}  # fmt: skip
# Python parses a number in quadratic time, and rejects one with more than 4300 digits.
_LONGEST_NUMBER = 400
# The product of two integers, such as steps and examples, must fit into 64 bits, and a real number
# into float32. Settings that determine memory or time have lower limits of their own.
_LARGEST = {int: 1e12, float: 1e38}
# PATH_MAX of Linux.
_LONGEST_TEXT = 4096
# One slash is enough, because `Path` drops the other. A one-letter scheme is a Windows drive.
URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/+")


def _local_path(text: str) -> str:
    if match := URL.match(text):
        if match[1].lower() == "file":
            raise ValueError("must be a path without file://")
        remedy = (
            "Download the file and give its path"
            if match[1].lower() in ("http", "https", "ftp")
            else "Mount the storage as a folder, or copy the data to a local one"
        )
        raise ValueError(
            f"must be a local path; {shortened(match[1])}:// addresses are not supported. {remedy}"
        )
    # A shell expands ~ only at the start of a word, so not after `run.dir=`.
    is_home = text == "~" or text.startswith("~/")
    return os.path.expanduser(text) if is_home else text  # noqa: PTH111  # "a/./b" stays as it is


# The path of a file or folder: text that is not a URL. A leading ~/ is the home folder.
LocalPath = Annotated[str, AfterValidator(_local_path)]


def _plugin_name(text: str) -> str:
    if not is_plugin(text):
        raise ValueError("must be module:name, for example my_module:make")
    return text


# Code of the user, as module:name.
PluginName = Annotated[str, AfterValidator(_plugin_name)]


def inner_type(kind: Any) -> tuple[Any, bool]:
    """The type without `| None` and annotations, and whether the setting may be null."""
    if get_origin(kind) is Annotated:
        return inner_type(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        options = [option for option in get_args(kind) if option is not NoneType]
        return inner_type(options[0])[0], True
    return kind, False


def is_section(kind: Any) -> TypeGuard[type[BaseModel]]:
    """Whether a type is a section of settings."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def parse_value(value: Any, kind: Any) -> Any:
    """Parses the value of a setting.

    Args:
      value: Text as written, or a value that already has a type. Empty text is a missing value:
        null if the type allows it, or an empty section.
      kind: The annotation of the setting.

    Raises:
      ValueError: The value does not have that type.
    """
    kind, optional = inner_type(kind)
    if is_section(kind):
        return _parse_section(value, kind)
    if optional and (value is None or value == ""):
        return None
    if value is None or value == "":
        raise ValueError("must have a value; this setting cannot be null")
    if get_origin(kind) is tuple:
        return _parse_list(value, kind)
    if kind is bool:
        return _parse_boolean(value)
    if kind is int or kind is float:
        wanted = "a whole number" if kind is int else "a number"
        return _parse_number(value, kind, f"{wanted} or null" if optional else wanted)
    if get_origin(kind) is not Literal:
        _check_text(value)
    elif all(isinstance(choice, int) for choice in get_args(kind)):
        return _parse_number(value, int, " or ".join(map(str, get_args(kind))))
    return value


def _check_text(value: Any) -> None:
    """Checks that a value is text that can be a path: no NUL, and encodable as bytes."""
    if not isinstance(value, str):
        raise ValueError("must be text")
    if len(value) > _LONGEST_TEXT:
        raise ValueError(f"must have at most {_LONGEST_TEXT} characters")
    try:
        if "\0" not in value:
            os.fsencode(value)
            return
    except UnicodeEncodeError:
        pass
    raise ValueError("must be text without NUL characters and lone surrogates")


def _parse_section(value: Any, kind: type[BaseModel]) -> Any:
    if value == "":
        return {}
    if not isinstance(value, (dict, kind)):
        raise ValueError("is a section; set one of its settings")
    return value


def _parse_list(value: Any, kind: Any) -> tuple[Any, ...]:
    item, *more = get_args(kind)
    if isinstance(value, str) and inner_type(item)[0] is str:
        return (value,)  # a single name needs no brackets
    if not isinstance(value, (list, tuple)):
        raise ValueError("must be a list in brackets, such as [1,2]")
    if Ellipsis not in more and len(value) != 1 + len(more):
        raise ValueError(f"must be a list of {1 + len(more)} values")
    return tuple(parse_value(entry, item) for entry in value)


def _parse_boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value not in _BOOLEANS:
        raise ValueError("must be true or false")
    return _BOOLEANS[value]


def _parse_number(value: Any, kind: type[int] | type[float], wanted: str) -> int | float:
    if isinstance(value, str):
        value = _number_from_text(value.strip(), wanted)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"must be {wanted}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("must be finite")
    if abs(number) > _LARGEST[kind]:
        raise ValueError(f"must be at most {_LARGEST[kind]:g}")
    if kind is float:
        return number
    if value != int(value):
        raise ValueError(f"must be {wanted}")
    return int(value)


def _number_from_text(text: str, wanted: str) -> int | float:
    """An int if the number is whole and finite, otherwise a float."""
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"must be {wanted} of at most {_LONGEST_NUMBER} characters")
    if _NOT_FINITE.fullmatch(text):
        return math.inf
    pattern, base = _OTHER_BASES.get(text[:2], (_INTEGER, 10))
    if pattern.fullmatch(text):
        return int(text.replace("_", ""), base)
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"must be {wanted}")
    digits = text.replace("_", "")
    number = float(digits)
    whole = math.isfinite(number) and number.is_integer()
    return int(Decimal(digits)) if whole else number

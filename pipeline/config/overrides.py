"""Settings on the command line: `section.key=value`."""

from __future__ import annotations

from typing import Any, get_origin

from pipeline.config.lookup import type_of
from pipeline.config.value_parser import inner_type, is_section
from pipeline.config.yaml_document import LONGEST_NAME, read_yaml
from pipeline.errors import SettingsError
from pipeline.printable import received, shortened

COMMAND_LINE = "on the command line"


def apply_override(tree: dict[str, Any], origins: dict[str, str], override: str) -> None:
    """Puts one setting of the command line into a tree of settings.

    Args:
      tree: Nested mappings; changed in place.
      origins: Where each setting comes from, by dotted key; changed in place.
      override: A setting as `section.key=value`.

    Raises:
      SettingsError: It does not have that form, or its value is empty or not valid YAML.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SettingsError(
            f"{COMMAND_LINE}: a setting must have the form section.key=value, for example "
            f"optim.base_lr=1e-3. Received: {received(override)}"
        )
    if len(key) > LONGEST_NAME:
        raise SettingsError(f"{COMMAND_LINE}: {shortened(key)}: no such setting")
    value = _parse(key, text)
    *sections, last = key.split(".")
    for section in sections:
        child = tree.get(section)
        tree[section] = child = dict(child) if isinstance(child, dict) else {}
        tree = child
    tree[last] = value
    for below in [name for name in origins if name.startswith(f"{key}.")]:
        del origins[below]
    origins[key] = COMMAND_LINE


def _parse(key: str, text: str) -> Any:
    """The value in the form that `parse_value` accepts: sections and lists are YAML."""
    name = shortened(key)
    if not text:
        raise SettingsError(f"{COMMAND_LINE}: {name}= has no value. For null, write {name}=null")
    kind, optional = inner_type(type_of(key))
    if optional and text == "null":
        return None
    is_list = get_origin(kind) is tuple and text.startswith("[")
    if is_section(kind) or is_list:
        return read_yaml(text, f"{COMMAND_LINE}: {name}={shortened(text)}").tree
    return text

"""Manifests as YAML that all parsers read in the same way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from k8s.manifests import Manifest

# Parsers differ in what they read as a number, a boolean or a date (1e3, 0o7, 012, off, 12:30).
# Therefore only plain words are not quoted, and not even those that some parser reads as another
# type.
_PLAIN = re.compile(r"(--)?/?[A-Za-z][A-Za-z0-9_./-]*")
_NOT_STRINGS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "nan", "inf"}
_BREAKS_OF_YAML_1_1 = "\x85\u2028\u2029"  # They are not line breaks in YAML 1.2.


def to_yaml(manifests: Sequence[Manifest]) -> str:
    """Returns the manifests as one text, which is the same for the same job."""
    return "---\n".join(
        yaml.dump(m, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
        for m in manifests
    )


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style: str | None = '"'
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_STRINGS:
        style = None
    elif "\n" in text and not set(text) & set(_BREAKS_OF_YAML_1_1):
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)

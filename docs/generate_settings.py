"""Writes the tables of docs/settings.md from the code: `python docs/generate_settings.py`."""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path

PAGE = Path(__file__).parent / "settings.md"
_TABLES = re.compile(r"(<!-- settings: [^\n]* -->\n).*(<!-- end of settings -->\n)", re.DOTALL)


def tables() -> str:
    """One table for each section of a recipe, in the order of the code."""
    from pipeline.config import all_settings

    parts = []
    for section, settings in groupby(
        all_settings(), lambda setting: setting.key.rpartition(".")[0]
    ):
        lines = [
            f"### {section or 'Top level'}",
            "",
            "| setting | type | default | meaning |",
            "|---|---|---|---|",
        ]
        for setting in settings:
            free = " \\*" if setting.may_change else ""
            kind, doc = (_cell(text) for text in (setting.type, setting.doc))
            default = setting.default_text
            lines.append(f"| `{setting.key}`{free} | {kind} | `{default}` | {doc} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def generate(page: str) -> str:
    """The page with its tables as the code has them."""
    return _TABLES.sub(lambda match: f"{match[1]}\n{tables()}\n\n{match[2]}", page)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    sys.path.insert(0, str(PAGE.parents[1]))
    PAGE.write_text(generate(PAGE.read_text()))

"""Prints findings: formatted on a terminal, as plain lines elsewhere, or as one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from pipeline.doctor.finding import Finding, exit_code
from pipeline.monitor.terminal import Terminal
from pipeline.strict_json import to_json

_STYLES = {"ok": "green", "warning": "bold yellow", "error": "bold red"}
_LEVEL_WIDTH = max(map(len, _STYLES))
_SUBJECT_WIDTH = 14


class Display:
    """Shows findings as they arrive.

    Args:
      as_json: Whether to print one JSON object at the end.
      enabled: Whether this process prints anything.
    """

    def __init__(self, as_json: bool, enabled: bool) -> None:
        self._console = Terminal(soft_wrap=False)
        self._as_json, self._enabled = as_json, enabled

    def show(self, finding: Finding) -> None:
        """Prints one finding: a line, or a paragraph on a terminal, with the remedy at its end."""
        if self._as_json or not self._enabled:
            return
        if not self._console.is_terminal:
            subject = finding.subject.ljust(_SUBJECT_WIDTH)
            print(f"{finding.level:<{_LEVEL_WIDTH}}  {subject}  {finding.line}", flush=True)
            return
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_column(width=_LEVEL_WIDTH)
        row.add_column(width=_SUBJECT_WIDTH)
        row.add_column(overflow="fold")
        text = f"{finding.text}\n-> {finding.remedy}" if finding.remedy else finding.text
        row.add_row(Text(finding.level, _STYLES[finding.level]), Text(finding.subject), Text(text))
        self._console.print(row)

    def end(self, recipe: str, findings: Sequence[Finding]) -> None:
        """Prints the summary, or the JSON object."""
        if not self._enabled:
            return
        if self._as_json:
            report = {
                "recipe": recipe,
                "exit_code": exit_code(findings),
                "findings": [asdict(finding) for finding in findings],
            }
            print(to_json(report, indent=1))
        else:
            counts = (_count(findings, "error"), _count(findings, "warning"))
            self._console.print(Text(f"{', '.join(counts)} in {len(findings)} checks"))


def _count(findings: Sequence[Finding], level: str) -> str:
    number = sum(finding.level == level for finding in findings)
    return f"{number or 'no'} {level}{'' if number == 1 else 's'}"

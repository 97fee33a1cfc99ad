"""What the terminal shows: a live bar, or where there is no terminal a line now and then."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

LINE_EVERY_S = 10.0
_NARROW = 100  # columns, below which the bar has room for two facts only


class ProgressDisplay:
    """Shows training to the chief's user; on other ranks (`enabled=False`) it shows nothing.

    Args:
      total_steps: Updates of the whole run.
      steps_per_epoch: Updates an epoch, with its fraction.
      enabled: Whether to print.
    """

    def __init__(self, total_steps: int, steps_per_epoch: float, enabled: bool = True) -> None:
        self._total_steps = total_steps
        self._epochs = total_steps / steps_per_epoch
        self._console = Console(quiet=not enabled, highlight=False, soft_wrap=True)
        self._bar = _bar(self._console) if enabled and self._console.is_terminal else None
        self._task = self._bar.add_task("", total=total_steps, facts="") if self._bar else None
        self._last_line_s = -LINE_EVERY_S
        self._last_validation = ""
        if self._bar:
            self._bar.start()

    def message(self, text: str) -> None:
        """One line that stays."""
        self._console.print(Text(text))

    def advance(self, step: int) -> None:
        """Moves the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step)

    def trained(self, row: Mapping[str, Any]) -> None:
        """A row of training metrics: into the bar, or as a line if the last one is 10 s old."""
        facts = (
            f"loss {row['loss']:.4f}  accuracy {row['accuracy']:.1%}{self._last_validation}  "
            f"{row['examples_per_second']:,.0f} images/s  lr {row['learning_rate']:.2e}"
        )
        if self._bar is not None and self._task is not None:
            if self._console.width < _NARROW:
                facts = f"loss {row['loss']:.3f} {row['accuracy']:.0%}"
            epoch = f"epoch {row['epoch']:.1f}/{self._epochs:.0f}"
            self._bar.update(self._task, completed=row["step"], description=epoch, facts=facts)
        elif time.monotonic() - self._last_line_s >= LINE_EVERY_S:
            self._last_line_s = time.monotonic()
            self.message(f"{self._place(row)}  {facts}")

    def evaluated(self, row: Mapping[str, Any], best: bool) -> None:
        """A row of evaluation metrics."""
        if row["split"] == "validation":
            self._last_validation = f" (validation {row['accuracy']:.1%})"
        self.message(
            f"{self._place(row)}  {row['split']}: loss {row['loss']:.4f}  "
            f"accuracy {row['accuracy']:.2%}  top-5 {row['top_5_accuracy']:.2%}"
            + ("  best so far" if best else "")
        )

    def finished(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The table at the end: a line a split."""
        self.close()
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("", "accuracy", "top-5", "loss", "of step"):
            table.add_column(name, justify="right" if name else "left")
        for row in rows:
            table.add_row(
                row["split"],
                f"{row['accuracy']:.2%}",
                f"{row['top_5_accuracy']:.2%}",
                f"{row['loss']:.4f}",
                f"{row.get('weights_of_step', row['step']):,}",
            )
        self._console.print(table)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def _place(self, row: Mapping[str, Any]) -> str:
        width = len(str(self._total_steps))
        clock = time.strftime("%H:%M:%S")
        return f"{clock}  step {row['step']:>{width}}/{self._total_steps}  epoch {row['epoch']:.1f}"


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}"),
        console=console,
        expand=True,
        transient=True,
    )


class CountDisplay:
    """Shows how many of many things are done: a bar, or where there is no terminal a line at times.

    Args:
      total: How many there are.
      unit: What they are called.
    """

    def __init__(self, total: int, unit: str) -> None:
        self._total, self._unit, self._done = total, unit, 0
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = _bar(self._console) if self._console.is_terminal else None
        self._task = self._bar.add_task("", total=total, facts="") if self._bar else None
        self._start_s = self._last_line_s = time.monotonic()
        if self._bar:
            self._bar.start()

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        now_s = time.monotonic()
        rate = self._done / max(now_s - self._start_s, 1e-3)
        facts = f"{self._done:,} of {self._total:,} {self._unit}  {rate:,.0f} a second"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, facts=facts)
        elif now_s - self._last_line_s >= LINE_EVERY_S:
            self._last_line_s = now_s
            self._console.print(Text(facts))

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()

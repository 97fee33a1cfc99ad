"""What the terminal shows: live bars, or where there is no terminal a line now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

LINE_EVERY_S = 10.0
# Ten, as rich has it, take 2 % of a core, and it is one of those that train.
_REFRESHES_PER_SECOND = 2
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
        self._console = Console(quiet=not enabled, highlight=False, soft_wrap=True)
        self._bars = (
            _EpochAndRun(self._console, total_steps, steps_per_epoch)
            if enabled and self._console.is_terminal
            else None
        )
        self._last_line_s = -LINE_EVERY_S
        self._last_validation: float | None = None

    def message(self, text: str) -> None:
        """One line that stays."""
        self._console.print(Text(text))

    def advance(self, step: int) -> None:
        """Moves the bars."""
        if self._bars is not None:
            self._bars.advance(step)

    def trained(self, row: Mapping[str, Any]) -> None:
        """A row of training metrics: beside the bars, or as a line if the last one is 10 s old."""
        if self._bars is not None:
            self._bars.tell(row, self._last_validation)
        elif time.monotonic() - self._last_line_s >= LINE_EVERY_S:
            self._last_line_s = time.monotonic()
            last = self._last_validation
            validation = "" if last is None else f" (validation {last:.1%})"
            self.message(
                f"{self._place(row)}  loss {row['loss']:.4f}  accuracy {row['accuracy']:.1%}"
                f"{validation}  {_speed(row)}"
            )

    def evaluated(self, row: Mapping[str, Any], best: bool) -> None:
        """A row of evaluation metrics."""
        if row["split"] == "validation":
            self._last_validation = row["accuracy"]
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
        """Takes the bars away."""
        if self._bars is not None:
            self._bars.close()

    def _place(self, row: Mapping[str, Any]) -> str:
        width = len(str(self._total_steps))
        clock = time.strftime("%H:%M:%S")
        return f"{clock}  step {row['step']:>{width}}/{self._total_steps}  epoch {row['epoch']:.1f}"


class _EpochAndRun:
    """A bar for the epoch and one for the run, each with the time left and facts beside it."""

    def __init__(self, console: Console, total_steps: int, steps_per_epoch: float) -> None:
        self._console = console
        self._total_steps, self._steps_per_epoch = total_steps, steps_per_epoch
        self._epochs = math.ceil(total_steps / steps_per_epoch)
        self._bar = _bar(console)
        name, total = self._named(0)
        self._current, self._epoch = self._bar.add_task(name, total=total, facts=""), 0
        self._run = self._bar.add_task("run", total=total_steps, facts="")
        self._bar.start()

    def advance(self, step: int) -> None:
        """Moves both; at the last step of an epoch its bar is full."""
        epoch = max(0, math.ceil(step / self._steps_per_epoch) - 1)
        if epoch != self._epoch:
            self._epoch = epoch
            name, total = self._named(epoch)
            self._bar.reset(self._current, total=total, description=name)
        done = step - epoch * self._steps_per_epoch
        self._bar.update(self._current, completed=done)
        self._bar.update(self._run, completed=step)

    def tell(self, row: Mapping[str, Any], validation: float | None) -> None:
        """Shows a row of training, and the accuracy of the last validation."""
        self.advance(row["step"])
        if self._console.width < _NARROW:
            facts = f"loss {row['loss']:.3f} {row['accuracy']:.0%}"
            below = ""
        else:
            facts = f"loss {row['loss']:.4f}  accuracy {row['accuracy']:.1%}  {_speed(row)}"
            below = f"step {row['step']}/{self._total_steps}"
        if validation is not None:
            below += f"  validation {validation:.1%}"
        self._bar.update(self._current, facts=facts)
        self._bar.update(self._run, facts=below.strip())

    def close(self) -> None:
        """Takes both away."""
        self._bar.stop()

    def _named(self, epoch: int) -> tuple[str, float]:
        left = self._total_steps - epoch * self._steps_per_epoch
        return f"epoch {epoch + 1}/{self._epochs}", min(self._steps_per_epoch, left)


def _speed(row: Mapping[str, Any]) -> str:
    return f"{row['examples_per_second']:,.0f} images/s  lr {row['learning_rate']:.2e}"


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
        refresh_per_second=_REFRESHES_PER_SECOND,
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

"""Progress bars on a terminal: for the epoch, the run, and other counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from pipeline.monitor.terminal import Terminal

# Rich's default of 10 takes 2 % of a core, which training could use.
_REFRESHES_PER_SECOND = 2
_NARROW = 100  # terminal width in columns below which the bar shows only two values


class EpochAndRunBars:
    """A bar for the epoch and a bar for the run, each with the remaining time and metrics."""

    def __init__(self, console: Terminal, total_steps: int, steps_per_epoch: Fraction) -> None:
        self._console = console
        self._total_steps, self._steps_per_epoch = total_steps, steps_per_epoch
        self._epochs = math.ceil(total_steps / steps_per_epoch)
        self._bar = make_bar(console)
        name, total = self._named(0)
        self._current, self._epoch = self._bar.add_task(name, total=total, facts=""), 0
        self._run = self._bar.add_task("run", total=total_steps, facts="")
        self._below = ""
        self._bar.start()

    def advance(self, step: int) -> None:
        """Moves both bars. At the last step of an epoch, its bar is full."""
        epoch = max(0, math.ceil(step / self._steps_per_epoch) - 1)
        if epoch != self._epoch:
            self._epoch = epoch
            name, total = self._named(epoch)
            self._bar.reset(self._current, total=total, description=name)
        done = float(step - epoch * self._steps_per_epoch)
        self._bar.update(self._current, completed=done)
        self._bar.update(self._run, completed=step)

    def show_metrics(self, row: Mapping[str, Any], validation: float | None) -> None:
        """Shows training metrics and the accuracy of the last validation."""
        self.advance(row["step"])
        if self._console.width < _NARROW:
            facts = (
                f"loss {format_number(row['loss'], '.3f')} {format_number(row['accuracy'], '.0%')}"
            )
            self._below = ""
        else:
            loss, accuracy = (
                format_number(row["loss"], ".4f"),
                format_number(row["accuracy"], ".1%"),
            )
            facts = f"loss {loss}  accuracy {accuracy}  {format_speed(row)}"
            self._below = f"step {row['step']}/{self._total_steps}"
        if validation is not None:
            self._below += f"  validation {validation:.1%}"
        self._bar.update(self._current, facts=facts.rstrip())
        self._bar.update(self._run, facts=self._below.strip())

    def show_activity(self, text: str) -> None:
        """Shows the current activity in place of the metrics, while no step ends."""
        self._bar.update(self._run, facts=text or self._below.strip())

    def close(self) -> None:
        """Removes both bars."""
        self._bar.stop()

    def _named(self, epoch: int) -> tuple[str, float]:
        left = self._total_steps - epoch * self._steps_per_epoch
        return f"epoch {epoch + 1}/{self._epochs}", float(min(self._steps_per_epoch, left))


def format_number(value: float | None, form: str) -> str:
    """Formats a number; "-" if it is unknown."""
    return "-" if value is None else format(value, form)


def format_speed(row: Mapping[str, Any]) -> str:
    """Images per second and the learning rate, if they are known."""
    facts = []
    if row.get("examples_per_second"):
        facts.append(f"{row['examples_per_second']:,.0f} images/s")
    if "learning_rate" in row:
        facts.append(f"lr {row['learning_rate']:.2e}")
    return "  ".join(facts)


def make_bar(console: Terminal) -> Progress:
    """Creates a bar with a description, the percentage, the remaining time, and metrics."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
        console=console,
        expand=True,
        transient=True,
        refresh_per_second=_REFRESHES_PER_SECOND,
    )

"""The progress of training: live bars on a terminal, otherwise lines in the log."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline.monitor.bars import EpochAndRunBars, format_number, format_speed, make_bar
from pipeline.monitor.terminal import Terminal

LINE_EVERY_S = 10.0
_DAY = "%Y-%m-%d"
# Time from the first step, which is mostly compilation, to the first line with a rate. The loop
# reports about once per second, so the line appears within 3 s unless a step takes longer.
_FIRST_RATE_AFTER_S = 0.8


class ProgressDisplay:
    """Shows training progress. Only the chief prints; on other ranks `enabled` is False.

    Without a terminal, it prints a line for the first step, another one soon after, and then one
    whenever nothing was printed for 10 s. Lines begin with the time, and from the second day on
    with the date.

    Args:
      total_steps: Number of updates in the run.
      steps_per_epoch: Number of updates per epoch; not necessarily an integer.
      enabled: Whether to print.
      top_5: Whether to show top-5 accuracy, which is 100 % with five classes or fewer.
    """

    def __init__(
        self, total_steps: int, steps_per_epoch: Fraction, enabled: bool = True, top_5: bool = True
    ) -> None:
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._top_5 = top_5
        self._console = Terminal(quiet=not enabled, soft_wrap=True)
        self._bars = (
            EpochAndRunBars(self._console, total_steps, steps_per_epoch)
            if enabled and self._console.is_terminal
            else None
        )
        self._timer = _LineTimer()
        self._first_day = time.strftime(_DAY)
        self._step = 0
        self._began: tuple[float, int] | None = None  # time and step, for the time left
        self._compiling_since_s: float | None = None
        self._evaluation_began_s = 0.0
        self._last_validation: float | None = None

    def enable(self) -> None:
        """Prints from now on, in a process that has become the chief. It has no terminal."""
        self._console.quiet = False

    def message(self, text: str) -> None:
        """Prints a permanent line."""
        self._console.print(Text(text))
        self._timer.printed()

    def show_activity(self, text: str) -> None:
        """Shows the current activity, which may delay the next step."""
        self._compiling_since_s = time.monotonic()
        if self._bars is not None:
            self._bars.show_activity(text)
        else:
            self._print_line(text)

    def advance(self, step: int) -> None:
        """Moves the bars to the step at which a run starts or resumes. Prints nothing."""
        self._step, self._began = step, None
        if self._bars is not None:
            self._bars.advance(step)

    def trained(self, row: Mapping[str, Any]) -> None:
        """Shows training metrics in the bars, or prints a line if one is due.

        Args:
          row: `step`, `loss` and `accuracy`, and if known `examples_per_second` and
            `learning_rate`.
        """
        self._step = row["step"]
        if self._began is None or self._step < self._began[1]:
            self._began = time.monotonic(), self._step
        if self._bars is not None:
            self._bars.show_metrics(row, self._last_validation)
        elif self._timer.is_first:
            self._say_first()
        elif self._timer.is_due:
            last = self._last_validation
            validation = "" if last is None else f" (validation {last:.1%})"
            self._print_line(
                f"{self._place()}  loss {format_number(row['loss'], '.4f')}  "
                f"accuracy {format_number(row['accuracy'], '.1%')}"
                f"{validation}  {format_speed(row)}{self._left()}"
            )
            self._timer.settle()

    def evaluating(self, split: str, done: int, total: int) -> None:
        """Shows that an evaluation has processed `done` of `total` batches."""
        if done == 0:
            self._evaluation_began_s = time.monotonic()
        if self._bars is not None:
            self._bars.show_activity(f"{split} {done}/{total}" if done < total else "")
        elif done and self._timer.is_due:
            batch_s = (time.monotonic() - self._evaluation_began_s) / done
            left = duration((total - done) * batch_s)
            self._print_line(f"{self._place()}  {split}: batch {done}/{total}  {left} left")
            self._timer.settle()

    def evaluated(self, row: Mapping[str, Any], best: bool) -> None:
        """Prints a row of evaluation metrics."""
        self._step = row["step"]
        if row["split"] == "validation":
            self._last_validation = row["accuracy"]
        top_5 = f"  top-5 {format_number(row['top_5_accuracy'], '.2%')}" if self._top_5 else ""
        self._print_line(
            f"{self._place()}  {row['split']}: loss {format_number(row['loss'], '.4f')}  "
            f"accuracy {format_number(row['accuracy'], '.2%')}{top_5}"
            + ("  best so far" if best else "")
        )

    def finished(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Prints the final table with one row per split."""
        self.close()
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("", "accuracy", *(["top-5"] if self._top_5 else []), "loss", "of step"):
            table.add_column(name, justify="right" if name else "left")
        for row in rows:
            table.add_row(
                row["split"],
                format_number(row["accuracy"], ".2%"),
                *([format_number(row["top_5_accuracy"], ".2%")] if self._top_5 else []),
                format_number(row["loss"], ".4f"),
                f"{row.get('weights_of_step', row['step']):,}",
            )
        self._console.print(table)

    def close(self) -> None:
        """Removes the bars."""
        if self._bars is not None:
            self._bars.close()

    def _say_first(self) -> None:
        since_s = self._compiling_since_s
        took = "" if since_s is None else f" after {time.monotonic() - since_s:.1f} s"
        self._print_line(f"{self._place()}  first step{took}")
        self._timer.first_printed()

    def _print_line(self, text: str) -> None:
        now = time.localtime()
        day = "" if time.strftime(_DAY, now) == self._first_day else f"{time.strftime(_DAY, now)} "
        self.message(f"{day}{time.strftime('%H:%M:%S', now)}  {text}")

    def _place(self) -> str:
        width = len(str(self._total_steps))
        epoch = float(self._step / self._steps_per_epoch)
        return f"step {self._step:>{width}}/{self._total_steps}  epoch {epoch:.1f}"

    def _left(self) -> str:
        """The estimated remaining time, including evaluations and checkpoints."""
        if self._began is None or self._step <= self._began[1]:
            return ""
        step_s = (time.monotonic() - self._began[0]) / (self._step - self._began[1])
        return f"  {duration((self._total_steps - self._step) * step_s)} left"


class _LineTimer:
    """Decides when a line of progress is due without a terminal."""

    def __init__(self) -> None:
        self.is_first = True
        self._due_s = 0.0
        self._settled = False

    @property
    def is_due(self) -> bool:
        """Whether a line is due, after the line of the first step."""
        return time.monotonic() >= self._due_s

    def first_printed(self) -> None:
        """Records that the line of the first step was printed."""
        self.is_first = False
        self._due_s = time.monotonic() + _FIRST_RATE_AFTER_S

    def printed(self) -> None:
        """Records other output, which delays the next line unless it is the first with a rate."""
        if self._settled:
            self._due_s = time.monotonic() + LINE_EVERY_S

    def settle(self) -> None:
        """Records a line with a rate. From now on lines are due by time only."""
        self._settled = True
        self.printed()


def duration(seconds: float) -> str:
    """Formats 65 seconds as 1:05, and an hour more as 1:01:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class CountDisplay:
    """Shows how many of a number of items are done: a bar, or lines in the log.

    Args:
      total: Number of items.
      unit: Name of the items.
    """

    def __init__(self, total: int, unit: str) -> None:
        self._total, self._unit, self._done = total, unit, 0
        self._console = Terminal(stderr=True, soft_wrap=True)
        self._bar = make_bar(self._console) if self._console.is_terminal else None
        self._task = self._bar.add_task("", total=total, facts="") if self._bar else None
        self._start_s = self._last_line_s = time.monotonic()
        if self._bar:
            self._bar.start()

    def add(self, count: int) -> None:
        """Records that `count` more items are done."""
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
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()

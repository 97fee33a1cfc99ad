"""The result of a check, and the collection of all results."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

from pipeline.errors import PeerLost, PipelineError

P = ParamSpec("P")
T = TypeVar("T")

SETTINGS, DATA = 2, 3


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
      level: "warning": training will run, but perhaps not as intended; "error": it will not run.
      subject: What was checked, in one or two words.
      text: What was found.
      remedy: What to do; empty if nothing is needed.
      exit_code: For an error, the exit code with which training would end.
    """

    level: Literal["ok", "warning", "error"]
    subject: str
    text: str
    remedy: str = ""
    exit_code: int = 0

    @property
    def line(self) -> str:
        """The finding and its remedy on one line."""
        return f"{self.text}. {self.remedy}" if self.remedy else self.text


def ok(subject: str, text: str) -> Finding:
    """A finding that needs no action."""
    return Finding("ok", subject, text)


def warning(subject: str, text: str, remedy: str) -> Finding:
    """A finding with which training will run, but perhaps not as intended."""
    return Finding("warning", subject, text, remedy)


def error(subject: str, text: str, remedy: str, exit_code: int = SETTINGS) -> Finding:
    """A finding with which training will not run."""
    return Finding("error", subject, text, remedy, exit_code)


def from_error(subject: str, problem: Exception) -> Finding:
    """Converts an exception to a finding: an error of ours, or a failure of the check itself."""
    if isinstance(problem, PipelineError):
        # Our messages consist of a description and a separate sentence with the remedy.
        text, *rest = re.split(r"\. (?=[A-Z])", " ".join(str(problem).split()), maxsplit=1)
        return error(subject, text, "".join(rest), problem.exit_code)
    text = " ".join(f"{type(problem).__name__}: {problem}".split())
    return error(
        subject,
        f"this could not be checked ({text[:300]})",
        "Training may fail in the same way. If it does not, this is a bug in vit doctor: report it",
        exit_code=1,
    )


class Findings:
    """Runs checks and collects their findings in order.

    Args:
      show: Called with each new finding.
    """

    def __init__(self, show: Callable[[Finding], None]) -> None:
        self.all: list[Finding] = []
        self._show = show

    def add(self, findings: Iterable[Finding]) -> None:
        """Adds and shows findings. Duplicates are dropped."""
        for finding in findings:
            if finding not in self.all:
                self.all.append(finding)
                self._show(finding)

    def check(
        self, subject: str, check: Callable[P, Iterable[Finding]], *args: P.args, **kwargs: P.kwargs
    ) -> bool:
        """Runs a check and adds its findings or its failure. Returns whether there are no errors.

        Errors of earlier checks do not count.
        """
        before = len(self.all)
        with self._catching(subject):
            self.add(check(*args, **kwargs))
        return all(finding.level != "error" for finding in self.all[before:])

    def value(
        self, subject: str, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        """Computes a value for later checks. On failure adds the error and returns None."""
        with self._catching(subject):
            return make(*args, **kwargs)
        return None

    @contextmanager
    def _catching(self, subject: str) -> Iterator[None]:
        try:
            yield
        except PeerLost:
            raise  # the other processes are gone, so no check can continue
        except Exception as problem:  # a failing check must not stop the others
            self.add([from_error(subject, problem)])


def exit_code(findings: Iterable[Finding]) -> int:
    """The exit code of the first error, or 0."""
    return next((f.exit_code for f in findings if f.level == "error"), 0)

"""What a check found, and what gathers it."""

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
    """One line of the doctor.

    Attributes:
      level: "warning": it will run, but perhaps not as meant; "error": it will not.
      subject: What was looked at, in a word or two.
      text: What was found.
      remedy: What to do; empty where there is nothing to do.
      exit_code: Of an error: what training would end with.
    """

    level: Literal["ok", "warning", "error"]
    subject: str
    text: str
    remedy: str = ""
    exit_code: int = 0

    @property
    def line(self) -> str:
        """What was found and what to do."""
        return f"{self.text}. {self.remedy}" if self.remedy else self.text


def ok(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding("ok", subject, text)


def warning(subject: str, text: str, remedy: str) -> Finding:
    """It will run, but perhaps not as meant."""
    return Finding("warning", subject, text, remedy)


def error(subject: str, text: str, remedy: str, exit_code: int = SETTINGS) -> Finding:
    """It will not run."""
    return Finding("error", subject, text, remedy, exit_code)


def from_error(subject: str, problem: Exception) -> Finding:
    """What an exception means: a message of ours, or a fault of the check."""
    if isinstance(problem, PipelineError):
        # Our messages say what is wrong, and then in a sentence of its own what to do.
        text, *rest = re.split(r"\. (?=[A-Z])", " ".join(str(problem).split()), maxsplit=1)
        return error(subject, text, "".join(rest), problem.exit_code)
    text = " ".join(f"{type(problem).__name__}: {problem}".split())
    return error(
        subject,
        f"this could not be checked ({text[:300]})",
        "Training may fail alike; if it does not, this is a fault of vit doctor: report it",
        exit_code=1,
    )


class Findings:
    """Runs checks, and keeps what they found, in order.

    Args:
      show: Is told each finding as it comes.
    """

    def __init__(self, show: Callable[[Finding], None]) -> None:
        self.all: list[Finding] = []
        self._show = show

    def add(self, findings: Iterable[Finding]) -> None:
        """Keeps findings, and shows them; one that several checks come upon is kept once."""
        for finding in findings:
            if finding not in self.all:
                self.all.append(finding)
                self._show(finding)

    def check(
        self, subject: str, check: Callable[P, Iterable[Finding]], *args: P.args, **kwargs: P.kwargs
    ) -> bool:
        """Adds what a check finds, or that it failed; returns whether there is no new error."""
        before = len(self.all)
        with self._surviving(subject):
            self.add(check(*args, **kwargs))
        return all(finding.level != "error" for finding in self.all[before:])

    def value(
        self, subject: str, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        """What later checks need; None where it cannot be had, which is added."""
        with self._surviving(subject):
            return make(*args, **kwargs)
        return None

    @contextmanager
    def _surviving(self, subject: str) -> Iterator[None]:
        try:
            yield
        except PeerLost:
            raise  # nobody is there to compare with, and all end
        except Exception as problem:  # one check that fails must not end the others
            self.add([from_error(subject, problem)])


def exit_code(findings: Iterable[Finding]) -> int:
    """That of the first error, 0 where there is none."""
    return next((f.exit_code for f in findings if f.level == "error"), 0)

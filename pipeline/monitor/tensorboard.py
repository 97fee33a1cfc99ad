"""Scalars for TensorBoard, in its own format: nothing enters the step's graph."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from pipeline.monitor.appended_file import AppendedFile


class TensorBoardWriter:
    """Event files under `folder`, one subfolder a split, so that a chart shows splits together.

    TensorBoard's own writer is not used: it writes in a thread that dies with the first error, and
    leaves half a record, behind which nothing is read.

    Args:
      folder: The run's `tensorboard` folder.
      start_step: Where this start of the run begins; points after it, left by a start that was
        killed, are no longer shown.
      report: Is told when points cannot be written; they wait in memory.

    Raises:
      OSError: The folder cannot be made.
    """

    def __init__(self, folder: Path, start_step: int, report: Callable[[str], None]) -> None:
        self._folder = folder
        self._start_step = start_step
        self._report = report
        self._files: dict[str, AppendedFile] = {}
        folder.mkdir(exist_ok=True)

    def scalars(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Adds one point to each named curve of a split ("train", "validation", "test")."""
        now_s = time.time()
        events = [
            Event(step=step, wall_time=now_s, summary=scalar_pb(tag, value))
            for tag, value in values.items()
        ]
        if split not in self._files:
            try:
                self._files[split] = _open(self._folder / split, self._report)
            except OSError as error:
                self._report(f"no curves of {split} at step {step}: {error}")
                return
            events = [*_first_events(self._start_step, now_s), *events]
        self._files[split].append(_encode(events))


def _first_events(start_step: int, now_s: float) -> list[Event]:
    log = SessionLog(status=SessionLog.START)
    return [
        Event(wall_time=now_s, file_version="brain.Event:2"),
        Event(step=start_step + 1, wall_time=now_s, session_log=log),
    ]


def _open(folder: Path, report: Callable[[str], None]) -> AppendedFile:
    """A file that sorts behind those of earlier starts: so TensorBoard tells what is newer."""
    folder.mkdir(exist_ok=True)
    name = f"events.out.tfevents.{int(time.time()):010d}"
    number = next(n for n in count() if not (folder / f"{name}.{n}").exists())
    return AppendedFile(folder / f"{name}.{number}", report)


def _encode(events: list[Event]) -> bytes:
    records = io.BytesIO()
    writer = RecordWriter(records)
    for event in events:
        writer.write(event.SerializeToString())
    return records.getvalue()

"""Scalars for TensorBoard, through TensorBoard's own writer: nothing enters the step's graph."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class TensorBoardWriter:
    """Event files under `folder`, one subfolder a split, so that a chart shows splits together.

    Args:
      folder: The run's `tensorboard` folder.
      start_step: Where this start of the run begins; points after it, left by a start that was
        killed, are no longer shown.
    """

    def __init__(self, folder: Path, start_step: int) -> None:
        self._folder = folder
        self._start_step = start_step
        self._writers: dict[str, EventFileWriter] = {}

    def scalars(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Adds one point to each named curve of a split ("train", "validation", "test")."""
        writer = self._writer(split)
        for tag, value in values.items():
            event = Event(step=step, wall_time=time.time(), summary=scalar_pb(tag, value))
            writer.add_event(event)

    def close(self) -> None:
        """Writes what is waiting."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, split: str) -> EventFileWriter:
        if split not in self._writers:
            # 10 s: a person who watches, or a crash, loses no more than that.
            writer = EventFileWriter(str(self._folder / split), flush_secs=10)
            if self._start_step:
                log = SessionLog(status=SessionLog.START)
                writer.add_event(
                    Event(step=self._start_step + 1, wall_time=time.time(), session_log=log)
                )
            self._writers[split] = writer
        return self._writers[split]

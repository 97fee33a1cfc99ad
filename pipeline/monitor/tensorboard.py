"""Writes scalars, images and text as TensorBoard event files, outside the TensorFlow graph."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.image.metadata import create_summary_metadata as image_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

from pipeline.printable import printable
from pipeline.storage.appended_file import AppendedFile
from pipeline.storage.folders import make_folder

# Unix seconds, up to the year 2286.
_TIME = re.compile("[0-9]{1,10}")
# ASCII punctuation, which includes all characters with a meaning in Markdown and HTML.
_MARKUP = re.compile("[!-/:-@\\[-`{-~]")


class TensorBoardWriter:
    """Writes event files below `folder`, one subfolder per split, so that charts combine splits.

    TensorBoard reads files in the order of their names, which begin with the time. It drops points
    in a later file whose time is earlier than that of an earlier start. If the clock of this host
    is behind that of the host of an earlier start, all times are shifted past it.

    TensorBoard's own writer is not used. Its thread ends at the first error and leaves a partial
    record, after which TensorBoard reads nothing.

    Args:
      folder: The `tensorboard` folder of the run. Nothing is written outside its parent.
      start_step: Step at which this start begins. Later points of a killed start are hidden.
      report: Called with a message if points cannot be written. They are kept in memory.

    Raises:
      OSError: The folder cannot be created.
    """

    def __init__(self, folder: Path, start_step: int, report: Callable[[str], None]) -> None:
        self._folder = folder
        self._start_step = start_step
        self._report = report
        self._files: dict[str, AppendedFile] = {}
        make_folder(folder, below=folder.parent)
        # One second later, because names within a second end in a counter, and .10 sorts before .2.
        self._ahead_s = max(0, _newest_start_s(folder) + 1 - int(time.time()))

    def text(self, title: str, markdown: str, step: int) -> None:
        """Adds a page of text. File names that are not valid UTF-8 are escaped."""
        lines = map(printable, markdown.split("\n"))
        self._add("train", step, text_pb(title, "\n".join(lines)))

    def picture(self, title: str, png: bytes, step: int) -> None:
        """Adds a PNG image."""
        # PNG stores width and height in big-endian order after its signature and a chunk header.
        width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
        self._add("train", step, picture_summary(title, (width, height), [png]))

    def hparams(self, settings: Mapping[str, float | str | bool]) -> None:
        """Adds the settings of the run, with which TensorBoard compares runs."""
        # Written next to the folders of the splits, so that they belong to this run.
        shown = {k: printable(v) if isinstance(v, str) else v for k, v in settings.items()}
        self._add("", 0, hparams_pb(shown))

    def scalars(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Adds one point to each named curve of a split ("train", "validation", "test")."""
        self._add(split, step, *(scalar_pb(tag, value) for tag, value in values.items()))

    def _add(self, split: str, step: int, *summaries: Summary) -> None:
        now_s = time.time() + self._ahead_s
        events = [Event(step=step, wall_time=now_s, summary=one) for one in summaries]
        if split not in self._files:
            try:
                self._files[split] = self._open(split, now_s)
            except OSError as error:
                self._report(f"cannot write the curves of {split} at step {step}: {error}")
                return
            events = [*_first_events(self._start_step, now_s), *events]
        self._files[split].append(encode_events(events))

    def _open(self, split: str, now_s: float) -> AppendedFile:
        """Opens a file that sorts after those of earlier starts, so TensorBoard reads it last."""
        run, folder = self._folder.parent, self._folder / split
        make_folder(folder, below=run)
        name = f"events.out.tfevents.{int(now_s):010d}"
        number = next(n for n in count() if not os.path.lexists(folder / f"{name}.{n}"))
        return AppendedFile(folder / f"{name}.{number}", self._report, below=run)


def picture_summary(
    tag: str, size: tuple[int, int], pngs: Sequence[bytes], description: str | None = None
) -> Summary:
    """A summary with PNG images that all have the given width and height."""
    content = [*(str(side).encode() for side in size), *pngs]
    tensor = tensor_util.make_tensor_proto(content, dtype=np.object_)
    summary = Summary()
    summary.value.add(tag=tag, tensor=tensor, metadata=image_metadata(tag, description))
    return summary


def as_markdown(text: str) -> str:
    """Escapes text for TensorBoard, which renders descriptions as Markdown and HTML."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", printable(text))


def encode_events(events: Sequence[Event]) -> bytes:
    """Serializes events in the format of event files, with checksums."""
    records = io.BytesIO()
    writer = RecordWriter(records)
    for event in events:
        writer.write(event.SerializeToString())
    return records.getvalue()


def _first_events(start_step: int, now_s: float) -> list[Event]:
    log = SessionLog(status=SessionLog.START)
    return [
        Event(wall_time=now_s, file_version="brain.Event:2"),
        Event(step=start_step + 1, wall_time=now_s, session_log=log),
    ]


def _newest_start_s(folder: Path) -> int:
    """The latest time in the names of event files below `folder`; 0 if there are none."""
    names = (file.name.split(".") for file in folder.glob("**/events.out.tfevents.*"))
    return max((int(name[3]) for name in names if _TIME.fullmatch(name[3])), default=0)

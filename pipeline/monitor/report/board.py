"""The report's pictures and text in TensorBoard's format: its images and text pages show them."""

from __future__ import annotations

import io
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.image.metadata import create_summary_metadata
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from pipeline.config import dump_config
from pipeline.monitor.report.confusion import confusion_counts, heat_pixels
from pipeline.monitor.report.facts import Pixels, RunFacts

_MISTAKES = 12
# TensorBoard shows pictures as large as they are: small ones are enlarged to about this side.
_SIDE = 224


def write_board(folder: Path, run: RunFacts) -> Path:
    """Writes pictures and text into `folder`/report, in place of those of an earlier report.

    Args:
      folder: The run's `tensorboard` folder.
      run: What is known of it.

    Raises:
      OSError: They cannot be written.
    """
    step, now_s = run.best_step or 0, time.time()
    events = [Event(wall_time=now_s, file_version="brain.Event:2")]
    for summary in [*_texts(run), *_pictures(run)]:
        events.append(Event(step=step, wall_time=now_s, summary=summary))
    records = io.BytesIO()
    writer = RecordWriter(records)
    for event in events:
        writer.write(event.SerializeToString())
    place = folder / "report"
    place.mkdir(parents=True, exist_ok=True)
    for earlier in place.glob("events.out.tfevents.*"):
        earlier.unlink()
    file = place / f"events.out.tfevents.{int(now_s):010d}.0"
    file.write_bytes(records.getvalue())
    return file


def _texts(run: RunFacts) -> list[Summary]:
    """Settings, and how the run was last started; indented, which Markdown takes for code."""
    texts = {"settings": dump_config(run.config)}
    if run.starts:
        last = run.starts[-1]
        versions = "\n".join(f"{name} {number}" for name, number in last["versions"].items())
        where = f"{last['host']}, {last['system']}\n{last['devices']}"
        texts["command and environment"] = f"{shlex.join(last['command'])}\n\n{versions}\n{where}"
    return [text_pb(tag, "    " + text.replace("\n", "\n    ")) for tag, text in texts.items()]


def _pictures(run: RunFacts) -> list[Summary]:
    """Confusion matrix, most certain mistakes, and augmented examples, an epoch a column."""
    if run.predictions is None or run.examples is None:
        return []
    found, shown = run.predictions, run.examples
    counts = confusion_counts(found.label, found.predicted, len(run.classes))
    heat = heat_pixels(counts)
    white = Image.new("RGBA", heat.shape[1::-1], "white")
    matrix = np.asarray(Image.alpha_composite(white, Image.fromarray(heat)).convert("RGB"))
    said = "Rows: what it is. Columns: what it was taken for."
    summaries = [_summary("confusion matrix", [matrix], said)]
    at = {int(index): i for i, index in enumerate(shown.index)}
    worst = [p for p in found.worst(_MISTAKES) if int(found.index[p]) in at]
    if worst:
        lines = [
            f"{i + 1}. {run.classes[found.predicted[p]]} ({found.probability[p, 0]:.1%}), "
            f"is {run.classes[found.label[p]]}"
            for i, p in enumerate(worst)
        ]
        images = [shown.image[at[int(found.index[p])]] for p in worst]
        summaries.append(_summary("most certain mistakes", images, "\n".join(lines)))
    if len(shown.augmented):
        # [n, e, h, w, 3] -> [n h, e w, 3]
        rows = np.concatenate([np.concatenate(list(row), axis=1) for row in shown.augmented])
        summaries.append(_summary("augmented examples", [rows], "An epoch a column."))
    return summaries


def _summary(tag: str, images: Sequence[npt.NDArray[np.uint8]], description: str) -> Summary:
    """A value of the images plugin: width, height, and the pictures as PNG."""
    large = [_enlarge(image) for image in images]
    height, width = large[0].shape[:2]
    content = [str(width).encode(), str(height).encode(), *map(_png, large)]
    summary = Summary()
    summary.value.add(
        tag=tag,
        metadata=create_summary_metadata(display_name=tag, description=description),
        tensor=make_tensor_proto(content, dtype=np.object_),
    )
    return summary


def _enlarge(image: Pixels) -> Pixels:
    scale = max(1, _SIDE // max(image.shape[:2]))
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def _png(image: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    return stream.getvalue()

"""Writes the pictures of a report for the image page of TensorBoard."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from pipeline.monitor.tensorboard import as_markdown, encode_events, picture_summary
from pipeline.report.confusion import confusion_counts, heat_pixels, predicted_name
from pipeline.report.run_facts import RunFacts
from pipeline.storage.folders import make_folder, remove_file
from pipeline.storage.write import replace_file
from pipeline.training.predictions import Pixels, Predictions

_MISTAKES = 12
_MOST_CELLS = 1000  # classes of a matrix, one pixel each
# TensorBoard shows pictures in their own size. Small ones are enlarged to about this side.
_SIDE = 224


def write_board(folder: Path, run: RunFacts) -> Path:
    """Writes pictures into `folder`/report and replaces those of an earlier report.

    Args:
      folder: The `tensorboard` folder of the run; its parent must exist.
      run: The facts about the run.

    Raises:
      OSError: The pictures cannot be written.
    """
    step, now_s = run.best_step or 0, time.time()
    events = [Event(wall_time=now_s, file_version="brain.Event:2")]
    events += [Event(step=step, wall_time=now_s, summary=one) for one in _pictures(run)]
    below, place = folder.parent, folder / "report"
    make_folder(folder, below=below)
    make_folder(place, below=below)
    for earlier in place.glob("events.out.tfevents.*"):
        remove_file(earlier, below=below)
    file = place / f"events.out.tfevents.{int(now_s):010d}.0"
    replace_file(file, encode_events(events), below=below)
    return file


def _pictures(run: RunFacts) -> list[Summary]:
    """Confusion matrix, most certain mistakes, and augmented examples with a column per epoch.

    The matrix is left out if it has more classes than a screen has pixels.
    """
    if run.predictions is None or run.examples is None:
        return []
    found, shown = run.predictions, run.examples
    summaries = [_matrix(run, found)] if len(run.classes) <= _MOST_CELLS else []
    at = {int(index): i for i, index in enumerate(shown.index)}
    worst = [p for p in found.worst(_MISTAKES) if int(found.index[p]) in at]
    if worst:
        lines = [
            f"{i + 1}. {as_markdown(predicted_name(run.classes, found.predicted[p]))} "
            f"({found.probability[p, 0]:.1%}), "
            f"is {as_markdown(run.classes[found.label[p]])}"
            for i, p in enumerate(worst)
        ]
        images = [shown.image[at[int(found.index[p])]] for p in worst]
        summaries.append(_summary("most certain mistakes", images, "\n".join(lines)))
    if len(shown.augmented):
        # [n, e, h, w, 3] -> [n h, e w, 3]
        rows = np.concatenate([np.concatenate(list(row), axis=1) for row in shown.augmented])
        summaries.append(_summary("augmented examples", [rows], "One column per epoch."))
    return summaries


def _matrix(run: RunFacts, found: Predictions) -> Summary:
    heat = heat_pixels(confusion_counts(found.label, found.predicted, len(run.classes)))
    white = Image.new("RGBA", heat.shape[1::-1], "white")
    matrix = np.asarray(Image.alpha_composite(white, Image.fromarray(heat)).convert("RGB"))
    return _summary("confusion matrix", [matrix], "Rows: true class. Columns: predicted class.")


def _summary(tag: str, images: Sequence[npt.NDArray[np.uint8]], description: str) -> Summary:
    """A summary of the image plugin: width, height, and the pictures as PNG."""
    large = [_enlarge(image) for image in images]
    height, width = large[0].shape[:2]
    return picture_summary(tag, (width, height), [_png(image) for image in large], description)


def _enlarge(image: Pixels) -> Pixels:
    scale = max(1, _SIDE // max(image.shape[:2]))
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def _png(image: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    return stream.getvalue()

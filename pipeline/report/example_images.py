"""Pictures inside the page, and how examples are shown with what the model says of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.report.confusion import predicted_name
from pipeline.report.html import Html, element, join, table
from pipeline.report.run_facts import RunFacts
from pipeline.training.predictions import Pixels

_WORST, _BEST = 18, 6
# Up to this side a picture's pixels are to be seen; above it a photograph is smaller as JPEG.
_TINY_SIDE = 48


def picture(pixels: npt.NDArray[np.uint8], alt: str, class_: str | None = None) -> Html:
    """An image element that holds its picture.

    Args:
      pixels: uint8 [h, w, 3], or with a fourth channel, opacity.
      alt: What it shows, in words.
      class_: Of the element.
    """
    stream = io.BytesIO()
    height, width, channels = pixels.shape
    tiny = max(height, width) <= _TINY_SIDE
    kind = "png" if tiny or channels == 4 else "jpeg"
    options = {"optimize": True} if kind == "png" else {"quality": 88}
    Image.fromarray(pixels).save(stream, kind, **options)
    data = base64.b64encode(stream.getvalue()).decode()
    return element(
        "img",
        src=f"data:image/{kind};base64,{data}",
        alt=alt,
        width=width,
        height=height,
        class_=class_ or ("tiny" if tiny else None),
    )


def examples_sections(run: RunFacts) -> Html | None:
    """The most certain mistakes and the most certain hits; None where there are no pictures."""
    predictions, examples = run.predictions, run.examples
    if predictions is None or examples is None:
        return None
    worst, best = predictions.worst(_WORST), predictions.best(_BEST)
    mistakes = len(np.flatnonzero(predictions.predicted != predictions.label))
    return join(
        element("h2", "Examples"),
        element("h3", f"Most certain mistakes ({len(worst)} of {mistakes:,})"),
        _list(run, worst) if worst else element("p", "There is no mistake."),
        element("h3", "Recognised with most certainty"),
        _list(run, best) if best else element("p", "None was recognised."),
    )


def augmented_section(run: RunFacts) -> Html | None:
    """What training sees of a few examples, an epoch a column; None without pictures."""
    if run.examples is None or not len(run.examples.augmented):
        return None
    rows = []
    for label, pixels in zip(run.examples.augmented_label, run.examples.augmented, strict=True):
        name = run.classes[label]
        images = [
            picture(one, f"{name}, augmented, epoch {epoch}") for epoch, one in enumerate(pixels)
        ]
        rows.append((name, *images))
    head = ("class", *(f"epoch {epoch}" for epoch in range(run.examples.augmented.shape[1])))
    return join(
        element("h2", "Augmented training examples"),
        table(
            head, rows, "The same image in each epoch, before any mixing of pairs", class_="rows"
        ),
    )


def _list(run: RunFacts, places: Sequence[int]) -> Html:
    if run.predictions is None or run.examples is None:
        raise ValueError("there are no predictions to show")
    shown = {int(index): i for i, index in enumerate(run.examples.index)}
    entries = []
    for place in places:
        at = shown.get(int(run.predictions.index[place]))
        if at is not None:
            pixels: Pixels = run.examples.image[at]
            entries.append(_entry(run, place, pixels, run.examples.name[at]))
    return element("ul", *entries, class_="pictures")


def _entry(run: RunFacts, place: int, pixels: Pixels, name: str) -> Html:
    predictions = run.predictions
    if predictions is None:
        raise ValueError("there are no predictions to show")
    label, predicted = int(predictions.label[place]), int(predictions.predicted[place])
    is_a, said = run.classes[label], predicted_name(run.classes, predicted)
    sure = f"{predictions.probability[place, 0]:.1%}"
    right = label == predicted
    alt = f"{is_a}, recognised with {sure}" if right else f"{is_a}, taken for {said} with {sure}"
    lines = [element("div", None if right else "says ", element("strong", said), f" {sure}")]
    if not right:
        own = f"{predictions.label_probability[place]:.1%}"
        lines.append(element("div", "is ", element("strong", is_a), f" {own}"))
    # The folders above say little, and the whole path would fill the page.
    short = name.rsplit("/", 1)[-1]
    lines.append(element("div", short, class_="soft", title=name))
    return element("li", picture(pixels, alt), *lines)

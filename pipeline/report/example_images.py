"""Pictures inside the page, and examples with what the model predicts for them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.report.confusion import predicted_name
from pipeline.report.run_facts import RunFacts
from pipeline.training.predictions import Examples, Pixels, Predictions

_WORST, _BEST = 18, 6
# Pictures up to this side keep their pixels. Above it, photographs are smaller as JPEG.
_TINY_SIDE = 48


@dataclass(frozen=True)
class Picture:
    """An image that the page contains.

    Attributes:
      src: A data URL with the encoded image.
      alt: What it shows, in words.
      width, height: In pixels.
      style: CSS class or None.
    """

    src: str
    alt: str
    width: int
    height: int
    style: str | None = None


@dataclass(frozen=True)
class Example:
    """An example and its prediction.

    Attributes:
      picture: The image.
      predicted: Name of the predicted class.
      probability: Of that class.
      label: Name of the true class.
      label_probability: Of that class.
      is_right: Whether the two are the same class.
      name: Of the file, without folders.
      path: Of the file, as the data set names it.
    """

    picture: Picture
    predicted: str
    probability: float
    label: str
    label_probability: float
    is_right: bool
    name: str
    path: str


@dataclass(frozen=True)
class ConfidentExamples:
    """The examples whose predictions are the most confident.

    Attributes:
      mistakes: Those that are wrong, the most confident first.
      num_shown: Number of mistakes that were selected.
      num_mistakes: Number of mistakes in the split.
      hits: Those that are right, each of another class as far as possible.
    """

    mistakes: Sequence[Example]
    num_shown: int
    num_mistakes: int
    hits: Sequence[Example]


@dataclass(frozen=True)
class AugmentedExample:
    """A training example as several epochs see it: class name, and a picture per epoch."""

    label: str
    pictures: Sequence[Picture]


def picture(pixels: npt.NDArray[np.uint8], alt: str, style: str | None = None) -> Picture:
    """Encodes an image for the page.

    Args:
      pixels: uint8 [h, w, 3], or [h, w, 4] with opacity.
      alt: What it shows, in words.
      style: CSS class. Small images get the class "tiny" by default.
    """
    stream = io.BytesIO()
    height, width, channels = pixels.shape
    tiny = max(height, width) <= _TINY_SIDE
    kind = "png" if tiny or channels == 4 else "jpeg"
    options = {"optimize": True} if kind == "png" else {"quality": 88}
    Image.fromarray(pixels).save(stream, kind, **options)
    data = base64.b64encode(stream.getvalue()).decode()
    style = style or ("tiny" if tiny else None)
    return Picture(f"data:image/{kind};base64,{data}", alt, width, height, style)


def confident_examples(run: RunFacts) -> ConfidentExamples | None:
    """Selects the most confident mistakes and hits; None if the run has no pictures."""
    predictions, examples = run.predictions, run.examples
    if predictions is None or examples is None:
        return None
    worst, best = predictions.worst(_WORST), predictions.best(_BEST)
    return ConfidentExamples(
        _examples(run.classes, predictions, examples, worst),
        len(worst),
        int(np.count_nonzero(predictions.predicted != predictions.label)),
        _examples(run.classes, predictions, examples, best),
    )


def augmented_examples(run: RunFacts) -> list[AugmentedExample]:
    """A few training examples as each epoch sees them; empty if the run has no pictures."""
    if run.examples is None:
        return []
    rows = []
    for label, pixels in zip(run.examples.augmented_label, run.examples.augmented, strict=True):
        name = run.classes[label]
        pictures = [
            picture(one, f"{name}, augmented, epoch {epoch}") for epoch, one in enumerate(pixels)
        ]
        rows.append(AugmentedExample(name, pictures))
    return rows


def _examples(
    classes: Sequence[str], predictions: Predictions, examples: Examples, places: Sequence[int]
) -> list[Example]:
    """The examples at these places of the predictions, as far as they have a picture."""
    pictures = {int(index): i for i, index in enumerate(examples.index)}
    found = []
    for place in places:
        at = pictures.get(int(predictions.index[place]))
        if at is not None:
            pixels: Pixels = examples.image[at]
            found.append(_example(classes, predictions, place, pixels, examples.name[at]))
    return found


def _example(
    classes: Sequence[str], predictions: Predictions, place: int, pixels: Pixels, path: str
) -> Example:
    label, predicted = int(predictions.label[place]), int(predictions.predicted[place])
    truth, said = classes[label], predicted_name(classes, predicted)
    probability = float(predictions.probability[place, 0])
    is_right = label == predicted
    outcome = "correct" if is_right else f"predicted as {said}"
    return Example(
        picture(pixels, f"{truth}, {outcome} with {probability:.1%}"),
        said,
        probability,
        truth,
        float(predictions.label_probability[place]),
        is_right,
        # The folders say little, and the whole path would fill the page.
        path.rsplit("/", 1)[-1],
        path,
    )

"""Checks of the data set: images per class, and a sample read in the same way as in training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.config import DataConfig
from pipeline.data.duplicates import find_duplicates
from pipeline.data.sources.source import HALF, IMAGENET, moments
from pipeline.data.split import Color, DataSource, Split
from pipeline.doctor.finding import DATA, Finding, error, ok, warning
from pipeline.errors import DataError

# With fewer images, the tenth that is held out for validation contains none of the class.
FEW_IMAGES = 10
SAMPLE = {"train": 256, "validation": 64, "test": 64}
SAMPLE_S = 5.0
# Arrays in memory up to this size are compared completely, which takes two seconds.
COMPARED_BYTES = 2**30
# Perfect normalization gives a mean of 0 and a deviation of 1. Normalizing MNIST with mean and
# deviation 0.5 trains well and gives -0.74 and 0.62; ImageNet gives -0.1 and 0.45.
FAR_MEAN, SMALL_DEVIATION, LARGE_DEVIATION = 0.8, 0.2, 2.0
_NAMED = 3


@dataclass
class Sample:
    """Statistics of a sample of images that were read and decoded.

    Attributes:
      seen: Number of images.
      counts: int64 [3, 256], frequency of each value in each channel of the training images.
      problems: Errors of the images that cannot be read.
      repaired: Names of images whose damaged data libjpeg repaired, with its warning.
      complete: Whether the whole sample was read within the time limit.
    """

    seen: int = 0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 256), np.int64))
    problems: list[DataError] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    complete: bool = True


def check_counts(source: DataSource) -> Iterator[Finding]:
    """Reports the number of images, and the notes of the source."""
    sizes = ", ".join(f"{split.num_examples:,} {name}" for name, split in source.splits.items())
    shards = count_shards(source)
    where = f" in {shards:,} shards, read by index: any number of workers" if shards else ""
    yield ok("data", f"{sizes} images of {len(source.classes):,} classes{where}")
    for note in source.notes:
        yield warning("data", note, "No action is needed if this is intended")


def count_shards(source: DataSource) -> int:
    """Number of record files that training keeps open."""
    return sum(s.records.num_files for s in source.splits.values() if s.records is not None)


def check_classes(source: DataSource) -> Iterator[Finding]:
    """Warns about classes with no or few training images."""
    labels = source.splits["train"].labels
    counts = np.bincount(labels, minlength=len(source.classes))
    empty = [source.classes[i] for i in np.flatnonzero(counts == 0)]
    few = [
        f"{source.classes[i]} ({counts[i]})"
        for i in np.argsort(counts, kind="stable")
        if 0 < counts[i] < FEW_IMAGES
    ]
    if empty:
        yield warning(
            "classes",
            f"{len(empty)} of {len(counts)} classes have no training image: {_listed(empty)}",
            "Add images, or remove these classes: the model cannot learn them",
        )
    if few:
        yield warning(
            "classes",
            f"{len(few)} of {len(counts)} classes have fewer than {FEW_IMAGES} training images: "
            f"{_listed(few)}",
            "Add images, or remove these classes: the model would memorize so few",
        )
    if not empty and not few:
        yield ok("classes", f"{counts.min():,} to {counts.max():,} training images each")


def take_sample(source: DataSource, config: DataConfig, limit_s: float = SAMPLE_S) -> Sample:
    """Reads and decodes a fixed sample of images as training does, for at most `limit_s`."""
    sample, until_s = Sample(), time.monotonic() + limit_s
    for name, split in source.splits.items():
        _sample_split(split, name == "train", SAMPLE[name], config, sample, until_s)
    return sample


def _sample_split(
    split: Split, counted: bool, number: int, config: DataConfig, sample: Sample, until_s: float
) -> None:
    # NumPy guarantees the raw output of Philox for all versions, but not its permutations.
    keys = np.random.Philox(key=0).random_raw(split.num_examples)
    places = np.argsort(keys, kind="stable")[:number]
    if split.images is not None:
        sample.seen += len(places)
        _count(sample, split.images[places] if counted else None)
        return
    with ThreadPoolExecutor(8) as pool:
        for start in range(0, len(places), 32):
            if time.monotonic() > until_s:
                sample.complete = False
                return
            part = places[start : start + 32].tolist()
            for image in pool.map(lambda place: _load(split, place, config, sample), part):
                sample.seen += 1
                if isinstance(image, DataError):
                    sample.problems.append(image)
                else:
                    _count(sample, image if counted else None)


def _load(
    split: Split, place: int, config: DataConfig, sample: Sample
) -> npt.NDArray[np.uint8] | DataError:
    from pipeline.data.images import load_example

    def on_repaired(warning: str) -> None:
        sample.repaired.append(f"{split.name(place)} ({warning})")

    try:
        return load_example(split, place, config, on_repaired)
    except DataError as problem:
        return problem


def _count(sample: Sample, images: npt.NDArray[np.uint8] | None) -> None:
    if images is not None:
        for color in range(3):
            values = images[..., color].reshape(-1)
            sample.counts[color] += np.bincount(values, minlength=256)


def check_sample(sample: Sample, config: DataConfig, encoded: bool) -> Iterator[Finding]:
    """Reports images that cannot be read.

    Args:
      sample: Result of `take_sample`.
      config: `on_bad_image` decides whether such an image is an error.
      encoded: Whether the images had to be decoded.
    """
    if not encoded:
        yield ok("images", "in memory: no decoding is needed")
        return
    if sample.repaired:
        yield warning(
            "images",
            f"libjpeg repaired damaged data of {len(sample.repaired)} of a sample of "
            f"{sample.seen}. The first: {min(sample.repaired)}",
            "They are used. Inspect them, and replace those with visible damage",
        )
    short = "" if sample.complete else f" (stopped after {SAMPLE_S:g} s: storage is slow)"
    if not sample.problems:
        yield ok("images", f"a sample of {sample.seen} was read and decoded{short}")
        return
    first, bad = str(sample.problems[0]), len(sample.problems)
    what, _, remedy = first.partition(". ")
    text = f"{bad} of a sample of {sample.seen} cannot be read{short}. The first: {what}"
    if config.on_bad_image == "skip":
        yield warning(
            "images", text, "They are skipped (data.on_bad_image=skip) and listed in skipped.txt"
        )
    else:
        yield error("images", text, remedy, DATA)


def check_normalization(
    sample: Sample, source: DataSource, config: DataConfig
) -> Iterator[Finding]:
    """Compares the mean and deviation of the sample with those that the settings use."""
    if not sample.counts.any():
        return
    found_mean, found_std = moments(sample.counts)
    known = source.normalization if config.normalize == "dataset" else None
    mean, std = {"half": HALF, "imagenet": IMAGENET}.get(config.normalize) or known or (
        found_mean, found_std,
    )  # fmt: skip
    shift = [(f - m) / s for f, m, s in zip(found_mean, mean, std, strict=True)]
    ratio = [f / s for f, s in zip(found_std, std, strict=True)]
    text = f"images have mean {_color(found_mean)} and deviation {_color(found_std)}"
    if (mean, std) == (found_mean, found_std):
        text += f": similar to what data.normalize={config.normalize} will measure and use"
    else:
        text += f", and after data.normalize={config.normalize} {_color(shift)} and "
        text += _color(ratio)
    far = max(map(abs, shift)) > FAR_MEAN
    if far or min(ratio) < SMALL_DEVIATION or max(ratio) > LARGE_DEVIATION:
        yield warning(
            "normalization",
            f"{text}: far from 0 and 1",
            "Inspect the images (vit prepare --preview), or set data.normalize=dataset",
        )
    else:
        yield ok("normalization", text)


def check_duplicates(source: DataSource) -> Iterator[Finding]:
    """Reports equal images in two splits or with two labels, if the search is fast."""
    if source.compared:
        yield ok("duplicates", "checked by vit prepare")
        return
    found = find_duplicates(source, SAMPLE_S, COMPARED_BYTES)
    if found is None:
        total = sum(split.num_examples for split in source.splits.values())
        yield ok("duplicates", f"not checked for {total:,} images; vit prepare checks all")
        return
    searched = f"the first {found.compared:,} of {found.total:,} images were compared"
    for note in found.notes(source.classes):
        text, _, remedy = note.rpartition(". ")
        yield warning("duplicates", text if found.complete else f"{text}; {searched}", remedy)
    if found.splits or found.labels:
        return
    if found.complete:
        yield ok("duplicates", "no image is in two splits or has two labels")
    else:
        yield ok("duplicates", f"{searched}, and all are different; vit prepare compares all")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _color(values: Sequence[float] | Color) -> str:
    if max(values) - min(values) < 0.005:
        return f"{values[0]:.2f}"
    return " ".join(f"{value:.2f}" for value in values)

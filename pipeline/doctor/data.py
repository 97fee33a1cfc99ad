"""The data: how many images of which classes, and a sample of them read as training reads them."""

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
from pipeline.data.split import Colour, DataSource, Split
from pipeline.doctor.finding import DATA, Finding, error, ok, warning
from pipeline.errors import DataError

# With fewer, the tenth that is held out for validation has none of the class.
FEW_IMAGES = 10
SAMPLE = {"train": 256, "validation": 64, "test": 64}
SAMPLE_S = 5.0
# Of a set in memory, all images up to this size are compared: two seconds.
COMPARED_BYTES = 2**30
# What the network sees has a mean of 0 and a deviation of 1 where normalisation fits exactly.
# MNIST, trained well by many with mean and deviation of 0.5, has -0.74 and 0.62; ImageNet -0.1 and
# 0.45.
FAR_MEAN, SMALL_DEVIATION, LARGE_DEVIATION = 0.8, 0.2, 2.0
_NAMED = 3


@dataclass
class Sample:
    """Images of a data set that were read and decoded.

    Attributes:
      seen: How many.
      counts: int64 [3, 256], how often each value occurs in each colour, of the training images.
      problems: Of those that cannot be read, by name.
      repaired: Name of each whose damaged data libjpeg repaired, with its warning.
      complete: Whether the time sufficed.
    """

    seen: int = 0
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 256), np.int64))
    problems: list[DataError] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    complete: bool = True


def check_counts(source: DataSource) -> Iterator[Finding]:
    """How many images there are, and what the source has to tell."""
    sizes = ", ".join(f"{split.num_examples:,} {name}" for name, split in source.splits.items())
    shards = count_shards(source)
    where = f" in {shards:,} shards, read by index: any number of workers" if shards else ""
    yield ok("data", f"{sizes} images of {len(source.classes):,} classes{where}")
    for note in source.notes:
        yield warning("data", note, "Nothing is to be done if that is meant")


def count_shards(source: DataSource) -> int:
    """Files of records that training keeps open."""
    return sum(s.records.num_files for s in source.splits.values() if s.records is not None)


def check_classes(source: DataSource) -> Iterator[Finding]:
    """Classes of the head that training never sees, or hardly."""
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
            "The head has outputs that nothing teaches: add images, or take the classes out",
        )
    if few:
        yield warning(
            "classes",
            f"{len(few)} of {len(counts)} classes have fewer than {FEW_IMAGES} training images: "
            f"{_listed(few)}",
            "Add images, or take the classes out: so few are learned by heart",
        )
    if not empty and not few:
        yield ok("classes", f"{counts.min():,} to {counts.max():,} training images each")


def take_sample(source: DataSource, config: DataConfig, limit_s: float = SAMPLE_S) -> Sample:
    """Reads and decodes the same images every time, as training does, until `limit_s` is over."""
    sample, until_s = Sample(), time.monotonic() + limit_s
    for name, split in source.splits.items():
        _sample_split(split, name == "train", SAMPLE[name], config, sample, until_s)
    return sample


def _sample_split(
    split: Split, counted: bool, number: int, config: DataConfig, sample: Sample, until_s: float
) -> None:
    # The raw output of Philox is fixed for all versions of NumPy, its permutations are not.
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
        for colour in range(3):
            values = images[..., colour].reshape(-1)
            sample.counts[colour] += np.bincount(values, minlength=256)


def check_sample(sample: Sample, config: DataConfig, encoded: bool) -> Iterator[Finding]:
    """Images that cannot be read.

    Args:
      sample: Of `take_sample`.
      config: Whether such an image ends the run.
      encoded: Whether there was anything to decode.
    """
    if not encoded:
        yield ok("images", "in memory: nothing is to be decoded")
        return
    if sample.repaired:
        yield warning(
            "images",
            f"libjpeg repaired damaged data of {len(sample.repaired)} of a sample of "
            f"{sample.seen}. The first: {min(sample.repaired)}",
            "They are used. Look at them, and replace those that show the damage",
        )
    short = "" if sample.complete else f", all that {SAMPLE_S:g} s sufficed for: storage is slow"
    if not sample.problems:
        yield ok("images", f"a sample of {sample.seen} was read and decoded{short}")
        return
    first, bad = str(sample.problems[0]), len(sample.problems)
    what, _, remedy = first.partition(". ")
    text = f"{bad} of a sample of {sample.seen} cannot be read{short}. The first: {what}"
    if config.on_bad_image == "skip":
        yield warning(
            "images", text, "They are left out (data.on_bad_image=skip), and listed in skipped.txt"
        )
    else:
        yield error("images", text, remedy, DATA)


def check_normalization(
    sample: Sample, source: DataSource, config: DataConfig
) -> Iterator[Finding]:
    """Mean and deviation of the sample against those that the settings take off."""
    if not sample.counts.any():
        return
    found_mean, found_std = moments(sample.counts)
    known = source.normalization if config.normalize == "dataset" else None
    mean, std = {"half": HALF, "imagenet": IMAGENET}.get(config.normalize) or known or (
        found_mean, found_std,
    )  # fmt: skip
    shift = [(f - m) / s for f, m, s in zip(found_mean, mean, std, strict=True)]
    ratio = [f / s for f, s in zip(found_std, std, strict=True)]
    text = f"images have mean {_colour(found_mean)} and deviation {_colour(found_std)}"
    if (mean, std) == (found_mean, found_std):
        text += f": about what data.normalize={config.normalize} will measure and take off"
    else:
        text += f", and after data.normalize={config.normalize} {_colour(shift)} and "
        text += _colour(ratio)
    far = max(map(abs, shift)) > FAR_MEAN
    if far or min(ratio) < SMALL_DEVIATION or max(ratio) > LARGE_DEVIATION:
        yield warning(
            "normalization",
            f"{text}: far from 0 and 1",
            "Look at the images (vit prepare --preview), or set data.normalize=dataset",
        )
    else:
        yield ok("normalization", text)


def check_duplicates(source: DataSource) -> Iterator[Finding]:
    """Images in two splits or under two labels, where looking for them is cheap."""
    if source.compared:
        yield ok("duplicates", "looked for by vit prepare")
        return
    found = find_duplicates(source, SAMPLE_S, COMPARED_BYTES)
    if found is None:
        total = sum(split.num_examples for split in source.splits.values())
        yield ok("duplicates", f"not looked for among {total:,} images; vit prepare does")
        return
    searched = f"the first {found.compared:,} of {found.total:,} images were compared"
    for note in found.notes(source.classes):
        text, _, remedy = note.rpartition(". ")
        yield warning("duplicates", text if found.complete else f"{text}; {searched}", remedy)
    if found.splits or found.labels:
        return
    if found.complete:
        yield ok("duplicates", "no image is in two splits or under two labels")
    else:
        yield ok(
            "duplicates", f"{searched}, and none is equal to another; vit prepare compares all"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _colour(values: Sequence[float] | Colour) -> str:
    if max(values) - min(values) < 0.005:
        return f"{values[0]:.2f}"
    return " ".join(f"{value:.2f}" for value in values)

"""Predictions for image files, in their order; unreadable files are answered with the reason."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.images import load_image
from pipeline.data.sources.folder import EXTENSIONS
from pipeline.data.sources.walk import is_skipped
from pipeline.errors import DataError, without_settings
from pipeline.export.exported import Exported, Pixels, Probabilities
from pipeline.storage.limits import image_bytes
from pipeline.storage.read import read_file, reason

BATCH = 32  # images a call of the model


class Answer(NamedTuple):
    """What is said of one file, or why nothing is.

    Attributes:
      path: Of the file, or what was given in its place.
      problem: Why there is no answer; None where there is one.
      pixels: uint8 [S, S, 3], what the model saw.
      probabilities: Float [C], without NaN.
    """

    path: str
    problem: str | None = None
    pixels: npt.NDArray[np.uint8] | None = None
    probabilities: npt.NDArray[np.floating] | None = None


def find_images(words: Iterable[str]) -> Iterator[Answer]:
    """The files that are meant, in the order of the words, without answers yet.

    A word is a file, a folder, of which all images below it are meant, sorted by path, or a pattern
    such as `photos/**/*.jpg`. Where a word means nothing, that is its problem.
    """
    for word in words:
        path = Path(word)
        if path.is_dir():
            found = [p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file()]
            found = [p for p in found if not any(map(is_skipped, p.relative_to(path).parts))]
            problem = f"no image below it: files that end in {', '.join(EXTENSIONS)} are looked for"
        elif path.exists() or not glob.has_magic(word):
            yield Answer(word)
            continue
        else:
            found = _fitting(word)
            problem = "no file fits this pattern"
        if not found:
            yield Answer(word, problem)
        yield from (Answer(str(path)) for path in sorted(found))


def _fitting(pattern: str) -> list[Path]:
    """The files that fit a pattern, as a shell has it, where `**` means any folders.

    `glob.glob` follows links below `**`, and with two links `-> .` does not end. `Path.glob` does
    not follow them, but finds hidden files, and takes `**` at the end for folders only.
    """
    parts = [part if part == "**" else re.sub(r"\*\*+", "*", part) for part in Path(pattern).parts]
    plain = list(takewhile(lambda part: not glob.has_magic(part), parts))
    rest = parts[len(plain) :]
    if rest[-1] == "**":
        rest.append("*")
    found = [path for path in Path(*plain).glob(str(Path(*rest))) if path.is_file()]
    if any(part.startswith(".") for part in rest):
        return found
    return [p for p in found if not any(part.startswith(".") for part in p.parts[len(plain) :])]


def answer_all(model: Exported, files: Iterable[Answer]) -> Iterator[Answer]:
    """Answers for files, a batch at a time, in their order; unreadable ones keep their place."""
    files = iter(files)
    while batch := list(islice(files, BATCH)):
        read = [_read(file, model) for file in batch]
        pixels = [one.pixels for one in read if one.pixels is not None]
        said = iter(_answer(model, pixels))
        for one in read:
            yield one if one.pixels is None else _answered(one, next(said))


def best(probabilities: npt.NDArray[np.floating], count: int) -> list[int]:
    """Numbers of the likeliest classes, the likeliest first; ties by class number."""
    return np.argsort(-probabilities, kind="stable")[:count].tolist()


def _answer(model: Exported, pixels: Sequence[npt.NDArray[np.uint8]]) -> Probabilities:
    if not pixels:
        return np.zeros([0, len(model.facts.classes)], np.float32)
    batch: Pixels = np.stack(pixels)
    return model.answer(batch)


def _answered(file: Answer, probabilities: npt.NDArray[np.floating]) -> Answer:
    if np.isnan(probabilities).any():
        return file._replace(problem=f"{file.path}: the model answers NaN, which is no class")
    return file._replace(probabilities=probabilities)


def _read(file: Answer, model: Exported) -> Answer:
    if file.problem is not None:
        return file
    try:
        config = model.facts.preprocessing.data_config()
        content = read_file(file.path, limit_bytes=image_bytes(config.max_pixels))
        pixels = load_image(content, file.path, config)
    except OSError as error:
        return file._replace(problem=reason(error))
    except DataError as error:
        return file._replace(problem=without_settings(str(error)))
    return file._replace(pixels=pixels)

"""Predictions for image files, in their order. Unreadable files get the reason instead."""

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

BATCH = 32  # images per call of the model


class FilePrediction(NamedTuple):
    """The prediction for one file, or the reason why there is none.

    Attributes:
      path: Path of the file, or the argument that matched no file.
      problem: Why there is no prediction; None if there is one.
      pixels: uint8 [S, S, 3], the input of the model.
      probabilities: Float [C], without NaN.
    """

    path: str
    problem: str | None = None
    pixels: npt.NDArray[np.uint8] | None = None
    probabilities: npt.NDArray[np.floating] | None = None


def find_images(words: Iterable[str]) -> Iterator[FilePrediction]:
    """Finds the files that the arguments name, in their order, without predictions yet.

    An argument is a file, a folder, whose images are found recursively and sorted by path, or a
    pattern such as `photos/**/*.jpg`. An argument that matches nothing gets a problem.
    """
    for word in words:
        path = Path(word)
        if path.is_dir():
            found = [p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file()]
            found = [p for p in found if not any(map(is_skipped, p.relative_to(path).parts))]
            problem = f"no images in this folder: their names must end in {', '.join(EXTENSIONS)}"
        elif path.exists() or not glob.has_magic(word):
            yield FilePrediction(word)
            continue
        else:
            found = _match_pattern(word)
            problem = "no file matches this pattern"
        if not found:
            yield FilePrediction(word, problem)
        yield from (FilePrediction(str(path)) for path in sorted(found))


def _match_pattern(pattern: str) -> list[Path]:
    """The files that match a shell pattern, in which `**` matches any number of folders.

    `glob.glob` follows links below `**`, and does not terminate with two links `-> .`. `Path.glob`
    does not follow them, but it finds hidden files, and a final `**` matches only folders.
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


def predict_files(model: Exported, files: Iterable[FilePrediction]) -> Iterator[FilePrediction]:
    """Predicts files in batches and in order. Unreadable files keep their place."""
    files = iter(files)
    while batch := list(islice(files, BATCH)):
        read = [_read(file, model) for file in batch]
        pixels = [one.pixels for one in read if one.pixels is not None]
        outputs = iter(_predict(model, pixels))
        for one in read:
            yield one if one.pixels is None else _with_probabilities(one, next(outputs))


def top_classes(probabilities: npt.NDArray[np.floating], count: int) -> list[int]:
    """The numbers of the most probable classes in descending order; ties by class number."""
    return np.argsort(-probabilities, kind="stable")[:count].tolist()


def _predict(model: Exported, pixels: Sequence[npt.NDArray[np.uint8]]) -> Probabilities:
    if not pixels:
        return np.zeros([0, len(model.metadata.classes)], np.float32)
    batch: Pixels = np.stack(pixels)
    return model.predict(batch)


def _with_probabilities(
    file: FilePrediction, probabilities: npt.NDArray[np.floating]
) -> FilePrediction:
    if np.isnan(probabilities).any():
        return file._replace(problem=f"{file.path}: the model returned NaN")
    return file._replace(probabilities=probabilities)


def _read(file: FilePrediction, model: Exported) -> FilePrediction:
    if file.problem is not None:
        return file
    try:
        config = model.metadata.preprocessing.data_config()
        content = read_file(file.path, limit_bytes=image_bytes(config.max_pixels))
        pixels = load_image(content, file.path, config)
    except OSError as error:
        return file._replace(problem=reason(error))
    except DataError as error:
        return file._replace(problem=without_settings(str(error)))
    return file._replace(pixels=pixels)

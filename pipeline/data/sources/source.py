"""`open_source` opens any data set for random access.

Importing this module does not import TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import DataConfig
from pipeline.cores import available_cores
from pipeline.data.sources.arrays import open_cifar, open_digits, open_fashion_mnist, open_synthetic
from pipeline.data.sources.custom import open_custom
from pipeline.data.sources.find_source import find_source
from pipeline.data.sources.folder import open_folder
from pipeline.data.sources.listing import open_list
from pipeline.data.sources.records import FACTS, open_records
from pipeline.data.sources.tfrecord import open_tfrecord, scan_tfrecord
from pipeline.data.split import Color, DataSource, Split
from pipeline.errors import DataError, SettingsError
from pipeline.plugins import is_plugin
from pipeline.printable import printable

__all__ = [
    "DataSource",
    "Split",
    "measure_normalization",
    "open_source",
    "scan_source",
    "with_first_label",
]

NORMALIZATION_FILES = 2000

# The constants of torchvision, measured on the training images of ImageNet.
IMAGENET: tuple[Color, Color] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[Color, Color] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


# All sources except synthetic and tfrecord, which need more arguments.
_OPENERS: dict[str, Callable[[DataConfig], DataSource]] = {
    "digits": open_digits,
    "cifar10": open_cifar,
    "cifar100": open_cifar,
    "fashion_mnist": open_fashion_mnist,
    "image_folder": open_folder,
    "list": open_list,
    "records": open_records,
}


def with_first_label(config: DataConfig, first_label: int | None) -> DataConfig:
    """Adds the label of class 0 that a run recorded to the settings, unless they have one."""
    if config.first_label is not None or first_label is None:
        return config
    return config.model_copy(update={"first_label": first_label})


def scan_source(config: DataConfig) -> Any:
    """Scans the data set in one process on behalf of all processes of a job.

    Returns:
      A value that can be written as JSON, to pass to `open_source`.

    Raises:
      DataError, SettingsError: As for `open_source`.
    """
    return scan_tfrecord(config) if config.source == "tfrecord" else None


def open_source(config: DataConfig, seed: int, scanned: Any = None) -> DataSource:
    """Opens the data set in `data.source`.

    Args:
      config: The data settings.
      seed: Determines the synthetic images, and nothing else.
      scanned: The result of `scan_source` in another process; None to scan here.

    Raises:
      DataError: The data set is missing, damaged or has a wrong layout. If `data.path` is a data
        set of another kind, the message names the kind.
      SettingsError: `data.path` is missing, or the source does not use it.
    """
    source = config.source
    if config.path is not None and source in ("digits", "synthetic"):
        raise SettingsError(
            f"data.source={source} does not use data.path. For your own images set "
            f"data.source={_kind(config.path) or 'image_folder'}. Received: "
            f"data.path={config.path!r}"
        )
    if is_plugin(source):
        return open_custom(config)
    if source == "synthetic":
        return open_synthetic(config, seed)
    try:
        return open_tfrecord(config, scanned) if source == "tfrecord" else _OPENERS[source](config)
    except DataError as error:
        kind = None if config.path is None else _kind(config.path)
        if kind is None or kind == source:
            raise
        hint = f"data.path={printable(str(config.path))} has another format: set data.source={kind}"
        if source == "records":
            hint += f", or write shards first with `vit prepare {config.path} OUT`"
        raise DataError(f"{error}. {hint}") from None


def _kind(path: str) -> str | None:
    """Returns `data.source` for an existing file or folder; None if it cannot be detected."""
    try:
        return find_source(path)["source"] if Path(path).expanduser().exists() else None
    except SettingsError:
        return "records" if (Path(path).expanduser() / FACTS).is_file() else None


def measure_normalization(source: DataSource, config: DataConfig) -> tuple[Color, Color]:
    """Returns mean and standard deviation of each channel, in units of 0..1.

    With data.normalize=dataset, they are measured on the training split: on all images of a data
    set in memory, otherwise on a fixed sample of 2,000 files, decoded and resized as in training.

    Raises:
      DataError: A file of the sample cannot be read and data.on_bad_image is "raise", or no file
        can be read.
    """
    if config.normalize == "half":
        return HALF
    if config.normalize == "imagenet":
        return IMAGENET
    if source.normalization is not None:
        return source.normalization
    train = source.splits["train"]
    counts = np.zeros((3, 256), np.int64)
    if train.images is not None:
        for start in range(0, train.num_examples, 1024):
            counts += _histogram(train.images[start : start + 1024])
    else:
        # The raw output of Philox is the same in all versions of NumPy; its permutations are not.
        keys = np.random.Philox(key=0).random_raw(train.num_examples)
        sample = np.sort(np.argsort(keys, kind="stable")[:NORMALIZATION_FILES])
        with ThreadPoolExecutor(config.threads or available_cores()) as pool:
            for part in pool.map(lambda i: _encoded_histogram(train, int(i), config), sample):
                counts += part
    if not counts.any():
        raise DataError(f"{train.title}: none of {len(sample)} files is a readable image")
    return moments(counts)


def moments(counts: npt.NDArray[np.int64]) -> tuple[Color, Color]:
    """Computes mean and standard deviation, in units of 0..1, from histograms.

    Args:
      counts: int64 [3, 256], the histogram of each channel.
    """
    values = np.arange(256) / 255.0
    share = counts / counts.sum(axis=1, keepdims=True)  # [3, 256]
    mean = share @ values
    # The minimum of one level avoids a division by zero for a constant channel.
    deviation = np.maximum(np.sqrt(np.maximum(share @ values**2 - mean**2, 0.0)), 1 / 255.0)
    return _color(mean), _color(deviation)


def _encoded_histogram(split: Split, index: int, config: DataConfig) -> npt.NDArray[np.int64]:
    from pipeline.data.images import load_example

    try:
        return _histogram(load_example(split, index, config))
    except DataError:
        if config.on_bad_image == "raise":
            raise
        return np.zeros((3, 256), np.int64)


def _histogram(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Returns the histogram of each channel, int64 [3, 256]; sums do not depend on the order."""
    return np.stack([np.bincount(images[..., c].reshape(-1), minlength=256) for c in range(3)])


def _color(values: npt.NDArray[np.float64]) -> Color:
    return float(values[0]), float(values[1]), float(values[2])

"""The number of images that a recipe trains on: given, known, or counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.config import Config
from pipeline.data.sources.source import open_source
from pipeline.errors import SettingsError
from pipeline.plan.scenario import Data
from pipeline.recipes import RECIPES

# Images for training and validation, images for testing, and classes of public data sets.
_KNOWN = {
    "digits": (1430, 367, 10),
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "fashion_mnist": (60_000, 10_000, 10),
}
_IMAGENET = (1_281_167, 50_000, 1000)
# Shipped recipes whose data set is known. A user's recipe of the same name may use any data.
_SHIPPED = {
    RECIPES / f"{name}.yaml": _IMAGENET for name in ("imagenet_b16_300ep", "imagenet_s16_90ep")
}


def data_size(recipe: Path, config: Config, images: int | None, classes: int | None) -> Data:
    """Returns how much data there is to train on.

    Args:
      recipe: The recipe file.
      images: Number of images for training and validation, if given by the user.
      classes: Number of classes, if given by the user.

    Raises:
      SettingsError: The size is not given, not known, and cannot be counted.
      DataError: `data.path` does not contain what `data.source` says.
    """
    source = config.data.source
    in_memory = source in _KNOWN or source == "synthetic"
    if source == "synthetic" and images is None:
        held_out = -(-config.data.num_examples // 4)
        return Data(
            config.data.num_examples, held_out, held_out, config.data.num_classes, in_memory
        )
    known_images, test_images, known_classes = _known_size(recipe, config)
    if config.data.path is not None and None in (images or known_images, classes or known_classes):
        counted = _count(config)
        if images is None:
            return replace(counted, classes=classes or counted.classes)
        known_classes = counted.classes
    total, classes = images or known_images, classes or known_classes
    if total is None or classes is None:
        raise SettingsError(
            f"data.source={source}: the number of images is not known. Give it, for example "
            "--images 5000 --classes 10, or give the place of the data with data.path=PATH"
        )
    held_out = round(total * config.data.validation_fraction)
    if images is not None:
        test_images = held_out  # A guess: nothing is known about the test split of this data.
    return Data(total - held_out, held_out, test_images, classes, in_memory)


def _known_size(recipe: Path, config: Config) -> tuple[int | None, int, int | None]:
    """Returns (training and validation images, test images, classes); None if not known."""
    if config.data.source == "synthetic":
        return None, 0, config.data.num_classes
    if config.data.source in _KNOWN:
        return _KNOWN[config.data.source]
    shipped = _SHIPPED.get(recipe)
    return shipped if shipped is not None and config.data.path is None else (None, 0, None)


def _count(config: Config) -> Data:
    """Counts the images at `data.path`, which may be a path on another machine."""
    path, advice = Path(str(config.data.path)).expanduser(), "give --images and --classes"
    if not path.exists():
        raise SettingsError(f"data.path={config.data.path} is not on this machine: {advice}")
    if config.data.source == "tfrecord":
        raise SettingsError(
            f"counting the images in TFRecord files means reading all of them: {advice} instead"
        )
    source = open_source(config.data, config.seed)
    sizes = {name: split.num_examples for name, split in source.splits.items()}
    return Data(
        sizes["train"], sizes.get("validation", 0), sizes.get("test", 0), len(source.classes)
    )

"""What evaluation, reports, exports and predictions take from a run's config.yaml.

The run may be another person's. What describes the model and the format of the data is needed to
use its weights. What chooses places, limits and devices on this machine, or code to run, is not
taken: it has its default value, or is given on the command line. Training is not concerned: there
the settings are those of the recipe.

Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import argparse
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Config, all_settings, load_config, parse_config, value_of
from pipeline.errors import SettingsError
from pipeline.printable import printable
from pipeline.runs.folder import RunFolder

_LOG = logging.getLogger(__name__)

_SECTIONS = ("data.augment.", "model.", "optim.")
_TAKEN = frozenset(
    ("seed", "data.source", "data.tfrecord_image_key", "data.tfrecord_label_key",
     "data.first_label", "data.image_size", "data.resize", "data.crop_fraction", "data.antialias",
     "data.global_batch_size", "data.eval_batch_size", "data.num_classes", "data.num_examples",
     "data.validation_fraction", "data.validation_split", "data.normalize", "data.on_bad_image",
     "data.label_smoothing", "data.mixup_alpha", "data.cutmix_alpha", "data.cutmix_probability",
     "data.mix_probability", "train.epochs", "train.max_steps", "train.evaluate_ema",
     "train.precision", "train.deterministic")
)  # fmt: skip
_NOT_TAKEN = ("model.pretrained",)  # a path
# Those that a user may give.
_GIVEN = ("data.path", "data.index_path", "data.links_out", "data.max_pixels", "data.threads",
          "distribute.device", "distribute.cpu_devices", "distribute.intra_op_threads")  # fmt: skip
# Those whose recorded value the user may miss.
_MISSED = ("data.links_out", "data.max_pixels")


def add_setting_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the option of a verb that takes a run's settings, for those that are not taken."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="given",
        metavar="KEY=VALUE",
        help="a setting that is not taken from the run, which may be another person's: "
        f"{', '.join(_GIVEN)}; may be repeated",
    )


def is_taken(key: str) -> bool:
    """Whether a setting is taken from a run whoever made it."""
    return key in _TAKEN or (key.startswith(_SECTIONS) and key not in _NOT_TAKEN)


def read_settings(folder: RunFolder, given: Sequence[str] = ()) -> Config:
    """The settings of a run, without those that choose places, limits, devices and code.

    `data.path` is taken from a run folder that only this user and root can have made.

    Args:
      given: Settings of the command line, as `data.max_pixels=1000`.

    Raises:
      SettingsError: It is no run folder, or a given setting is wrong or cannot be given.
    """
    recorded = folder.config()
    keys = {_key(text) for text in given}
    merged = load_config(folder.path / "config.yaml", given, inherits=False) if given else recorded
    if is_own(folder):
        keys.add("data.path")
    tree: dict[str, Any] = {}
    for setting in all_settings():
        if is_taken(setting.key) or setting.key in keys:
            *sections, name = setting.key.split(".")
            place = tree
            for section in sections:
                place = place.setdefault(section, {})
            place[name] = value_of(merged, setting.key)
    config = parse_config(tree, str(folder.path / "config.yaml"))
    for key in _MISSED:
        if key not in keys and value_of(recorded, key) != value_of(config, key):
            value = str(value_of(recorded, key)).lower()
            _LOG.info("not taken from the run: %s. Where you trust it: --set %s=%s",
                      key, key, value)  # fmt: skip
    return config


def place_not_taken(folder: RunFolder) -> str | None:
    """The recorded place of the data set, where the run folder may be another person's."""
    path = folder.config().data.path
    return None if path is None or is_own(folder) else printable(path)


def is_own(folder: RunFolder) -> bool:
    """Whether nobody but this user and root can have written the folder's settings."""
    file = folder.path / "config.yaml"
    return all(map(_is_own, (folder.path, file))) and not os.stat(file).st_mode & stat.S_IWOTH


def _is_own(path: Path) -> bool:
    return os.stat(path).st_uid in (os.geteuid(), 0)


def _key(text: str) -> str:
    key = text.partition("=")[0]
    if key not in _GIVEN:
        raise SettingsError(
            f"--set takes {', '.join(_GIVEN)}; all else is as the run was trained. Received: {text}"
        )
    return key

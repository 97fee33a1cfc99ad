"""The settings that evaluation, reports, exports and predictions use from a run's config.yaml.

The run may come from another user. Settings that describe the model and the data format are used,
because the weights depend on them. Settings that choose paths, limits and devices on this machine,
or code to run, are ignored: they have their default value or the value on the command line.
Training is not affected, because it uses the settings of the recipe.

Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Config, all_settings, load_config, parse_config, value_of
from pipeline.errors import SettingsError
from pipeline.plugins import is_plugin
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
     "train.precision", "train.deterministic", "train.microbatches")
)  # fmt: skip
_NOT_TAKEN = ("model.pretrained",)  # a path
# Settings that a user may set with --set.
GIVEN = ("data.path", "data.index_path", "data.links_out", "data.max_pixels",
         "data.eval_batch_size", "data.threads",
          "distribute.device", "distribute.cpu_devices", "distribute.intra_op_threads")  # fmt: skip
# Settings that may name code to import.
_CODE = ("data.source", "data.augment.extra", "model.builder", "optim.loss")
# Settings whose recorded value is reported if it is not used.
_REPORTED = ("data.links_out", "data.max_pixels")


def is_taken(key: str) -> bool:
    """Whether a setting is read from a run even if it may come from another user."""
    return key in _TAKEN or (key.startswith(_SECTIONS) and key not in _NOT_TAKEN)


def read_settings(
    folder: RunFolder,
    given: Sequence[str] = (),
    *,
    trust_code: bool = False,
    needs: Collection[str] = ("data.source", "model.builder"),
) -> Config:
    """The settings of a run, without those that choose paths, limits, devices and code.

    `data.path` is used if only this user or root can have written the run folder.

    Args:
      folder: The run folder.
      given: Settings from the command line, such as "data.max_pixels=1000".
      trust_code: Whether code that the settings name may be imported.
      needs: Settings that the caller cannot do without if they name code. Others that name code
        have their default value.

    Raises:
      SettingsError: The settings name code that is needed and not trusted.
      SettingsError: `folder` is not a run folder, or a given setting is invalid or not allowed.
    """
    recorded = folder.config()
    keys = {_key(text) for text in given}
    merged = load_config(folder.path / "config.yaml", given, inherits=False) if given else recorded
    if is_own(folder):
        keys.add("data.path")
    code = set() if trust_code else {key for key in _CODE if _names_code(recorded, key)}
    _refuse_code(folder, {key: value_of(recorded, key) for key in sorted(code & set(needs))})
    if "data.source" in code:
        keys.discard("data.path")
    tree: dict[str, Any] = {"data": {"source": "image_folder"}} if "data.source" in code else {}
    for setting in all_settings():
        if setting.key not in code and (is_taken(setting.key) or setting.key in keys):
            *sections, name = setting.key.split(".")
            parent = tree
            for section in sections:
                parent = parent.setdefault(section, {})
            parent[name] = value_of(merged, setting.key)
    config = parse_config(tree, str(folder.path / "config.yaml"))
    for key in sorted(code & {"data.source", "data.augment.extra"}):
        if key == "data.source" or "data.source" in needs:
            _LOG.info("not read from the run folder: %s, which names code. If you trust it: "
                      "--trust-code", key)  # fmt: skip
    for key in _REPORTED:
        if key not in keys and value_of(recorded, key) != value_of(config, key):
            value = str(value_of(recorded, key)).lower()
            _LOG.info("not read from the run folder: %s. If you trust it: --set %s=%s",
                      key, key, value)  # fmt: skip
    return config


def ignored_data_path(folder: RunFolder) -> str | None:
    """The recorded `data.path` if it is ignored, because another user may have written it."""
    path = folder.config().data.path
    return None if path is None or is_own(folder) else printable(path)


def is_own(folder: RunFolder) -> bool:
    """Whether only this user or root can have written the settings in the folder."""
    file = folder.path / "config.yaml"
    return all(map(_is_own, (folder.path, file))) and not file.stat().st_mode & stat.S_IWOTH


def _is_own(path: Path) -> bool:
    return path.stat().st_uid in (os.geteuid(), 0)


def _names_code(config: Config, key: str) -> bool:
    value = value_of(config, key)
    return any(map(is_plugin, value if isinstance(value, tuple) else [value]))


def _refuse_code(folder: RunFolder, named: Mapping[str, Any]) -> None:
    if named:
        listed = ", ".join(f"{key}={value}" for key, value in named.items())
        raise SettingsError(
            f"the settings of {folder.path} name code: {printable(listed)}. It is not imported, "
            "because the run may come from another user. If you trust it, add --trust-code (in "
            "Python: trust_code=True)"
        )


def _key(text: str) -> str:
    key = text.partition("=")[0]
    if key not in GIVEN:
        raise SettingsError(
            f"--set accepts {', '.join(GIVEN)}; other settings are those of the training run. "
            f"Received: {text}"
        )
    return key

"""Users' code is checked when a run starts, on every process, before the data is read."""

from __future__ import annotations

from pipeline.config import Config
from pipeline.data.augment.custom import load_augmentations
from pipeline.optim.custom_loss import load_loss
from pipeline.plugins import is_plugin, load_plugin


def check_named_code(config: Config) -> None:
    """Loads all code that the settings name, and checks what needs no data.

    Raises:
      SettingsError: Some cannot be loaded, or an augmentation is not as it must be.
    """
    named = {
        "data.source": config.data.source,
        "model.builder": config.model.builder,
        "optim.loss": config.optim.loss,
    }
    for setting, name in named.items():
        if name is not None and is_plugin(name):
            load_plugin(setting, name)
    load_augmentations(config.data.augment.extra, config.data.image_size)


def check_loss(config: Config, num_classes: int) -> None:
    """Checks the loss function of the settings, if they name one.

    Raises:
      SettingsError: It is not as it must be.
    """
    if config.optim.loss is not None:
        load_loss(config.optim.loss, num_classes)

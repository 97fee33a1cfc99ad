"""Users' code is checked when a run starts, on every process, before the data is read."""

from __future__ import annotations

import hashlib
import socket
import sys
from collections.abc import Iterator

from pipeline.config import Config
from pipeline.data.augment.custom import load_augmentations
from pipeline.errors import SettingsError
from pipeline.optim.custom_loss import load_loss
from pipeline.plugins import is_plugin, load_plugin
from pipeline.runtimes.agreement import on_all
from pipeline.runtimes.runtime import Runtime
from pipeline.storage.read import read_file


def check_named_code(config: Config, runtime: Runtime) -> None:
    """Loads all code that the settings name, and checks what needs no data.

    All processes must call it.

    Raises:
      SettingsError: Some cannot be loaded, an augmentation is not as it must be, or processes have
        different files.
    """
    digests = on_all(
        runtime, lambda: {name: _load(setting, name) for setting, name in _named(config)}
    )
    on_all(runtime, lambda: load_augmentations(config.data.augment.extra, config.data.image_size))
    if digests:
        _check_same_files(digests, runtime)


def _named(config: Config) -> Iterator[tuple[str, str]]:
    """Each setting that names code, with the name."""
    settings = {
        "data.source": config.data.source,
        "model.builder": config.model.builder,
        "optim.loss": config.optim.loss,
    }
    yield from ((key, name) for key, name in settings.items() if name and is_plugin(name))
    yield from (("data.augment.extra", name) for name in config.data.augment.extra)


def _load(setting: str, name: str) -> str:
    """Loads a plug-in and returns a digest of its module's file; "" if it has none."""
    load_plugin(setting, name)
    file = sys.modules[name.partition(":")[0]].__file__
    return "" if file is None else hashlib.sha256(read_file(file)).hexdigest()


def _check_same_files(digests: dict[str, str], runtime: Runtime) -> None:
    (first_host, first), *others = runtime.all_gather([socket.gethostname(), digests])
    for rank, (host, found) in enumerate(others, start=1):
        different = [name for name in first if found.get(name) != first[name]]
        if different:
            error = SettingsError(
                f"rank {rank} on {host} has a different file for {different[0]} from rank 0 on "
                f"{first_host}. Install the same file on all hosts"
            )
            error.said_by_chief = True
            raise error


def check_loss(config: Config, num_classes: int) -> None:
    """Checks the loss function of the settings, if they name one.

    Raises:
      SettingsError: It is not as it must be.
    """
    if config.optim.loss is not None:
        load_loss(config.optim.loss, num_classes)

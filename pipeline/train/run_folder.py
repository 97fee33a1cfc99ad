"""A run folder: what a run leaves, and whether a command may go on with it.

config.yaml      resolved settings
dataset.json     classes, counts, mean and deviation: what prediction needs of the data
metrics.jsonl    one row a step and split
outcome.json     how the last start ended
checkpoints/  tensorboard/
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any

import yaml

from pipeline.config import Config, dump_config, parse_config, training_differences
from pipeline.errors import SettingsError


class RunFolder:
    """Paths and small files of one run. Only the chief may call what writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.metrics = path / "metrics.jsonl"
        self.skipped = path / "skipped.txt"
        self._lock: IO[str] | None = None

    def config(self) -> Config:
        """The settings the run was started with.

        Raises:
          SettingsError: This is no run folder.
        """
        file = self.path / "config.yaml"
        if not file.is_file():
            raise SettingsError(
                f"{self.path} is not a run folder: it has no config.yaml. Give the folder that "
                "`vit train` printed"
            )
        return parse_config(yaml.safe_load(file.read_text()), str(file))

    def check(self, config: Config) -> None:
        """Refuses settings that would train something else than what the folder holds.

        Raises:
          SettingsError: With one line a setting that differs.
        """
        if not (self.path / "config.yaml").exists():
            return
        differences = training_differences(self.config(), config)
        if differences:
            raise SettingsError(
                f"{self.path} holds a run with other settings:\n  "
                + "\n  ".join(differences)
                + "\nGive the same settings to go on with it, or run.dir=FOLDER for a new run"
            )

    def open(self, config: Config) -> None:
        """Makes the folder, takes its lock, and writes the settings.

        Raises:
          SettingsError: It cannot be written to, or another process trains in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Held open: the lock ends with the process, however it ends.
            self._lock = (self.path / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise SettingsError(
                f"another process is training in {self.path}. Wait for it, stop it, or name "
                "another folder with run.dir=FOLDER"
            ) from None
        except OSError as error:
            raise SettingsError(
                f"cannot write to the run folder {self.path}: {error.strerror}. Name another with "
                "run.dir=FOLDER"
            ) from None
        self.check(config)
        self._replace("config.yaml", dump_config(config))

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            self._lock.close()

    def outcome(self) -> dict[str, Any] | None:
        """How the last start ended: `outcome` is "done" or "stopped"; None if it did not end."""
        return self._read("outcome.json")

    def write_outcome(self, outcome: dict[str, Any]) -> None:
        """Records the end of this start."""
        self._replace("outcome.json", json.dumps(outcome, indent=1) + "\n")

    def dataset(self) -> dict[str, Any]:
        """What `begin` recorded of the data."""
        facts = self._read("dataset.json")
        if facts is None:
            raise SettingsError(f"{self.path} has no dataset.json: its training never began")
        return facts

    def begin(self, dataset: dict[str, Any]) -> None:
        """Records what prediction needs to know of the data; this start has no outcome yet."""
        self._replace("dataset.json", json.dumps(dataset, indent=1) + "\n")
        (self.path / "outcome.json").unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, Any] | None:
        file = self.path / name
        return json.loads(file.read_text()) if file.exists() else None

    def _replace(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.new"
        temporary.write_text(text)
        os.replace(temporary, self.path / name)

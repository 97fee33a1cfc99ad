"""A run folder: its files, and whether a command may continue its run.

config.yaml      resolved settings
dataset.json     classes, number of examples and fingerprint of each split, mean and std of pixels
listing.npz      list of the files of a large image folder
metrics.jsonl    one row for each step and split
starts.jsonl     one line for each start: time, checkpoint, command, versions
workers.jsonl    one line for each change of the workers of an elastic job
predictions.npz  predictions of the best weights, for the report
examples.npz     pictures for the report
report.html      the report
outcome.json     how the last start ended
stop             created by a user to request a stop; removed when the run stops
checkpoints/  tensorboard/  .lock/

A run can claim its folder (`is_claimed`). Starts with other settings or classes are then rejected.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config import Config, dump_config, load_config, training_differences
from pipeline.errors import DataError, PipelineError, SettingsError
from pipeline.runs.access import check_access, check_free_space, check_writable, folder_errors
from pipeline.runs.checkpoints.store import INITIAL, UNFINISHED, CheckpointStore
from pipeline.runs.links import check_links
from pipeline.runs.lock import RunLock
from pipeline.runs.record_checks import check_dataset, check_outcome, is_worker_change
from pipeline.storage.folders import make_folder, remove_file, remove_folder
from pipeline.storage.json_lines import read_json_lines, set_aside
from pipeline.storage.read import read_file
from pipeline.storage.write import append_to_file, remove_unfinished, replace_file
from pipeline.strict_json import from_json, to_json

_LOG = logging.getLogger(__name__)
_LARGEST = 1 << 28  # size limit of a JSON file; with 21,841 classes they have 2 MB


class RunFolderError(PipelineError):
    """A file cannot be written to the run folder."""


class RunFolder:
    """Paths and small files of one run. Only the chief may call methods that write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.listing = path / "listing.npz"
        self.metrics = path / "metrics.jsonl"
        self.skipped = path / "skipped.txt"
        self.repaired = path / "repaired.txt"
        self.predictions = path / "predictions.npz"
        self.examples = path / "examples.npz"
        self.report = path / "report.html"
        self.workers = path / "workers.jsonl"
        self.lock = RunLock(path)
        self._starts = path / "starts.jsonl"
        self._stop = path / "stop"

    @property
    def is_run(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / "config.yaml").is_file()

    def config(self) -> Config:
        """The settings of the run.

        Raises:
          SettingsError: The folder holds no run.
        """
        file = self.path / "config.yaml"
        if not self.is_run:
            raise SettingsError(
                f"{self.path} is not a run folder: it has no config.yaml. Use the folder that "
                "`vit train` printed"
            )
        return load_config(file, inherits=False)

    @property
    def has_progress(self) -> bool:
        """Whether there is a checkpoint after step 0, damaged or not.

        Rows of metrics do not count, because no start can resume from them.
        """
        saved = (p for p in self.checkpoints.glob("step-*") if p.suffix != UNFINISHED)
        return any(p.stem != INITIAL for p in saved)

    @property
    def is_claimed(self) -> bool:
        """Whether only a start with the same settings and classes may use the folder.

        A run claims its folder with the first checkpoint after step 0, or when it ends as "done" or
        "stopped". A user who stops a run expects to resume it, even at step 0.

        A start that failed or was killed before that does not claim the folder. No work is lost,
        and the next command often corrects the cause, such as a batch that is too large for the
        memory or a wrong folder of images.
        """
        outcome = self.outcome()
        ended = outcome is not None and outcome["outcome"] in ("done", "stopped")
        return self.has_progress or ended

    def start_over(self) -> None:
        """Deletes files of an earlier start that other settings or classes invalidate.

        Does nothing if the folder is claimed. The initial weights are created again from the seed.
        Rows of metrics and TensorBoard curves are removed when training begins at step 0.
        """
        if self.is_claimed:
            return
        remove_folder(self.checkpoints)
        for file in (self.skipped, self.repaired):
            remove_file(file)

    def differences(self, config: Config) -> list[str]:
        """Settings that affect training and differ from those of the run, one line each."""
        if not (self.is_run and self.is_claimed):
            return []
        return training_differences(self.config(), config)

    def data_path_difference(self, config: Config) -> str | None:
        """How `data.path` differs from that of a finished run; None if it does not.

        An unfinished run compares the data itself when it resumes. For a finished run, the result
        is printed without opening the data, and must not be taken for one on another data set.
        """
        outcome = self.outcome()
        if not (self.is_run and outcome is not None and outcome["outcome"] == "done"):
            return None
        recorded, given = self.config().data.path, config.data.path
        if _same_path(recorded, given):
            return None
        return f"data.path: {recorded or 'null'} -> {given or 'null'}"

    def check(self, config: Config) -> None:
        """Raises an error if the run in the folder cannot continue with these settings.

        Raises:
          SettingsError: Settings differ (the message has one line for each), or the run is finished
            and `data.path` differs.
        """
        differences = self.differences(config)
        if differences:
            raise SettingsError(
                f"{self.path} holds a run with other settings:\n  "
                + "\n  ".join(differences)
                + "\nUse the same settings to continue it, or run.dir=FOLDER for a new run"
            )
        if (difference := self.data_path_difference(config)) is not None:
            raise SettingsError(
                f"{self.path} holds a finished run with another data.path:\n  {difference}\n"
                "To start a new run, choose another folder with run.dir=FOLDER. To see the result "
                "of the finished run, use its data.path. If its data set has moved, use `vit "
                f"evaluate {shlex.quote(str(self.path))} --data PATH`"
            )

    def open(self, config: Config, report: Callable[[str], None]) -> None:
        """Creates and locks the folder, checks that it is writable, and writes the settings.

        Args:
          config: The settings.
          report: Called with messages about the lock.

        Raises:
          SettingsError: The folder is not writable, a link leads out of it, its run has other
            settings, or another process trains in it.
        """
        check_links(self.path)
        with folder_errors(self.path):
            check_access(self.path, self.checkpoints, self.tensorboard)
            make_folder(self.path, parents=True)
            if not self.lock.is_held:  # an elastic job may begin again
                self.lock.acquire(report)
            remove_unfinished(self.path)
            check_writable(self.path)
            self.clear_stop_request()
        self.check(config)
        if self.has_other_settings(config):
            self.start_over()
        self._replace("config.yaml", dump_config(config))

    def check_open(self, config: Config) -> None:
        """Makes the checks of `open` without writing anything.

        Raises:
          SettingsError: `open` would raise it.
        """
        check_links(self.path)
        with folder_errors(self.path):
            check_access(self.path, self.checkpoints, self.tensorboard)
            holder = self.lock.find_holder()
        if holder is not None:
            raise SettingsError(
                f"another process is training in {self.path}: {holder}. Wait for it, stop it, or "
                "choose another folder with run.dir=FOLDER"
            )
        self.check(config)

    def has_other_settings(self, config: Config) -> bool:
        """Whether the folder holds a run whose settings differ in a way that affects training."""
        return self.is_run and bool(training_differences(self.config(), config))

    def close(self) -> None:
        """Releases the lock."""
        self.lock.release()

    def check_free_space(self, checkpoint_bytes: int) -> None:
        """Raises an error if the next checkpoints do not fit on the disk.

        Args:
          checkpoint_bytes: Size of one checkpoint.

        Raises:
          SettingsError: The message gives the needed and the free space.
        """
        # Folders with a suffix are unfinished or set aside.
        existing = sum(not folder.suffix for folder in self.checkpoints.glob("step-*"))
        # A new checkpoint is written before the oldest one is deleted.
        check_free_space(self.path, checkpoint_bytes * max(1, 2 - existing))

    @property
    def stop_requested(self) -> bool:
        """Whether a user has created a file named `stop` in the folder."""
        # Path.exists raises on some errors of a file server. Here they count as False.
        return os.path.exists(self._stop)  # noqa: PTH110

    def clear_stop_request(self) -> None:
        """Deletes the file `stop`, so that the next start trains."""
        remove_file(self._stop)

    def outcome(self) -> dict[str, Any] | None:
        """How the last start ended: "done", "stopped" or "failed"; None if it has not ended.

        Raises:
          DataError: The file is damaged.
        """
        return self._read("outcome.json", "outcome", check_outcome)

    def write_outcome(self, outcome: dict[str, Any]) -> None:
        """Records the end of this start."""
        self._replace("outcome.json", to_json(outcome, indent=1) + "\n")

    @property
    def has_dataset(self) -> bool:
        """Whether a start recorded its data set."""
        return (self.path / "dataset.json").is_file()

    def dataset(self) -> dict[str, Any]:
        """The contents of dataset.json.

        Raises:
          SettingsError: The file does not exist, because training never started.
          DataError: The file is damaged.
        """
        facts = self._read("dataset.json", "classes", check_dataset)
        if facts is None:
            raise SettingsError(f"{self.path} has no dataset.json: its training never started")
        return facts

    def begin(self, dataset: dict[str, Any], start: dict[str, Any]) -> None:
        """Records the data set and this start, and removes the outcome of the previous start.

        Args:
          dataset: The contents of dataset.json.
          start: A line for starts.jsonl. The step of the newest checkpoint is added as
            `checkpoint_step`, which is null for a new run.
        """
        self._replace("dataset.json", to_json(dataset, indent=1) + "\n")
        remove_file(self.path / "outcome.json")
        steps = CheckpointStore(self.checkpoints).steps()
        earlier, damaged = read_json_lines(self._starts, _is_any)
        try:
            set_aside(self._starts, damaged, _LOG.warning)
        except OSError as error:
            raise RunFolderError(f"cannot write in {self.path}: {error.strerror}") from None
        line = start | {"checkpoint_step": steps[-1] if steps else None}
        self._replace(self._starts.name, "".join(to_json(s) + "\n" for s in [*earlier, line]))

    def record_workers(self, change: dict[str, Any]) -> None:
        """Records a change of the workers of an elastic job.

        Raises:
          OSError: The file cannot be written.
        """
        append_to_file(self.workers, (to_json(change) + "\n").encode())

    def worker_changes(self) -> list[dict[str, Any]]:
        """All changes of the workers: Unix `time`, `step`, number of `workers`, `pause_s` in
        seconds, and `changes`, a line for each worker that joined, left or was lost.
        """
        return read_json_lines(self.workers, is_worker_change)[0]

    def starts(self) -> list[dict[str, Any]]:
        """All starts of the run, oldest first; empty for a version that did not record them."""
        return read_json_lines(self._starts, _is_any)[0]

    def _read(
        self, name: str, needed: str, check: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any] | None:
        file = self.path / name
        if not file.exists():
            return None
        try:
            found = from_json(read_file(file, limit_bytes=_LARGEST))
            if not isinstance(found, dict) or needed not in found:
                raise ValueError(f"it has no {needed!r}")
            check(found)
        except ValueError as error:
            raise DataError(
                f"{file} is damaged: {error}. Restore it from a copy, or delete it and run the "
                "`vit train` command again, which resumes from the newest checkpoint and writes "
                "the file again"
            ) from None
        return found

    def skipped_images(self) -> list[str]:
        """The unreadable images that all starts of the run have found so far."""
        return _lines(self.skipped)

    def repaired_images(self) -> dict[str, str]:
        """The images that libjpeg has repaired so far, with its warnings, over all starts."""
        pairs = (line.partition("\t") for line in _lines(self.repaired))
        return {name: warning for name, _, warning in pairs}

    def _replace(self, name: str, text: str) -> None:
        try:
            replace_file(self.path / name, text)
        except OSError as error:
            raise RunFolderError(f"cannot write {self.path / name}: {error.strerror}") from None


def _lines(file: Path) -> list[str]:
    if not file.exists():
        return []
    return read_file(file).decode(errors="backslashreplace").splitlines()


def _is_any(start: dict[str, Any]) -> bool:
    return True


def _same_path(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one == other
    return one == other or Path(one).resolve() == Path(other).resolve()

"""A run folder: what a run leaves, and whether a command may go on with it.

config.yaml      resolved settings
dataset.json     classes, number of examples and fingerprint of each split, mean and deviation
metrics.jsonl    one row a step and split
starts.jsonl     one line a start: when, from which checkpoint, by which command, with what
predictions.npz  of the best weights, for the report; examples.npz its pictures; report.html
outcome.json     how the last start ended
stop             made by whoever wants the run to stop; taken away when it does
checkpoints/  tensorboard/  .lock/

A run claims its folder: a start with other settings or other classes is refused (`is_claimed`).
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config import Config, dump_config, load_config, training_differences
from pipeline.errors import DataError, PipelineError, SettingsError
from pipeline.runs.checkpoints.store import INITIAL, UNFINISHED, CheckpointStore
from pipeline.runs.links import check_links
from pipeline.runs.lock import RunLock
from pipeline.runs.record_checks import check_dataset, check_outcome
from pipeline.storage.folders import make_folder, new_folder, remove_file, remove_folder, rename
from pipeline.storage.json_lines import read_json_lines, set_aside
from pipeline.storage.read import read_file
from pipeline.storage.write import remove_unfinished, replace_file
from pipeline.strict_json import from_json, to_json

_LOG = logging.getLogger(__name__)
_LARGEST = 1 << 28  # bytes of a small file: those of a data set of 21,841 classes have 2 MB


class RunFolderError(PipelineError):
    """What belongs into the run folder could not be written."""


class RunFolder:
    """Paths and small files of one run. Only the chief may call what writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.metrics = path / "metrics.jsonl"
        self.skipped = path / "skipped.txt"
        self.repaired = path / "repaired.txt"
        self.predictions = path / "predictions.npz"
        self.examples = path / "examples.npz"
        self.report = path / "report.html"
        self.lock = RunLock(path)
        self._starts = path / "starts.jsonl"
        self._stop = path / "stop"

    @property
    def was_begun(self) -> bool:
        """Whether this is a run folder."""
        return (self.path / "config.yaml").is_file()

    def config(self) -> Config:
        """The settings the run was started with.

        Raises:
          SettingsError: This is no run folder.
        """
        file = self.path / "config.yaml"
        if not self.was_begun:
            raise SettingsError(
                f"{self.path} is not a run folder: it has no config.yaml. Give the folder that "
                "`vit train` printed"
            )
        return load_config(file, inherits=False)

    @property
    def has_progress(self) -> bool:
        """Whether an update was saved: there is a checkpoint past step 0, be it damaged.

        Rows of metrics alone are no progress, because no start can resume from them.
        """
        saved = (p for p in self.checkpoints.glob("step-*") if p.suffix != UNFINISHED)
        return any(p.stem != INITIAL for p in saved)

    @property
    def is_claimed(self) -> bool:
        """Whether only a start with the same settings and classes may use the folder.

        A run claims its folder with the first checkpoint past step 0, or when it ends as "done" or
        "stopped". A user who stops a run expects to resume it, even at step 0.

        A start that failed or was killed before that claims nothing. It has nothing to lose, and
        the next command often corrects the cause: a batch that does not fit into memory, a wrong
        folder of images.
        """
        outcome = self.outcome()
        ended = outcome is not None and outcome["outcome"] in ("done", "stopped")
        return self.has_progress or ended

    def start_over(self) -> None:
        """Deletes what an unclaimed start left that does not fit other settings or classes.

        The initial weights are made again from the seed. Rows of metrics and curves are dropped
        when training begins at step 0. A folder that is claimed stays as it is.
        """
        if self.is_claimed:
            return
        remove_folder(self.checkpoints)
        for file in (self.skipped, self.repaired):
            remove_file(file)

    def differences(self, config: Config) -> list[str]:
        """Settings that change the training and are not those of the run in the folder."""
        if not (self.was_begun and self.is_claimed):
            return []
        return training_differences(self.config(), config)

    def other_data(self, config: Config) -> str | None:
        """How `data.path` differs from that of the finished run in the folder, if it does.

        An unfinished run compares the data itself when it resumes. The result of a finished run is
        printed without opening the data, and must not pass for the result on another data set.
        """
        outcome = self.outcome()
        if not (self.was_begun and outcome is not None and outcome["outcome"] == "done"):
            return None
        recorded, given = self.config().data.path, config.data.path
        if _same_place(recorded, given):
            return None
        return f"data.path: {recorded or 'null'} -> {given or 'null'}"

    def check(self, config: Config) -> None:
        """Refuses settings that would train something else than what the folder holds.

        Raises:
          SettingsError: With one line a setting that differs; or the run is finished, and its data
            set was at another place.
        """
        differences = self.differences(config)
        if differences:
            raise SettingsError(
                f"{self.path} holds a run with other settings:\n  "
                + "\n  ".join(differences)
                + "\nGive the same settings to go on with it, or run.dir=FOLDER for a new run"
            )
        if (other := self.other_data(config)) is not None:
            raise SettingsError(
                f"{self.path} holds a finished run on the data set of another place:\n  {other}\n"
                "To start a new run, name another folder with run.dir=FOLDER. For the result of "
                "the finished run, give its data.path. If its data set has moved, use `vit "
                f"evaluate {shlex.quote(str(self.path))} --data PATH`"
            )

    def open(self, config: Config, report: Callable[[str], None]) -> None:
        """Makes the folder, takes its lock, tries what saving needs, and writes the settings.

        Raises:
          SettingsError: It cannot be used, a link leads out of it, or another process trains in it.
        """
        check_links(self.path)
        with self._errors_named():
            self._check_access()
            make_folder(self.path, parents=True)
            self.lock.acquire(report)
            remove_unfinished(self.path)
            try_folder(self.path)
            self.clear_stop_request()
        self.check(config)
        if self.has_other_settings(config):
            self.start_over()
        self._replace("config.yaml", dump_config(config))

    def check_open(self, config: Config) -> None:
        """Refuses what `open` refuses, and writes nothing.

        Raises:
          SettingsError: It cannot be used, a link leads out of it, or another process trains in it.
        """
        check_links(self.path)
        with self._errors_named():
            self._check_access()
            holder = self.lock.find_holder()
        if holder is not None:
            raise SettingsError(
                f"another process is training in {self.path}: {holder}. Wait for it, stop it, or "
                "name another folder with run.dir=FOLDER"
            )
        self.check(config)

    def has_other_settings(self, config: Config) -> bool:
        """Whether the folder was begun with settings that train something else."""
        return self.was_begun and bool(training_differences(self.config(), config))

    def _check_access(self) -> None:
        for place in {existing_folder(self.path), self.checkpoints, self.tensorboard}:
            if not os.path.lexists(place):
                continue
            if not place.is_dir():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
                read_only = os.statvfs(place).f_flag & os.ST_RDONLY
                code = errno.EROFS if read_only else errno.EACCES
                raise OSError(code, os.strerror(code))

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SettingsError(
                f"cannot use the run folder {self.path}: {error.strerror}. Files must be written, "
                "renamed and synced there. Name another with run.dir=FOLDER"
            ) from None

    def close(self) -> None:
        """Gives the lock back."""
        self.lock.release()

    def check_room(self, checkpoint_bytes: int) -> None:
        """Refuses to begin where two checkpoints have no room.

        Raises:
          SettingsError: Says how much is needed and how much there is.
        """
        # Those with a suffix are unfinished or set aside.
        there = sum(not folder.suffix for folder in self.checkpoints.glob("step-*"))
        # The next one is written before the oldest is deleted.
        needed = checkpoint_bytes * max(1, 2 - there)
        free = shutil.disk_usage(existing_folder(self.path)).free
        if free < needed:
            raise SettingsError(
                f"the run folder {self.path} has room for {free / 1e6:,.1f} MB, and the next "
                f"checkpoints need {needed / 1e6:,.1f} MB. Make room, or name another folder with "
                "run.dir=FOLDER"
            )

    @property
    def stop_requested(self) -> bool:
        """Whether somebody made a file named `stop` here."""
        return os.path.exists(self._stop)  # False, and no error, where a server stumbles

    def clear_stop_request(self) -> None:
        """Takes that file away: the next start goes on."""
        remove_file(self._stop)

    def outcome(self) -> dict[str, Any] | None:
        """How the last start ended: "done", "stopped" or "failed"; None if it did not end.

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
        """What `begin` recorded of the data.

        Raises:
          SettingsError: Nothing, because training never began.
          DataError: The file is damaged.
        """
        facts = self._read("dataset.json", "classes", check_dataset)
        if facts is None:
            raise SettingsError(f"{self.path} has no dataset.json: its training never began")
        return facts

    def begin(self, dataset: dict[str, Any], start: dict[str, Any]) -> None:
        """Records what prediction needs to know of the data, and this start, which has no outcome.

        Args:
          dataset: For dataset.json.
          start: For starts.jsonl; the newest checkpoint there is goes in as `checkpoint_step`,
            null on a new run.
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

    def starts(self) -> list[dict[str, Any]]:
        """Every start of the run, the first one first; none of a run from before they were kept."""
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
                f"{file} is damaged: {error}. Restore it from a copy; or delete it and give the "
                "`vit train` command again, which goes on from the newest checkpoint and writes "
                "it anew"
            ) from None
        return found

    def skipped_images(self) -> list[str]:
        """The unreadable images that starts of the run have met so far."""
        return _lines(self.skipped)

    def repaired_images(self) -> dict[str, str]:
        """The images that libjpeg repaired in starts of the run so far, with its warnings."""
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


def try_folder(path: Path) -> None:
    """Does once, on a small scale, what a checkpoint does, and leaves nothing behind.

    Raises:
      OSError: A folder or file cannot be made, written, synced or renamed in `path`.
    """
    with new_folder(path / ".try") as new:
        replace_file(new.inside / "file", b"x")
        remove_folder(rename(new.path, new.path.name.replace(".try.", ".tried.")))


def _same_place(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one == other
    return one == other or Path(one).resolve() == Path(other).resolve()


def existing_folder(path: Path) -> Path:
    """The path, or where it is not there the nearest folder above it that is."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if os.path.lexists(p))

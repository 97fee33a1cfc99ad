"""The run folder: what a start does there, tried without leaving anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.config import Config
from pipeline.data.split import DataSource
from pipeline.doctor.finding import Finding, error, ok, warning
from pipeline.errors import SettingsError
from pipeline.runs.access import check_writable, nearest_existing
from pipeline.runs.folder import RunFolder
from pipeline.training.data_record import check_resumed_data, data_record

_ANOTHER = "name another folder with run.dir=FOLDER"


def check_run_folder(config: Config) -> Iterator[Finding]:
    """Whether a start can use the folder: free, writable, and of the same settings."""
    folder = RunFolder(config.run_dir)
    place = folder.path
    try:
        place = nearest_existing(folder.path)
        check_writable(place)
    except OSError as problem:
        yield error(
            "run folder",
            f"{folder.path} cannot be used: {problem.strerror} in {place}",
            f"Files must be written, renamed and synced there: {_ANOTHER}",
        )
        return
    if place != folder.path.absolute():
        yield ok("run folder", f"{folder.path} will be made; {place} can be written to")
        return
    if (holder := folder.lock.find_holder()) is not None:
        yield error(
            "run folder",
            f"{folder.path} is in use: {holder} trains there",
            f"Wait for it, stop it, or {_ANOTHER}",
        )
        return
    yield _check_content(folder, config)


def _check_content(folder: RunFolder, config: Config) -> Finding:
    if not (folder.path / "config.yaml").exists():
        return ok("run folder", f"{folder.path} can be written, renamed and synced in")
    if not folder.is_claimed:
        return ok(
            "run folder", f"{folder.path} holds a start that did no update: vit train replaces it"
        )
    if differences := folder.differences(config):
        return error(
            "run folder",
            f"{folder.path} holds a run with other settings ({'; '.join(differences)})",
            f"Give the same settings to go on with it, or {_ANOTHER}",
        )
    if (other := folder.data_path_difference(config)) is not None:
        return error(
            "run folder",
            f"{folder.path} holds a finished run on the data set of another place ({other})",
            f"Give its data.path for its result, or {_ANOTHER}",
        )
    outcome = folder.outcome()
    if outcome is not None and outcome["outcome"] == "done":
        return ok("run folder", f"{folder.path} holds this run, done: vit train prints its result")
    return ok("run folder", f"{folder.path} holds this run: vit train goes on with it")


def check_data(config: Config, source: DataSource) -> Iterator[Finding]:
    """Whether the data set is the one that the run in the folder was trained on."""
    folder = RunFolder(config.run_dir)
    changes = check_resumed_data(folder, data_record(source), config.data.allow_changes)
    if changes:
        yield warning(
            "run data",
            f"the data set of {folder.path} has changed: {'; '.join(changes)}",
            "data.allow_changes=true is set: vit train resumes with the changed images",
        )
    elif folder.has_progress:
        yield ok("run data", f"the data set is the one that {folder.path} was trained on")


def check_free_space(config: Config, checkpoint_bytes: int) -> Iterator[Finding]:
    """Whether the next two checkpoints have room, without which none is written."""
    RunFolder(config.run_dir).check_free_space(checkpoint_bytes)
    yield ok("room", f"two checkpoints of {checkpoint_bytes / 1e6:,.1f} MB fit")


def check_pretrained(run: str) -> Iterator[Finding]:
    """Whether the run that `model.pretrained` names has a checkpoint.

    Published weights are looked at by `training.check_pretrained`, which needs TensorFlow.
    """
    folder = RunFolder(Path(run))
    if not folder.is_run:
        return
    folder.config()
    if not any(folder.checkpoints.glob("step-*")):
        raise SettingsError(f"{run} has no checkpoint yet: model.pretrained cannot start from it")
    yield ok("pretrained", f"{run} has checkpoints to start from")

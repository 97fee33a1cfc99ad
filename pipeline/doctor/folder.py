"""Checks of the run folder: what training needs there, tested without leaving files behind."""

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

_ANOTHER = "set run.dir=FOLDER to another folder"


def check_run_folder(config: Config) -> Iterator[Finding]:
    """Checks that the folder is free, writable, and has no run with different settings."""
    folder = RunFolder(config.run_dir)
    place = folder.path
    try:
        place = nearest_existing(folder.path)
        check_writable(place)
    except OSError as problem:
        yield error(
            "run folder",
            f"{folder.path} cannot be used: {problem.strerror} in {place}",
            f"Training must be able to write, rename and sync files there. Or {_ANOTHER}",
        )
        return
    if place != folder.path.absolute():
        yield ok("run folder", f"{folder.path} will be created; {place} is writable")
        return
    if (holder := folder.lock.find_holder()) is not None:
        yield error(
            "run folder",
            f"{folder.path} is in use: {holder} is training there",
            f"Wait for it, stop it, or {_ANOTHER}",
        )
        return
    yield _check_content(folder, config)


def _check_content(folder: RunFolder, config: Config) -> Finding:
    if not (folder.path / "config.yaml").exists():
        return ok("run folder", f"{folder.path} is writable")
    if not folder.is_claimed:
        return ok(
            "run folder", f"{folder.path} holds a run without any update: vit train replaces it"
        )
    if differences := folder.differences(config):
        return error(
            "run folder",
            f"{folder.path} holds a run with different settings ({'; '.join(differences)})",
            f"Use the same settings to continue it, or {_ANOTHER}",
        )
    if (other := folder.data_path_difference(config)) is not None:
        return error(
            "run folder",
            f"{folder.path} holds a finished run with another data set location ({other})",
            f"Set its data.path to see its result, or {_ANOTHER}",
        )
    outcome = folder.outcome()
    if outcome is not None and outcome["outcome"] == "done":
        return ok("run folder", f"{folder.path} holds this run, done: vit train prints its result")
    return ok("run folder", f"{folder.path} holds this run: vit train continues it")


def check_data(config: Config, source: DataSource) -> Iterator[Finding]:
    """Checks that the data set is the one with which the run in the folder was trained."""
    folder = RunFolder(config.run_dir)
    changes = check_resumed_data(folder, data_record(source), config.data.allow_changes)
    if changes:
        yield warning(
            "run data",
            f"the data set of {folder.path} has changed: {'; '.join(changes)}",
            "data.allow_changes=true is set: vit train resumes with the changed images",
        )
    elif folder.has_progress:
        yield ok("run data", f"the data set is the one with which {folder.path} was trained")


def check_free_space(config: Config, checkpoint_bytes: int) -> Iterator[Finding]:
    """Checks that there is space for two checkpoints, which saving requires."""
    RunFolder(config.run_dir).check_free_space(checkpoint_bytes)
    yield ok("room", f"two checkpoints of {checkpoint_bytes / 1e6:,.1f} MB fit")


def check_pretrained(run: str) -> Iterator[Finding]:
    """Checks that the run named by `model.pretrained` has a checkpoint.

    `training.check_pretrained` checks published weights, because it needs TensorFlow.
    """
    folder = RunFolder(Path(run))
    if not folder.is_run:
        return
    folder.config()
    if not any(folder.checkpoints.glob("step-*")):
        raise SettingsError(f"{run} has no checkpoint yet: model.pretrained cannot start from it")
    yield ok("pretrained", f"{run} has checkpoints to start from")

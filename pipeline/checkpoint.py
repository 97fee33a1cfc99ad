"""Checkpoints: a folder a step, whole or not there at all.

    checkpoints/step-00001234/
      model.safetensors      weights by their path
      optimizer.safetensors  step counter and moments
      average.safetensors    averaged weights, where they are kept
      state.json             where the run stands, in words JSON has
      manifest.json          size and SHA-256 of each file above

A folder is written beside its final name, synced to disk and renamed, so that a name that exists is
a whole checkpoint. Only a rename within one folder is relied on, as a network file system gives it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline.errors import PipelineError, SettingsError

_NAME = re.compile(r"step-(\d{8,})")
_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Snapshot:
    """A run at one step, in host memory.

    Attributes:
      step: Updates done.
      tensors: Arrays by name, by the stem of the file that holds them ("model", "optimizer", ...).
      state: What else the run needs to go on; anything JSON can hold.
    """

    step: int
    tensors: Mapping[str, Mapping[str, np.ndarray]]
    state: Mapping[str, Any]


class CheckpointError(PipelineError):
    """A checkpoint could not be written, or is damaged."""


class CheckpointStore:
    """The checkpoints of one run. Only the chief may call what writes.

    Args:
      folder: Holds one folder a checkpoint; made when the first is saved.
      keep: How many of the newest are kept by `prune`.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self._folder = folder
        self._keep = keep

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` is, or would be."""
        return self._folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, ascending."""
        if not self._folder.is_dir():
            return []
        names = (_NAME.fullmatch(entry.name) for entry in self._folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def save(self, snapshot: Snapshot) -> Path:
        """Writes a checkpoint and returns its folder once it is on disk.

        Raises:
          CheckpointError: It could not be written; those that were there still are.
        """
        final = self.path(snapshot.step)
        unfinished = final.with_name(final.name + _UNFINISHED)
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            for stem, arrays in snapshot.tensors.items():
                save_file(_contiguous(arrays), unfinished / f"{stem}.safetensors")
            _write_json(unfinished / "state.json", {"step": snapshot.step, **snapshot.state})
            _write_json(unfinished / "manifest.json", _manifest(unfinished))
            for file in unfinished.iterdir():
                _sync(file)
            _sync(unfinished)
            self._put_in_place(unfinished, final)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise CheckpointError(
                f"cannot write the checkpoint {final}: {error}. Earlier checkpoints are untouched; "
                "make room or permit writing, then start the same command again"
            ) from None
        return final

    def load(self, step: int) -> Snapshot:
        """Reads the checkpoint of `step` after checking each file against the manifest.

        Raises:
          CheckpointError: It is missing or damaged; the message names the file.
        """
        folder = self.path(step)
        try:
            self._verify(folder)
            state = json.loads((folder / "state.json").read_text())
            tensors = {file.stem: load_file(file) for file in sorted(folder.glob("*.safetensors"))}
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"the checkpoint {folder} is damaged: {error}") from None
        return Snapshot(int(state.pop("step")), tensors, state)

    def newest(self, report: Callable[[str], None]) -> Snapshot | None:
        """The newest checkpoint that is whole, or None where there is no checkpoint at all.

        A damaged one is told to `report`, left where it is, and passed over for the one before.

        Raises:
          CheckpointError: There are checkpoints, and every one is damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.load(step)
            except CheckpointError as error:
                report(f"{error}; trying the one before")
        if steps:
            raise CheckpointError(
                f"every checkpoint in {self._folder} is damaged. To begin again, move the folder "
                "away or name another with run.dir=FOLDER"
            )
        return None

    def prune(self, best_step: int | None) -> None:
        """Deletes all but the newest `keep` and the best, and what an interrupted save left."""
        steps = self.steps()
        for step in set(steps[: -self._keep]) - {best_step}:
            # Renamed first, so that an interrupted deletion leaves nothing that looks whole.
            doomed = self.path(step).with_name(self.path(step).name + _UNFINISHED)
            self.path(step).rename(doomed)
        if self._folder.is_dir():
            for leftover in self._folder.glob(f"*{_UNFINISHED}"):
                shutil.rmtree(leftover, ignore_errors=True)

    def _put_in_place(self, unfinished: Path, final: Path) -> None:
        if final.exists():
            # A folder cannot be renamed over a full one. The old one is of the same step.
            replaced = final.with_name(f"{final.name}.old{_UNFINISHED}")
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
            unfinished.rename(final)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            unfinished.rename(final)
        _sync(self._folder)

    @staticmethod
    def _verify(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        for name, (size, digest) in manifest.items():
            file = folder / name
            if file.stat().st_size != size:
                raise ValueError(f"{name} has {file.stat().st_size} bytes instead of {size}")
            if _digest(file) != digest:
                raise ValueError(f"{name} is not what was written (SHA-256 differs)")


def read_variables(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Host copies of named variables (anything with `numpy()`)."""
    return {name: np.asarray(variable.numpy()) for name, variable in variables.items()}


def restore_variables(
    variables: Mapping[str, Any], arrays: Mapping[str, np.ndarray], what: str
) -> None:
    """Assigns each array to the variable of its name.

    Raises:
      SettingsError: Names or shapes differ; the message lists them, and nothing was assigned.
    """
    wrong = [f"{name}: only in the checkpoint" for name in arrays.keys() - variables.keys()]
    wrong += [f"{name}: not in the checkpoint" for name in variables.keys() - arrays.keys()]
    for name in variables.keys() & arrays.keys():
        here, there = tuple(variables[name].shape), arrays[name].shape
        if here != there:
            wrong.append(f"{name}: {there} in the checkpoint, {here} here")
    if wrong:
        more = f"\n  and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise SettingsError(
            f"the checkpoint is of another {what}:\n  " + "\n  ".join(sorted(wrong)[:10]) + more
        )
    for name, array in arrays.items():
        variables[name].assign(array)


def _contiguous(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    # ascontiguousarray turns a scalar into a vector of one.
    return {k: np.ascontiguousarray(a).reshape(np.shape(a)) for k, a in arrays.items()}


def _manifest(folder: Path) -> dict[str, tuple[int, str]]:
    return {f.name: (f.stat().st_size, _digest(f)) for f in sorted(folder.iterdir())}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_json(file: Path, value: Any) -> None:
    # No newline at the end: a file that lost its last byte must not parse.
    file.write_text(json.dumps(value, indent=1))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

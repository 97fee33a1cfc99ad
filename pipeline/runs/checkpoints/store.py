"""Checkpoints: a folder a step, whole or not there at all.

    checkpoints/step-00001234/
      model.safetensors      weights by their path
      optimizer.safetensors  counters of steps and of applied updates, moments
      average.safetensors    averaged weights, where they are kept
      state.json             where the run stands, in words JSON has
      manifest.json          size and CRC32C of each file above

A folder is written beside its final name, synced to disk and renamed, so that a name that exists is
a whole checkpoint. Only a rename within one folder is relied on, as a network file system gives it.
CRC32C, as in TFRecord and in object stores, finds each change of up to four bytes in a row, at six
times the speed of SHA-256 here: what a save takes from training's cores is the write itself.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline.errors import PipelineError
from pipeline.runs.checkpoints.snapshot import Snapshot
from pipeline.storage.folders import make_folder, new_folder, remove_folder, rename
from pipeline.storage.read import FileRefused, open_file, read_file
from pipeline.storage.write import replace_file
from pipeline.strict_json import from_json, to_json

_NAME = re.compile(r"step-([0-9]{8,15})")
_FILE = re.compile(r"[a-z_]+\.(safetensors|json)")
INITIAL = "step-00000000"  # saved before the first update
UNFINISHED = ".unfinished"
_REPLACED = ".replaced"
_SET_ASIDE = ".set-aside"
_CHUNK = 1 << 22  # bytes
STATE_BYTES = 1 << 24  # more than a state.json or manifest.json ever has
_READ_PAUSES_S = (1.0, 4.0)
_LASTING = (FileNotFoundError, IsADirectoryError, NotADirectoryError, FileRefused)


class CheckpointError(PipelineError):
    """A checkpoint could not be written, or is damaged."""


class CheckpointStore:
    """The checkpoints of one run. Only the chief may call what writes.

    Args:
      folder: Holds one folder a checkpoint; made when the first is saved, in the run folder.
      keep: How many of the newest are kept by `prune`.
      keep_every_steps: Those of a multiple of this many steps are kept too; None: none are.
    """

    def __init__(self, folder: Path, keep: int = 2, keep_every_steps: int | None = None) -> None:
        self._folder = folder
        self._run = folder.parent  # nothing is written or deleted outside of it
        self._keep = keep
        self._keep_every_steps = keep_every_steps

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
        try:
            # Not its parents: where the run folder has gone, a mount has perhaps, and what would be
            # written below it would be hidden once it is back.
            make_folder(self._folder, below=self._run)
            _sync(self._folder.parent)
            with new_folder(final, below=self._run, ending=UNFINISHED) as new:
                for stem, arrays in snapshot.tensors.items():
                    save_file(_contiguous(arrays), new.inside / f"{stem}.safetensors")
                _write_json(new.inside / "state.json", {"step": snapshot.step, **snapshot.state})
                _write_json(new.inside / "manifest.json", _manifest(new.inside))
                for file in new.inside.iterdir():
                    _sync(file)
                _sync(new.inside)
                self._put_in_place(new.path, final)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot write the checkpoint {final}: {error}") from None
        return final

    def load(self, step: int) -> Snapshot:
        """Reads the checkpoint of `step` after checking each file against the manifest.

        Raises:
          CheckpointError: It is missing or damaged; the message names the file.
        """
        folder = self.path(step)
        pauses_s = list(_READ_PAUSES_S)
        while True:
            try:
                return _read(folder, step)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                lasting = not isinstance(error, OSError) or isinstance(error, _LASTING)
                if lasting or not pauses_s:
                    raise CheckpointError(f"the checkpoint {folder} is damaged: {error}") from None
                # A server that stumbles must not pass for a damaged file.
                time.sleep(pauses_s.pop(0))

    def newest(
        self, report: Callable[[str], None], set_damaged_aside: bool = False
    ) -> Snapshot | None:
        """The newest checkpoint that is whole, or None where there is no checkpoint at all.

        Args:
          report: Is told of each damaged one, which is passed over for the one before.
          set_damaged_aside: Rename those: a run that goes on from an older one must neither take
            them for its newest, nor delete them, nor meet their names when it comes to that step.

        Raises:
          CheckpointError: There are checkpoints, and every one is damaged.
        """
        damaged: list[int] = []
        steps = self.steps()
        for step in reversed(steps):
            try:
                snapshot = self.load(step)
            except CheckpointError as error:
                report(f"{error}; trying the one before")
                damaged.append(step)
                continue
            for other in damaged if set_damaged_aside else ():
                report(f"the damaged checkpoint is kept as {self.set_aside(other)}")
            return snapshot
        if steps:
            raise CheckpointError(
                f"every checkpoint in {self._folder} is damaged. To begin again, move the folder "
                "away or name another with run.dir=FOLDER"
            )
        return None

    def set_aside(self, step: int) -> Path:
        """Renames a checkpoint so that it no longer counts, deletes nothing, and says the name."""
        name = f"{self.path(step).name}{_SET_ASIDE}"
        taken = {entry.name for entry in self._folder.iterdir()}
        number = next(n for n in range(1, len(taken) + 2) if f"{name}-{n}" not in taken)
        return rename(self.path(step), f"{name}-{number}", below=self._run)

    def prune(self, best_step: int | None) -> None:
        """Deletes all but the newest `keep`, the best, and those of `keep_every_steps`."""
        for step in set(self.steps()[: -self._keep]) - {best_step}:
            # That of step 0 is of no use once there is another.
            if self._keep_every_steps and step and step % self._keep_every_steps == 0:
                continue
            # Renamed first, so that an interrupted deletion leaves nothing that looks whole.
            name = f"{self.path(step).name}{UNFINISHED}"
            remove_folder(self.path(step).with_name(name), below=self._run)
            doomed = rename(self.path(step), name, below=self._run)
            remove_folder(doomed, below=self._run)

    def sweep(self) -> None:
        """Deletes what an interrupted save or deletion left; to be called before `newest`."""
        for replaced in self._folder.glob(f"step-*{_REPLACED}"):
            final = replaced.with_name(replaced.name.removesuffix(_REPLACED))
            if not final.exists():
                rename(replaced, final.name, below=self._run)
            else:
                remove_folder(replaced, below=self._run)
        for leftover in self._folder.glob(f"step-*{UNFINISHED}"):
            remove_folder(leftover, below=self._run)

    def _put_in_place(self, unfinished: Path, final: Path) -> None:
        replaced = final.with_name(final.name + _REPLACED)
        if final.exists():
            remove_folder(replaced, below=self._run)  # of a try that failed after this
            # A folder cannot be renamed over a full one; `sweep` undoes this if it ends here.
            rename(final, replaced.name, below=self._run)
        rename(unfinished, final.name, below=self._run)
        _sync(self._folder)
        remove_folder(replaced, below=self._run)


def _read(folder: Path, step: int) -> Snapshot:
    names = _verify(folder)
    state = _read_json(folder / "state.json")
    saved = state.pop("step")
    if type(saved) is not int or saved != step:
        raise ValueError("state.json is of another step")
    # What the manifest does not name was not written by a save.
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    tensors = {Path(name).stem: load_file(folder / name) for name in weights}
    return Snapshot(step, tensors, state)


def _verify(folder: Path) -> list[str]:
    """Compares the files with the manifest and returns their names."""
    manifest = _read_json(folder / "manifest.json")
    for name, facts in manifest.items():
        # A name with a slash would be a file elsewhere.
        if not (_FILE.fullmatch(name) and isinstance(facts, list) and len(facts) == 2):
            raise ValueError(f"manifest.json has no file name, size and checksum: {name!r}")
        found = (folder / name).stat().st_size
        if found != facts[0]:
            raise ValueError(f"{name} has {found} bytes instead of {facts[0]}")
    checksums = _checksums([folder / name for name in manifest])
    for name, (_, checksum) in manifest.items():
        if checksums[name] != checksum:
            raise ValueError(f"{name} is not what was written (its checksum differs)")
    return list(manifest)


def _manifest(folder: Path) -> dict[str, tuple[int, str]]:
    files = sorted(folder.iterdir())
    checksums = _checksums(files)
    return {file.name: (file.stat().st_size, checksums[file.name]) for file in files}


def _checksums(files: list[Path]) -> dict[str, str]:
    """The CRC32C of each file by its name, in hexadecimal."""
    with ThreadPoolExecutor(len(files) or 1) as pool:
        return dict(zip((f.name for f in files), pool.map(_checksum, files), strict=True))


def _checksum(file: Path) -> str:
    checksum = google_crc32c.Checksum()
    with open_file(file) as stream:
        while chunk := stream.read(_CHUNK):
            checksum.update(chunk)
    return checksum.hexdigest().decode()


def _contiguous(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    # ascontiguousarray turns a scalar into a vector of one.
    return {k: np.ascontiguousarray(a).reshape(np.shape(a)) for k, a in arrays.items()}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = from_json(read_file(file, limit_bytes=STATE_BYTES))
    except ValueError as error:
        raise ValueError(f"{file.name} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} is no JSON object")
    return found


def _write_json(file: Path, value: Any) -> None:
    # No newline at the end: a file that lost its last byte must not parse.
    replace_file(file, to_json(value, indent=1), durable=False)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

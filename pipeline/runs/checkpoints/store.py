"""A store of checkpoints, with one folder per step that is either complete or absent.

    checkpoints/step-00001234/
      model.safetensors      weights by variable path
      optimizer.safetensors  moments, and the numbers of steps and of applied updates
      average.safetensors    averaged weights, if the run keeps them
      state.json             position of the run, settings and versions
      manifest.json          size and CRC32C of each file above

A checkpoint is written under a temporary name, synced to disk and renamed. A folder with a final
name is therefore complete. This relies only on a rename within one folder, which network file
systems support.

CRC32C, which TFRecord and object stores also use, detects every change of up to four consecutive
bytes. Here it is six times as fast as SHA-256, so a save costs the training cores little more than
the write itself.
"""

from __future__ import annotations

import logging
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

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"step-([0-9]{8,15})")
_FILE = re.compile(r"[a-z_]+\.(safetensors|json)")
INITIAL = "step-00000000"  # the checkpoint that is saved before the first update
UNFINISHED = ".unfinished"
_REPLACED = ".replaced"
_SET_ASIDE = ".set-aside"
_CHUNK = 1 << 22  # bytes
STATE_BYTES = 1 << 24  # size limit of state.json and manifest.json
_READ_RETRY_S = (1.0, 4.0)
_PERMANENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError, FileRefused)


class CheckpointError(PipelineError):
    """A checkpoint cannot be written, or is damaged."""


class CheckpointStore:
    """The checkpoints of one run. Only the chief may call methods that write.

    Args:
      folder: The folder of all checkpoints, in the run folder. The first save creates it.
      keep: Number of newest checkpoints that `prune` keeps.
      keep_every_steps: `prune` also keeps checkpoints at multiples of this step; None for no more.
    """

    def __init__(self, folder: Path, keep: int = 2, keep_every_steps: int | None = None) -> None:
        self._folder = folder
        self._run = folder.parent  # nothing is written or deleted outside of this folder
        self._keep = keep
        self._keep_every_steps = keep_every_steps

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of `step`, whether it exists or not."""
        return self._folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        if not self._folder.is_dir():
            return []
        names = (_NAME.fullmatch(entry.name) for entry in self._folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def save(self, snapshot: Snapshot) -> Path:
        """Writes a checkpoint, syncs it to disk and returns its folder.

        Raises:
          CheckpointError: It cannot be written. Earlier checkpoints are intact.
        """
        final = self.path(snapshot.step)
        start_s = time.monotonic()
        try:
            # Parents are not created: if the run folder is missing, a file system may have been
            # unmounted, and files written below the mount point would be hidden later.
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
        _LOG.debug("wrote the checkpoint %s in %.2f s", final, time.monotonic() - start_s)
        return final

    def load(self, step: int) -> Snapshot:
        """Reads the checkpoint of `step` after verifying each file against the manifest.

        Raises:
          CheckpointError: It is missing or damaged; the message names the file.
        """
        folder = self.path(step)
        delays_s = list(_READ_RETRY_S)
        while True:
            try:
                snapshot = _read(folder, step)
                _LOG.debug("read the checkpoint %s", folder)
                return snapshot
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                permanent = not isinstance(error, OSError) or isinstance(error, _PERMANENT)
                if permanent or not delays_s:
                    raise CheckpointError(f"the checkpoint {folder} is damaged: {error}") from None
                # A temporary error of a file server must not be reported as damage.
                time.sleep(delays_s.pop(0))

    def newest(
        self, report: Callable[[str], None], set_damaged_aside: bool = False
    ) -> Snapshot | None:
        """Returns the newest undamaged checkpoint, or None if there is no checkpoint at all.

        Args:
          report: Called with a message about each damaged checkpoint that is skipped.
          set_damaged_aside: Whether to rename damaged checkpoints. A run that resumes from an older
            checkpoint must not treat them as its newest ones, must not delete them, and must be
            able to save under their names when it reaches the same step.

        Raises:
          CheckpointError: All checkpoints are damaged.
        """
        damaged: list[int] = []
        steps = self.steps()
        for step in reversed(steps):
            try:
                snapshot = self.load(step)
            except CheckpointError as error:
                report(f"{error}; trying the previous one")
                damaged.append(step)
                continue
            for other in damaged if set_damaged_aside else ():
                report(f"the damaged checkpoint is kept as {self.set_aside(other)}")
            return snapshot
        if steps:
            raise CheckpointError(
                f"every checkpoint in {self._folder} is damaged. To start over, move the folder "
                "away or choose another run folder with run.dir=FOLDER"
            )
        return None

    def set_aside(self, step: int) -> Path:
        """Renames a checkpoint so that it is no longer used, and returns its new path."""
        name = f"{self.path(step).name}{_SET_ASIDE}"
        taken = {entry.name for entry in self._folder.iterdir()}
        number = next(n for n in range(1, len(taken) + 2) if f"{name}-{n}" not in taken)
        return rename(self.path(step), f"{name}-{number}", below=self._run)

    def prune(self, best_step: int | None) -> None:
        """Deletes all but the newest `keep`, the best, and those of `keep_every_steps`."""
        for step in set(self.steps()[: -self._keep]) - {best_step}:
            # The checkpoint of step 0 is not needed once there is another.
            if self._keep_every_steps and step and step % self._keep_every_steps == 0:
                continue
            # Rename it first: an interrupted deletion must not leave a folder that looks complete.
            name = f"{self.path(step).name}{UNFINISHED}"
            remove_folder(self.path(step).with_name(name), below=self._run)
            renamed = rename(self.path(step), name, below=self._run)
            remove_folder(renamed, below=self._run)

    def remove_leftovers(self) -> None:
        """Cleans up after an interrupted save or deletion. Call it before `newest`."""
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
            remove_folder(replaced, below=self._run)  # left by an attempt that failed later
            # A folder cannot be renamed onto one that is not empty. If the process ends between the
            # two renames, `remove_leftovers` undoes the first.
            rename(final, replaced.name, below=self._run)
        rename(unfinished, final.name, below=self._run)
        _sync(self._folder)
        remove_folder(replaced, below=self._run)


def _read(folder: Path, step: int) -> Snapshot:
    names = _verify(folder)
    state = _read_json(folder / "state.json")
    saved = state.pop("step")
    if type(saved) is not int or saved != step:
        raise ValueError("state.json belongs to a different step")
    # A file that the manifest does not list was not written by `save`.
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    tensors = {Path(name).stem: load_file(folder / name) for name in weights}
    return Snapshot(step, tensors, state)


def _verify(folder: Path) -> list[str]:
    """Checks size and checksum of all files in the manifest and returns their names."""
    manifest = _read_json(folder / "manifest.json")
    for name, facts in manifest.items():
        # A name with a slash could refer to a file outside of the checkpoint.
        if not (_FILE.fullmatch(name) and isinstance(facts, list) and len(facts) == 2):
            raise ValueError(f"manifest.json has no valid name, size and checksum: {name!r}")
        found = (folder / name).stat().st_size
        if found != facts[0]:
            raise ValueError(f"{name} has {found} bytes instead of {facts[0]}")
    checksums = _checksums([folder / name for name in manifest])
    for name, (_, checksum) in manifest.items():
        if checksums[name] != checksum:
            raise ValueError(f"{name} has changed since it was written (its checksum differs)")
    return list(manifest)


def _manifest(folder: Path) -> dict[str, tuple[int, str]]:
    files = sorted(folder.iterdir())
    checksums = _checksums(files)
    return {file.name: (file.stat().st_size, checksums[file.name]) for file in files}


def _checksums(files: list[Path]) -> dict[str, str]:
    """CRC32C of each file in hexadecimal, by file name."""
    with ThreadPoolExecutor(len(files) or 1) as pool:
        return dict(zip((f.name for f in files), pool.map(_checksum, files), strict=True))


def _checksum(file: Path) -> str:
    checksum = google_crc32c.Checksum()
    with open_file(file) as stream:
        while chunk := stream.read(_CHUNK):
            checksum.update(chunk)
    return checksum.hexdigest().decode()


def _contiguous(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    # ascontiguousarray changes the shape of a scalar to [1]; reshape restores it.
    return {k: np.ascontiguousarray(a).reshape(np.shape(a)) for k, a in arrays.items()}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = from_json(read_file(file, limit_bytes=STATE_BYTES))
    except ValueError as error:
        raise ValueError(f"{file.name} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} is not a JSON object")
    return found


def _write_json(file: Path, value: Any) -> None:
    # No trailing newline: a file without its last byte must not be valid JSON.
    replace_file(file, to_json(value, indent=1), durable=False)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

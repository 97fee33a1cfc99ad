"""Selects the TensorBoard logs of one or several runs."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import SettingsError
from pipeline.runs.folder import RunFolder
from pipeline.runs.links import check_links
from pipeline.storage.folders import make_folder


@contextmanager
def one_log_folder(paths: Sequence[Path]) -> Iterator[Path]:
    """Yields the folder that TensorBoard reads.

    It is the log folder of a run, a folder of runs, or a temporary folder with links to several.

    Raises:
      SettingsError: One of the paths is not a run and contains none, or has no curves yet.
    """
    for path in paths:
        check_has_curves(path)
        for run in _runs(path):
            check_links(run)
    folders = [RunFolder(path).tensorboard if _is_run(path) else path for path in paths]
    if len(paths) == 1:
        yield folders[0]
        return
    with tempfile.TemporaryDirectory(prefix="vit-board-") as links:
        for folder, name in zip(folders, _names(paths), strict=True):
            link = Path(links, name)
            make_folder(link.parent, parents=True)
            link.symlink_to(folder.resolve(), target_is_directory=True)
        yield Path(links)


def check_has_curves(path: Path) -> None:
    """Checks that a run, or one of the runs in a folder, has curves.

    Raises:
      SettingsError: It has none.
    """
    if not path.is_dir():
        raise SettingsError(f"there is no folder {path}. Give the one that `vit train` printed")
    runs = _runs(path)
    if not runs:
        raise SettingsError(
            f"{path} is not a run folder and contains none: there is no config.yaml. Give the "
            "folder that `vit train` printed, or its parent"
        )
    files = (RunFolder(run).tensorboard.glob("*/events.out.tfevents.*") for run in runs)
    if not any(any(found) for found in files):
        raise SettingsError(f"{path} has no curves yet: no metrics have been written")


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()


def _runs(path: Path) -> list[Path]:
    return [path] if _is_run(path) else [p for p in sorted(path.iterdir()) if _is_run(p)]


def _names(paths: Sequence[Path]) -> list[str]:
    """Names each run by its folder, or by its whole path where two folders have the same name."""
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise SettingsError("each run can be given once only")
    counts = Counter(path.name for path in resolved)
    return [p.name if counts[p.name] == 1 else str(p).lstrip("/") for p in resolved]

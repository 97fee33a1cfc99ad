"""Writes a data set as shards, in parallel processes."""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from types import FrameType
from typing import TypeVar

import numpy as np

from pipeline.config import DataConfig
from pipeline.data.encode import Reduction
from pipeline.data.prepare.set_facts import describe_set, write_lists
from pipeline.data.prepare.shard_file import (
    ShardReport,
    ShardTask,
    read_report,
    write_shard,
)
from pipeline.data.prepare.shard_writers import different_sizes
from pipeline.data.sources.array_files import SUFFIX
from pipeline.data.sources.records import FACTS, SetFacts, check_name, check_shards, read_facts
from pipeline.data.split import DataSource
from pipeline.errors import DataError
from pipeline.printable import printable
from pipeline.storage.folders import UNFINISHED, make_folder, remove_file, remove_folder

REPORTS = ".prepare"
UNREADABLE = "unreadable.txt"
REPAIRED = "repaired.txt"

_NAMED = 10
# Ends of the names of reports, which are those of the shards with .json.
_REPORTS = (".arrayrecord.json", f"{SUFFIX}.json")
# Errors of flock on a file system without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
_ENDING = (signal.SIGINT, signal.SIGTERM)
_UNFINISHED = re.compile(rf"\..+\.(arrayrecord|json|npy|txt)\.[0-9a-f]{{16}}\{UNFINISHED}")

Done = Callable[[int], None]
Argument = TypeVar("Argument")
Result = TypeVar("Result")


def prepare(
    source: DataSource,
    out: Path,
    config: DataConfig,
    *,
    shard_size: int,
    processes: int,
    on_done: Done,
    reduction: Reduction | None = None,
    raw: bool = False,
) -> SetFacts:
    """Writes all splits of a data set, or resumes an earlier attempt.

    Args:
      source: The data set.
      out: The output folder. It is created if it does not exist.
      config: Provides the maximum number of pixels, and whether to skip unreadable images.
      shard_size: Maximum number of examples per shard.
      processes: Number of parallel processes.
      on_done: Called with the number of examples of each finished shard.
      reduction: How large images are reduced; None keeps their size.
      raw: Whether to store pixels instead of encoded images. All images must have one size.

    Returns:
      The content of dataset.json.

    Raises:
      SettingsError: The path of the folder is not UTF-8.
      DataError: An image cannot be read and data.on_bad_image is "raise"; or the folder contains
        another data set, is in use by another process, or cannot be written to; or the images
        have several sizes and `raw` is set.
    """
    check_name(out)
    _make_folder(out)
    with _alone(out):
        tasks = plan(source, out, config, shard_size, reduction, raw=raw)
        if (out / FACTS).exists():
            return _finished(source, out, tasks, on_done)
        _make_folder(out / REPORTS, below=out)
        _remove_other_shards(out, tasks)
        _remove_temporary(out)
        try:
            reports = _write_all(tasks, processes, on_done)
        finally:
            _remove_temporary(out)
        unreadable = {name: why for r in reports for name, why in r.unreadable.items()}
        write_lists(out / UNREADABLE, [f"{name}\t{why}" for name, why in unreadable.items()])
        repaired = {name: why for r in reports for name, why in r.repaired.items()}
        write_lists(out / REPAIRED, [f"{name}\t{why}" for name, why in repaired.items()])
        if unreadable and config.on_bad_image == "raise":
            raise _unreadable_error(unreadable, out)
        if raw:
            _check_one_size(reports)
        return describe_set(source, out, tasks, reports)


def plan(
    source: DataSource,
    out: Path,
    config: DataConfig,
    shard_size: int,
    reduction: Reduction | None = None,
    *,
    raw: bool = False,
) -> list[ShardTask]:
    """Plans the shards: each split is divided, in its order, into parts of equal size."""
    tasks = []
    for name, split in source.splits.items():
        count = -(-split.num_examples // shard_size)
        bounds = [split.num_examples * i // count for i in range(count + 1)]
        for number in range(count):
            indices = np.arange(bounds[number], bounds[number + 1])
            part = split.take(indices, split.title)
            file = out / f"{name}-{number:05d}-of-{count:05d}{SUFFIX if raw else '.arrayrecord'}"
            tasks.append(
                ShardTask(
                    name, bounds[number], file, out / REPORTS, part, config.max_pixels, reduction,
                    raw,
                )
            )  # fmt: skip
    return tasks


def run_in_processes(
    function: Callable[[Argument], Result],
    arguments: Sequence[Argument],
    processes: int,
    on_result: Callable[[Argument, Result], None],
) -> None:
    """Calls a function on every argument in a pool of processes.

    Raises:
      DataError: A process was killed. Finished work is kept.
    """
    waiting = iter(arguments)
    running: dict[Future[Result], Argument] = {}
    # Spawn instead of fork, because a fork of a process with threads may hang.
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=_begin_worker) as pool:
        try:
            while True:
                # Submit only a few, because submitted arguments stay in memory.
                while (
                    len(running) < 2 * processes and (argument := next(waiting, None)) is not None
                ):
                    with _signals_held():
                        future = pool.submit(function, argument)
                    running[future] = argument
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    on_result(running.pop(future), future.result())
        except BaseException as error:
            # Do not wait for the others: a large shard may take several minutes.
            for process in active_children():
                process.kill()
            if isinstance(error, BrokenProcessPool):
                raise DataError(
                    "one of the processes was killed (out of memory?). Run the same command again "
                    "with fewer --processes to continue"
                ) from None
            raise


def _make_folder(folder: Path, below: Path | None = None) -> None:
    try:
        make_folder(folder, below=below, parents=below is None)
    except OSError as error:
        raise DataError(f"cannot create the folder {folder}: {error.strerror}") from None


def _remove_other_shards(out: Path, tasks: Sequence[ShardTask]) -> None:
    """Removes shards of an earlier attempt with another shard size or other images."""
    wanted = {task.report.name for task in tasks}
    for report in (out / REPORTS).glob("*.json"):
        if report.name.endswith(_REPORTS) and report.name not in wanted:
            remove_file(out / report.name.removesuffix(".json"))
            remove_file(report, below=out)


def _remove_temporary(out: Path) -> None:
    """Removes temporary files of killed processes; no other files have such names."""
    for path in (*out.iterdir(), *(out / REPORTS).iterdir()):
        if _UNFINISHED.fullmatch(path.name):
            remove_folder(path, below=out)


def _write_all(tasks: Sequence[ShardTask], processes: int, on_done: Done) -> list[ShardReport]:
    """Writes all shards that are not complete yet, and returns reports in the order of tasks."""
    reports: dict[Path, ShardReport] = {}
    missing = []
    for task in tasks:
        report = read_report(task)
        if report is None:
            missing.append(task)
        else:
            reports[task.file] = report
            on_done(task.split.num_examples)

    def on_result(task: ShardTask, report: ShardReport) -> None:
        reports[task.file] = report
        on_done(task.split.num_examples)

    if missing:
        run_in_processes(write_shard, missing, min(processes, len(missing)), on_result)
    return [reports[task.file] for task in tasks]


def _finished(source: DataSource, out: Path, tasks: Sequence[ShardTask], on_done: Done) -> SetFacts:
    facts = read_facts(out)
    there = {shard.file: shard.inputs for split in facts.splits.values() for shard in split.shards}
    wanted = {task.file.name: task.inputs for task in tasks}
    if there != wanted or facts.classes != tuple(map(printable, source.classes)):
        raise DataError(
            f"{out} already contains a prepared data set with other images, other shards or "
            "another --max-side, --quality or --raw. Name another folder, or remove this one"
        )
    try:
        check_shards(out, [shard for split in facts.splits.values() for shard in split.shards])
    except DataError as error:
        raise DataError(f"{error}. To prepare everything again, remove {out / FACTS}") from None
    remove_folder(out / REPORTS, below=out)
    on_done(sum(task.split.num_examples for task in tasks))
    return facts


def _check_one_size(reports: Sequence[ShardReport]) -> None:
    """Raises DataError if shards have images of different sizes; a shard has one size."""
    sizes = sorted({report.largest for report in reports if report.labels})
    if len(sizes) > 1:
        raise different_sizes(sizes[0], sizes[1])


def _unreadable_error(unreadable: dict[str, str], out: Path) -> DataError:
    shown = "\n".join(f"  {name}: {why}" for name, why in list(unreadable.items())[:_NAMED])
    images = "1 image" if len(unreadable) == 1 else f"{len(unreadable)} images"
    return DataError(
        f"{images} cannot be read (all are listed in {out / UNREADABLE}):\n{shown}\n"
        "Replace or remove them, or set data.on_bad_image=skip to leave them out. Then run the "
        "command again; finished shards are kept"
    )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Locks the folder against another `vit prepare`, if the file system supports locks."""
    try:
        handle = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"cannot read the folder {out}: {error.strerror}") from None
    try:
        try:
            flock(handle, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"another vit prepare is writing to {out}. Wait for it, or name another folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise DataError(f"cannot lock the folder {out}: {error.strerror}") from None
            # Without locks, two processes would do the work twice, but each file is renamed only
            # when it is complete.
        yield
    finally:
        os.close(handle)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Delays SIGINT and SIGTERM. Processes that are started meanwhile never receive them.

    Both signals are often sent to all processes at once. Only the main process should handle them
    and end the others.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    # Another thread may still receive a signal. Python then calls the handler in this thread.
    handlers = {number: signal.signal(number, note) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for received in came:
            signal.raise_signal(received)


def _begin_worker() -> None:
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)  # the parent is gone, so nobody needs the result

    threading.Thread(target=watch, daemon=True).start()

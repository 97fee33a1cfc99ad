"""`vit board [RUN ...]` and `vit board --kubernetes NAME`"""

from __future__ import annotations

import argparse
import io
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import FrameType

from jobs.cli import run_process
from pipeline.errors import PipelineError, SettingsError
from pipeline.runs.folder import RunFolder
from pipeline.runs.links import check_links
from pipeline.runtimes.stop_signals import stop_signals
from pipeline.storage.folders import make_folder

_EPILOG = """\
One run shows its splits on shared axes: train, validation, test. Several runs, or a folder of them,
show all side by side; runs that begin in the folder later appear on their own.

  vit board runs/digits
  vit board runs/digits runs/digits-2
  vit board                            every run in runs
  vit board --host 0.0.0.0             for other machines too: whoever reaches the port may look
  vit board --kubernetes cifar10       that of a job which was submitted with --tensorboard

Ctrl-C ends it.
"""

_DEFAULT = Path("runs")
_ANSWERS_WITHIN_S = 60.0
_LOOK_EVERY_S = 2.0


class BoardError(PipelineError):
    """TensorBoard cannot be started, or does not answer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument(
        "runs",
        type=Path,
        nargs="*",
        metavar="RUN",
        help=f"run folders, or a folder of them (default: {_DEFAULT})",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address it listens on (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 6006 on")
    parser.add_argument(
        "--wait", action="store_true", help="wait for the first curves where there are none yet"
    )
    parser.add_argument("--kubernetes", metavar="NAME", help="the TensorBoard beside this job")
    parser.add_argument("--namespace", "-n", help="of that job (default: of the kubectl context)")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Serves until Ctrl-C, SIGTERM, or SIGHUP unless that is ignored."""
    if arguments.port is not None and not 0 < arguments.port < 2**16:
        raise SettingsError(f"--port must be in 1..65535. Received: {arguments.port}")
    if arguments.kubernetes is None and arguments.namespace is not None:
        raise SettingsError("--namespace goes with --kubernetes NAME")
    if arguments.kubernetes is not None and arguments.runs:
        raise SettingsError("give run folders or --kubernetes NAME, not both")
    for number in {signal.SIGTERM, signal.SIGHUP} & {*stop_signals()}:
        signal.signal(number, _interrupt)
    try:
        if arguments.kubernetes is not None:
            return _forward(arguments)
        paths = arguments.runs or [_DEFAULT]
        if arguments.wait:
            _wait_for_curves(paths)
        with one_folder(paths) as folder:
            _say(_serve(folder, arguments.host, arguments.port))
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    return 0


def _wait_for_curves(paths: Sequence[Path]) -> None:
    """Returns once there is something to show; beside a job that begins it takes a while."""
    told = False
    while True:
        try:
            for path in paths:
                _check(path)
            return
        except SettingsError as error:
            if not told:
                print(f"waiting: {error}", file=sys.stderr, flush=True)
            told = True
            time.sleep(_LOOK_EVERY_S)


def _say(address: str) -> None:
    print(f"TensorBoard  {address}")
    print("Ctrl-C ends it", flush=True)


def _forward(arguments: argparse.Namespace) -> int:
    """Leads a port of this machine to the TensorBoard of a job on Kubernetes."""
    from k8s.forward import forward

    with forward(
        arguments.kubernetes, arguments.namespace, arguments.host, arguments.port
    ) as tunnel:
        _wait_for(tunnel.address, tunnel.check)
        _say(tunnel.address)
        return tunnel.wait()


@contextmanager
def one_folder(paths: Sequence[Path]) -> Iterator[Path]:
    """What TensorBoard is to read: a run's curves, a folder of runs, or links to several.

    Raises:
      SettingsError: One of the paths is no run and holds none, or has no curves yet.
    """
    for path in paths:
        _check(path)
        for run in _runs(path):
            check_links(run)
    curves = [RunFolder(path).tensorboard if _is_run(path) else path for path in paths]
    if len(paths) == 1:
        yield curves[0]
        return
    with tempfile.TemporaryDirectory(prefix="vit-board-") as links:
        for folder, name in zip(curves, _names(paths), strict=True):
            link = Path(links, name)
            make_folder(link.parent, parents=True)
            link.symlink_to(folder.resolve(), target_is_directory=True)
        yield Path(links)


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()


def _runs(path: Path) -> list[Path]:
    return [path] if _is_run(path) else [p for p in sorted(path.iterdir()) if _is_run(p)]


def _check(path: Path) -> None:
    if not path.is_dir():
        raise SettingsError(f"there is no folder {path}. Give the one that `vit train` printed")
    runs = _runs(path)
    if not runs:
        raise SettingsError(
            f"{path} is no run folder and holds none: there is no config.yaml. Give the folder "
            "that `vit train` printed, or the one that it is in"
        )
    files = (RunFolder(run).tensorboard.glob("*/events.out.tfevents.*") for run in runs)
    if not any(any(found) for found in files):
        raise SettingsError(f"{path} has no curves yet: its first row of metrics is not written")


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for each: its last part, or the whole path where another has the same."""
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise SettingsError("each run can be given once")
    alike = Counter(path.name for path in resolved)
    return [p.name if alike[p.name] == 1 else str(p).lstrip("/") for p in resolved]


def _serve(folder: Path, host: str, port: int | None) -> str:
    """Starts TensorBoard on threads of this process, and returns its address once it answers."""
    from tensorboard import default, program

    board = program.TensorBoard(default.get_plugins())
    where = [] if port is None else [f"--port={port}"]
    board.configure(argv=["vit board", f"--logdir={folder}", f"--host={host}", *where])
    # It notes there that its reader is experimental, and its server why it ended the process.
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            address = str(board.launch())
    except (program.TensorBoardServerException, OSError, SystemExit) as error:
        why = said.getvalue().strip().rpartition("\n")[2]
        if not isinstance(error, SystemExit):
            why = getattr(error, "msg", None) or str(error)
        raise SettingsError(
            f"cannot listen on {host}: {why}. Choose another address with --host, another port "
            "with --port"
        ) from None
    _wait_for(address)
    return address


def _wait_for(address: str, check: Callable[[], None] = lambda: None) -> None:
    """Returns once it answers; `check` raises where it never will."""
    # Not through a proxy that the environment names: the address is this machine's.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline_s = time.monotonic() + _ANSWERS_WITHIN_S
    while True:
        check()
        try:
            with opener.open(address, timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline_s:
                raise BoardError(f"TensorBoard does not answer at {address}: {error}") from None
            time.sleep(0.1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    run_process(["board", *sys.argv[1:]])

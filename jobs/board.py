"""`vit board [RUN ...]` and `vit board --kubernetes NAME`"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from jobs.cli import run_process
from pipeline.errors import SettingsError
from pipeline.monitor.tensorboard_server import serve, wait_until_ready
from pipeline.runs.log_folders import check_has_curves, one_log_folder
from pipeline.runtimes.stop_signals import stop_signals

_EPILOG = """\
For one run, the curves of training, validation and test share their axes. Several runs, or a folder
of runs, are shown side by side; runs that start in the folder later are added.

  vit board runs/digits
  vit board runs/digits runs/digits-2
  vit board                            every run in runs
  vit board --host 0.0.0.0             also for other machines: there is no access control
  vit board --kubernetes cifar10       the TensorBoard of a job submitted with --tensorboard

Press Ctrl-C to stop it.
"""

_DEFAULT = Path("runs")
_POLL_S = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    add = parser.add_argument
    add(
        "runs",
        type=Path,
        nargs="*",
        metavar="RUN",
        help=f"run folders, or a folder that contains them (default: {_DEFAULT})",
    )
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=int, help="port (default: the first free one from 6006 on)")
    add("--wait", action="store_true", help="if there are no curves yet, wait for the first ones")
    add("--kubernetes", metavar="NAME", help="show the TensorBoard of this Kubernetes job")
    add("--namespace", "-n", help="namespace of the job (default: that of the kubectl context)")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Serves until Ctrl-C or SIGTERM, or until SIGHUP unless it is ignored."""
    if arguments.port is not None and not 0 < arguments.port < 2**16:
        raise SettingsError(f"--port must be in 1..65535. Received: {arguments.port}")
    if arguments.kubernetes is None and arguments.namespace is not None:
        raise SettingsError("--namespace can be used with --kubernetes NAME only")
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
        with one_log_folder(paths) as folder:
            _print_address(serve(folder, arguments.host, arguments.port))
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    return 0


def _wait_for_curves(paths: Sequence[Path]) -> None:
    """Returns when there are curves; a job that is starting writes its first after a while."""
    is_reported = False
    while True:
        try:
            for path in paths:
                check_has_curves(path)
            return
        except SettingsError as error:
            if not is_reported:
                print(f"waiting: {error}", file=sys.stderr, flush=True)
            is_reported = True
            time.sleep(_POLL_S)


def _print_address(address: str) -> None:
    print(f"TensorBoard  {address}")
    print("Press Ctrl-C to stop it", flush=True)


def _forward(arguments: argparse.Namespace) -> int:
    """Forwards a local port to the TensorBoard of a job on Kubernetes."""
    from k8s.forward import forward

    with forward(
        arguments.kubernetes, arguments.namespace, arguments.host, arguments.port
    ) as tunnel:
        wait_until_ready(tunnel.address, tunnel.check)
        _print_address(tunnel.address)
        return tunnel.wait()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    run_process(["board", *sys.argv[1:]])

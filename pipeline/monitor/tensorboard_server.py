"""Starts TensorBoard in this process, and waits until it answers."""

from __future__ import annotations

import io
import time
import urllib.request
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

from pipeline.errors import PipelineError, SettingsError

_START_TIMEOUT_S = 60.0


class BoardError(PipelineError):
    """TensorBoard does not answer."""


def serve(folder: Path, host: str, port: int | None) -> str:
    """Starts TensorBoard on threads of this process; returns its address when it answers.

    Args:
      folder: The log directory.
      host: The address to listen on.
      port: None selects the first free port from 6006 on.

    Raises:
      SettingsError: TensorBoard cannot listen there.
      BoardError: TensorBoard does not answer.
    """
    from tensorboard import default, program

    board = program.TensorBoard(default.get_plugins())
    options = [] if port is None else [f"--port={port}"]
    board.configure(argv=["vit board", f"--logdir={folder}", f"--host={host}", *options])
    # TensorBoard writes to stderr that its reader is experimental, and why its server exited.
    messages = io.StringIO()
    try:
        with redirect_stderr(messages):
            address = str(board.launch())
    except (program.TensorBoardServerException, OSError, SystemExit) as error:
        reason = messages.getvalue().strip().rpartition("\n")[2]
        if not isinstance(error, SystemExit):
            reason = getattr(error, "msg", None) or str(error)
        raise SettingsError(
            f"cannot listen on {host}: {reason}. Choose another address with --host, or another "
            "port with --port"
        ) from None
    wait_until_ready(address)
    return address


def wait_until_ready(address: str, check: Callable[[], None] = lambda: None) -> None:
    """Returns when TensorBoard answers.

    Args:
      check: Called before each attempt; raises an error if TensorBoard will never answer.

    Raises:
      BoardError: TensorBoard does not answer in time.
    """
    # Not through a proxy from the environment: the address is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        check()
        try:
            with opener.open(address, timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline_s:
                raise BoardError(f"TensorBoard does not answer at {address}: {error}") from None
            time.sleep(0.1)

"""The signals that ask a process to save and stop."""

from __future__ import annotations

import signal

_ALWAYS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def stop_signals() -> tuple[signal.Signals, ...]:
    """Returns SIGINT, SIGTERM, SIGUSR1 and SIGHUP (sent when a terminal closes).

    SIGHUP is left out if it is ignored already, as under `nohup`.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return _ALWAYS
    return (*_ALWAYS, signal.SIGHUP)

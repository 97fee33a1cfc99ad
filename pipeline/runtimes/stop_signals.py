"""The signals that ask a process to save and stop."""

from __future__ import annotations

import signal

_ALWAYS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def stop_signals() -> tuple[signal.Signals, ...]:
    """SIGINT, SIGTERM, SIGUSR1, and SIGHUP, which a closed terminal or a lost connection sends.

    SIGHUP stays ignored where it is ignored already: `nohup` starts a command so.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return _ALWAYS
    return (*_ALWAYS, signal.SIGHUP)

"""The sockets of this process, which end a collective that waits for a lost process."""

from __future__ import annotations

import os
import socket
from contextlib import closing, suppress
from pathlib import Path

_DESCRIPTORS = Path("/proc/self/fd")


def open_sockets() -> set[tuple[int, str]]:
    """The file descriptors of all open sockets, each with its identity, such as socket:[1234]."""
    found = set()
    for entry in _DESCRIPTORS.iterdir():
        with suppress(OSError):  # it has been closed in the meantime
            identity = str(entry.readlink())
            if identity.startswith("socket:"):
                found.add((int(entry.name), identity))
    return found


def shut_down(sockets: set[tuple[int, str]]) -> None:
    """Shuts down those of these sockets that are still open, which wakes the threads that use them.

    Their descriptors stay open, because their owner will close them.
    """
    for descriptor, _ in sockets & open_sockets():
        with suppress(OSError), closing(socket.socket(fileno=os.dup(descriptor))) as copy:
            copy.shutdown(socket.SHUT_RDWR)

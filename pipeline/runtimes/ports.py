"""Free TCP ports of this host."""

from __future__ import annotations

import random
import socket
from contextlib import closing

from pipeline.errors import SettingsError


def is_free(port: int, address: str = "") -> bool:
    """Whether a server can listen on this port now."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def find_free_ports(count: int, draw: random.Random) -> int:
    """Returns the first of `count` consecutive free ports below Linux's ephemeral range.

    Raises:
      SettingsError: No such ports were found.
    """
    for _ in range(100):
        first = draw.randrange(20000, 32000 - count)
        if all(is_free(port) for port in range(first, first + count)):
            return first
    raise SettingsError(
        f"found no {count} consecutive free ports on this host: choose the first with --port"
    )

"""The workers of an elastic MPIJob that can run processes now, for horovodrun.

The MPI operator also writes /etc/mpi/discover_hosts.sh with the pods that run. It is not used,
because the kubelet updates files of a ConfigMap up to a minute late, and because a pod runs before
its sshd answers: horovodrun would fail to start a process there, and exclude the host for a while.
"""

from __future__ import annotations

import shlex
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import SettingsError
from pipeline.storage.write import replace_file

# An sshd of OpenSSH 9.8 or later refuses a client for a while that connects more often than once a
# second and does not log in (PerSourcePenalties).
_EVERY_S = 5.0
_CONNECT_TIMEOUT_S = 3.0
_MISSES = 2  # A single lost connection must not make all processes connect again.
_MOST_AT_ONCE = 64


class AnsweringHosts:
    """Asks the sshd of each worker, and keeps a script that prints the hosts that answer.

    Args:
      read: Returns the number of processes of each worker. Called each time, because the operator
        changes the hostfile when somebody scales the job.
      port: Port of the sshd.
      folder: For the script, which must be on a file system that allows programs.

    Attributes:
      script: Prints a line `HOST:SLOTS` for each host that answers.
    """

    def __init__(self, read: Callable[[], dict[str, int]], port: int, folder: Path) -> None:
        self._read, self._port, self._list = read, port, folder / "hosts"
        self._misses: dict[str, int] = {}
        self._list.write_text("")
        self.script = folder / "discover_hosts.sh"
        self.script.write_text(f"#!/bin/sh\nexec cat {shlex.quote(str(self._list))}\n")
        self.script.chmod(0o700)

    def update(self) -> dict[str, int]:
        """Asks all workers at once. Returns the number of processes of each host that answers.

        Raises:
          SettingsError: The list of workers cannot be read.
        """
        slots = self._read()
        with ThreadPoolExecutor(min(len(slots), _MOST_AT_ONCE)) as pool:
            answers = dict(zip(slots, pool.map(self._answers, slots), strict=True))
        # A host that has not answered yet is absent.
        misses = {
            host: 0 if answered else self._misses.get(host, _MISSES) + 1
            for host, answered in answers.items()
        }
        self._misses = misses
        found = {host: count for host, count in slots.items() if misses[host] < _MISSES}
        replace_file(self._list, "".join(f"{host}:{count}\n" for host, count in found.items()))
        return found

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Context in which a thread updates the list every 5 seconds."""
        ended = threading.Event()

        def update() -> None:
            while not ended.wait(_EVERY_S):
                # The last list is still the best one.
                with suppress(SettingsError, OSError):
                    self.update()

        thread = threading.Thread(target=update, name="hosts", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _answers(self, host: str) -> bool:
        return answers(host, self._port)


def answers(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False


def interface_to(host: str, port: int) -> str | None:
    """Returns the name of the interface through which packets to a host leave; None if unknown."""
    from pipeline.runtimes.interfaces import list_interfaces

    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))  # Sends nothing.
        own = probe.getsockname()[0]
        return next((one.name for one in list_interfaces() if one.address == own), None)
    return None

"""The membership of a process in an elastic job of horovodrun (`--min-np`).

Horovod's driver decides which processes train together. A process asks for its new rank within
`hvd.init()`, where the driver waits until all processes have asked or failed. The driver starts a
process when the others wait for it already, so they wait while it builds and compiles.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import PeerLost
from pipeline.runtimes.generation import Generation

_MAX_ATTEMPTS = 5
_VARIABLES = (
    "HOROVOD_ELASTIC", "HOROVOD_HOSTNAME", "HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK",
    "HOROVOD_LOCAL_SIZE", "HOROVOD_CROSS_RANK", "HOROVOD_CROSS_SIZE",
    "HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT",
)  # fmt: skip


class DriverMembership:
    """Has the interface of `Membership`, which describes what is not described here.

    Args:
      environment: The variables that horovodrun has set.

    Attributes:
      is_told_late: Whether only the first exchange with the others shows if they train already.
      device_place: Local rank and local size of this process, which select its GPU.
    """

    joins_late = False
    is_told_late = True
    stop_reason: str | None = None

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.on_broken: Callable[[], None] = lambda: None
        self._variables = {name: environment[name] for name in _VARIABLES if name in environment}
        self.device_place = (
            int(environment.get("HOROVOD_LOCAL_RANK", 0)),
            int(environment.get("HOROVOD_LOCAL_SIZE", 1)),
        )
        self._updated = threading.Event()
        self._generations = self._attempts = 0
        from horovod.runner.elastic.worker import WorkerNotificationManager

        self._notifications = WorkerNotificationManager()
        self._notifications.init()
        self._notifications.register_listener(self)

    @classmethod
    def connect(cls, environment: Mapping[str, str]) -> DriverMembership | None:
        """The membership in the job of an elastic driver; None if there is none."""
        return cls(environment) if environment.get("HOROVOD_ELASTIC") == "1" else None

    @property
    def change_pending(self) -> bool:
        self._attempts = 0  # the processes train
        return self._updated.is_set()

    def on_hosts_updated(self, timestamp: float, result: Any) -> None:
        """Called by Horovod, on the chief only, when hosts were added or removed."""
        self._updated.set()

    def report(self, *, step: int | None = None, leaving: bool | None = None) -> None:
        if leaving:
            self._updated.set()

    def wait_for_generation(self) -> Generation:
        self._attempts += 1
        if self._attempts > _MAX_ATTEMPTS:
            raise PeerLost("horovodrun has no place for this process any more")
        self._updated.clear()
        self._generations += 1
        variables = self._variables
        places = {
            name: int(variables.get(f"HOROVOD_{name.upper()}", 0))
            for name in Generation._fields
            if name.endswith(("rank", "size"))
        }
        return Generation(
            number=self._generations, **places, paused=False, changes=(), variables=variables
        )

    def leave(self) -> None:
        pass

    def close(self) -> None:
        self._notifications.remove_listener(self)

"""Where the launchers of an elastic job on several nodes meet: at the coordinator.

The coordinator is the launcher that decides on the group. At first this is node 0. When it is gone,
the others meet at the next node in --hosts that answers. A launcher asks all others for their Role,
and `choose` says what follows. A launcher that was restarted does the same.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import closing

from pipeline.launch.addresses import resolve
from pipeline.launch.bounded_http import Response
from pipeline.launch.coordinator import ASK_S, Coordinator, NodeLink
from pipeline.launch.job import Job
from pipeline.launch.rendezvous import Connection, RemoteLink, RemoteStore
from pipeline.launch.rendezvous_host import RendezvousHost
from pipeline.launch.reports import Role
from pipeline.launch.signatures import Signer
from pipeline.launch.store import Answer
from pipeline.runtimes.messages import read
from pipeline.runtimes.worker_reports import GroupView

_LOG = logging.getLogger(__name__)

_ASK_AGAIN_S = 0.3
_TICK_S = 0.01
_TIMEOUT_S, _MIN_TIMEOUT_S = 3.0, 0.5


def choose(own: int, attempt: str | None, roles: Mapping[int, Role]) -> int | None:
    """Chooses the node to meet at.

    Args:
      own: Index of this node.
      attempt: The attempt that this launcher has taken part in; None if it has just been started.
      roles: The roles of the other launchers that answer, by node.

    Returns:
      A node whose launcher is the coordinator; this node if its launcher becomes the coordinator;
      None if the launchers must be asked again.
    """
    taking_part = _taking_part(attempt, roles)
    coordinators = [index for index, role in taking_part.items() if role.coordinator == index]
    if coordinators:
        return min(coordinators)
    if attempt is None:
        return own if own == 0 and not taking_part else None
    # One that has a coordinator either reaches it, or will notice that it is gone.
    others_first = any(
        index < own or role.coordinator is not None for index, role in taking_part.items()
    )
    return None if others_first else own


def _taking_part(attempt: str | None, roles: Mapping[int, Role]) -> dict[int, Role]:
    return {
        index: role
        for index, role in roles.items()
        if role.attempt is not None and attempt in (None, role.attempt)
    }


class Meeting:
    """The place of this launcher among those of the job.

    Args:
      job: The job.
      signer: Signs the messages.
      host: The server of this launcher, which becomes the coordinator if it must.

    Attributes:
      attempt: The attempt of the job; None until a coordinator was found.
      coordinator: Index of the coordinator's node; None while there is none.
    """

    def __init__(self, job: Job, signer: Signer, host: RendezvousHost) -> None:
        self.attempt: str | None = None
        self.coordinator: int | None = None
        self._job, self._signer, self._host = job, signer, host
        self._address = ""
        self._start_s = time.monotonic()
        # Launchers that were silent before. The others do not wait long for them again.
        self._silent: set[int | None] = set()
        self._store: Answer = _no_store
        host.services.role = self.role

    def role(self) -> Role:
        """What this launcher tells the others."""
        return Role(self.attempt, self.coordinator)

    @property
    def group(self) -> Coordinator | None:
        """The group, if this launcher is the coordinator."""
        return self._host.services.group

    def find(self, view: GroupView) -> None:
        """Asks the other launchers once, and meets at one of them or becomes the coordinator.

        Args:
          view: The group as this launcher knows it, with which it continues as the coordinator.

        Raises:
          OSError: There is no coordinator yet. The message is for the user.
        """
        roles, problems = self._ask_all()
        own = self._job.index
        found = choose(own, self.attempt, roles)
        if found is None:
            raise problems.get(0) or OSError(self._describe(roles))
        if found == own:
            if self.attempt is None and self._silent and self._is_early:
                # A silent launcher may be the coordinator of a job that has lost this node.
                raise OSError(self._describe(roles))
            lost = set(range(len(self._job.hosts))) - _taking_part(self.attempt, roles).keys()
            attempt = self.attempt or secrets.token_hex(16)
            group = self._host.begin(attempt, view, lost - {own})
            self._store = group.stores.answer
        else:
            attempt = roles[found].attempt or ""
            # Not resolved again: a slow name server must not look like a lost node.
            self._address = resolve(self._job.hosts[found])
            self._store = RemoteStore(lambda: self._connect(found)).answer
        if self.attempt is not None:
            _LOG.warning("the launchers meet at node %d (%s)", found, self._job.hosts[found])
        self.attempt, self.coordinator = attempt, found

    def lose(self) -> None:
        """Takes that the coordinator is gone."""
        self._silent = {self.coordinator} - {None}
        self.coordinator, self._store = None, _no_store

    def forget(self) -> None:
        """Takes that the coordinator was gone before this launcher took part in the job."""
        self.lose()
        self.attempt = None

    def advance(self) -> None:
        """Makes the changes of the group that are due, if this launcher is the coordinator."""
        if (group := self.group) is not None:
            group.advance()

    def stop(self, reason: str) -> bool:
        """Asks all workers to save and stop. Returns False if this is not the coordinator."""
        group = self.group
        return group is not None and group.stop(reason)

    def answer_store(self, method: str, path: str, body: bytes) -> Response:
        """Answers a request to the key-value store of the coordinator."""
        return self._store(method, path, body)

    def open(self) -> NodeLink | RemoteLink:
        """Opens a connection to the coordinator's group.

        Raises:
          OSError: There is no coordinator.
        """
        group = self.group
        if group is not None:
            return NodeLink(lambda: group, is_local=True)
        return RemoteLink(self.connect())

    def connect(self) -> Connection:
        """Opens a connection to the coordinator on another node.

        Raises:
          OSError: There is no coordinator.
        """
        if self.coordinator is None:
            raise OSError("the launchers of this job have not met yet")
        return self._connect(self.coordinator)

    @property
    def _is_early(self) -> bool:
        waited_s = time.monotonic() - self._start_s
        return waited_s < min(self._job.heartbeat_timeout_s, self._job.wait_s / 2)

    def _connect(self, index: int) -> Connection:
        timeout_s = min(_TIMEOUT_S, max(_MIN_TIMEOUT_S, self._job.heartbeat_timeout_s))
        return self._connection(index, self._address, timeout_s)

    def _connection(self, index: int, address: str, timeout_s: float) -> Connection:
        hosts = self._job.hosts
        where = (address, self._host.port)
        return Connection(where, hosts[index], self._signer, len(hosts), timeout_s)

    def _ask_all(self) -> tuple[dict[int, Role], dict[int, OSError]]:
        """The roles of the launchers that answer, and why the others do not."""
        roles: dict[int, Role] = {}
        problems: dict[int, OSError] = {}

        def ask(index: int) -> None:
            try:
                roles[index] = self._ask(index)
            except OSError as error:
                problems[index] = error

        others = [index for index in range(len(self._job.hosts)) if index != self._job.index]
        for index in others:
            threading.Thread(target=ask, args=(index,), daemon=True).start()
        start_s = time.monotonic()
        while True:
            found, failed = dict(roles), dict(problems)
            unknown = set(others) - found.keys() - failed.keys()
            limit_s = _ASK_AGAIN_S if unknown <= self._silent else ASK_S
            taking_part = _taking_part(self.attempt, found)
            if any(role.coordinator == index for index, role in taking_part.items()):
                return found, failed
            if not unknown or time.monotonic() - start_s > limit_s:
                self._silent = {*unknown}
                return found, failed
            time.sleep(_TICK_S)

    def _ask(self, index: int) -> Role:
        address = resolve(self._job.hosts[index])
        with closing(self._connection(index, address, 2 * ASK_S)) as connection:
            status, body = connection.ask("GET", "/role")
        if status != 200:
            raise OSError(f"{address} returned status {status}")
        try:
            return read(Role, body)
        except ValueError as error:
            raise OSError(f"the launcher at {address} is a different version ({error})") from None

    def _describe(self, roles: Mapping[int, Role]) -> str:
        hosts = self._job.hosts
        names = ", ".join(f"{index} ({hosts[index]})" for index in sorted(roles))
        return f"these nodes answer, but none of them is the coordinator yet: {names or 'none'}"


def _no_store(method: str, path: str, body: bytes) -> Response:
    """Answers while there is no coordinator: generations of earlier ones are over."""
    return Response(410)

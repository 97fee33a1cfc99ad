"""Node 0's part of the meeting: it serves, and is there until all have heard how it ended."""

from __future__ import annotations

import errno
import random
import secrets
import threading
import time
from collections.abc import Callable

from pipeline.errors import PeerLost, PipelineError, SettingsError
from pipeline.launch.addresses import find_own_address, resolve
from pipeline.launch.bounded_http import Server
from pipeline.launch.job import DEFAULT_PORT, Job
from pipeline.launch.registry import Registry
from pipeline.launch.rendezvous import Connection, Strangers, serve, tell
from pipeline.launch.reports import Report, View
from pipeline.launch.signatures import Signer
from pipeline.launch.store import Store
from pipeline.runtimes.ports import find_free_ports

_TICK_S, _RETRY_S = 0.05, 0.3
# An earlier launcher on this host may still be ending.
PORT_TAKEN_WAIT_S = 10.0
# How long node 0 goes on answering when its own processes have ended.
LAST_WORDS_S = 5.0


class Hosting:
    """Serves the registry and the store of a job.

    Args:
      report: Of this node, for another launcher that may have node 0's place.

    Attributes:
      address: This host's IPv4 address towards the other nodes.
      problem: Why node 0's name does not lead here; empty where it does.

    Raises:
      SettingsError: The port is taken, or no interface leads to the other nodes.
    """

    def __init__(self, job: Job, report: Report, signer: Signer, strangers: Strangers) -> None:
        self._job, self._report, self._signer = job, report, signer
        self._ranks = len(job.hosts) * job.slots
        self._closed = threading.Event()
        self.registry = Registry(job.hosts, secrets.token_hex(16), job.facts)
        self.store = Store(self._ranks)
        self.address = find_own_address(job.hosts)
        self.problem = ""
        self._server = self._serve(strangers)
        if len(job.hosts) > 1:
            threading.Thread(target=self._verify, daemon=True).start()

    @property
    def port(self) -> int:
        return self._server.port

    def close(self) -> None:
        """Ends when all have heard how it ended, or do not ask any more."""
        end_s = time.monotonic() + LAST_WORDS_S
        while not self.registry.everyone_knows() and time.monotonic() < end_s:
            time.sleep(_TICK_S)
        self._closed.set()
        self._server.close()

    def _serve(self, strangers: Strangers) -> Server:
        job = self._job
        port = DEFAULT_PORT if job.port is None else job.port
        if job.port is None and len(job.hosts) == 1:
            is_row = job.runtime == "multi_worker"
            port = find_free_ports(job.slots + 1, random.SystemRandom()) if is_row else 0
        end_s = time.monotonic() + min(PORT_TAKEN_WAIT_S, job.wait_s)
        while True:
            try:
                return serve(
                    self.registry,
                    self.store.answer,
                    (self.address, port),
                    job.hosts[0],
                    self._signer,
                    strangers,
                    self._ranks,
                )
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise SettingsError(f"port {port}: {error.strerror}") from None
                self._ask_who_is_there(port, time.monotonic() > end_s)
                time.sleep(_RETRY_S)

    def _ask_who_is_there(self, port: int, last: bool) -> None:
        """Raises where another launcher, or for too long something else, has node 0's port."""
        try:
            view = self._tell(port)
        except OSError as error:
            who = str(error)
        else:
            if view.error:
                raise error_of(view)
            who = "another launcher serves there, perhaps of an earlier job"
        if last:
            raise SettingsError(
                f"port {port} of {self._job.hosts[0]} is taken ({who}): end what has it, or give "
                "another --port"
            )

    def _verify(self) -> None:
        """Sees whether node 0's name leads here, or to another launcher with index 0."""
        while not self._closed.is_set() and not self.registry.has_started:
            try:
                view = self._tell(self.port)
            except OSError as error:
                self.problem = str(error)
            else:
                self.problem = ""
                if view.attempt == self.registry.attempt:
                    return
                if view.error:
                    self.registry.fail(view.error_code, view.error)
            self._closed.wait(_RETRY_S)

    def _tell(self, port: int) -> View:
        hosts = self._job.hosts
        connection = Connection((resolve(hosts[0]), port), hosts[0], self._signer, len(hosts), 1.0)
        try:
            return tell(connection, self._report)
        finally:
            connection.close()


def error_of(view: View) -> PipelineError:
    """The error that a view tells."""
    kind: Callable[[str], PipelineError] = SettingsError if view.error_code == 2 else PeerLost
    return kind(view.error or "")

"""The rendezvous on node 0: it serves until all nodes know the outcome of the job."""

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
from pipeline.launch.coordinator import Coordinator
from pipeline.launch.job import DEFAULT_PORT, Job
from pipeline.launch.registry import Registry
from pipeline.launch.rendezvous import Connection, RejectedRequests, send_report, serve
from pipeline.launch.reports import Report, View
from pipeline.launch.rules import find_rules
from pipeline.launch.signatures import Signer
from pipeline.launch.store import Answer, Store
from pipeline.runtimes.ports import find_free_ports

_TICK_S, _RETRY_S = 0.05, 0.3
# An earlier launcher on this host may still be shutting down.
PORT_TAKEN_WAIT_S = 10.0
# How long node 0 continues to serve after its own processes have ended.
CLOSING_S = 5.0


class RendezvousHost:
    """Serves the registry and the key-value store of a job.

    Args:
      job: The job, with this host as node 0.
      report: Report of this node, sent to any other launcher that occupies node 0's port.
      signer: Signs the messages.
      rejected_requests: Counts rejected requests.

    Attributes:
      group: Decides on the generations of an elastic job; None for other jobs.
      answer_store: Answers requests to the key-value store.
      address: IPv4 address of this host as seen by the other nodes.
      problem: Why the name of node 0 does not lead to this host; empty if it does.

    Raises:
      SettingsError: The port is in use, or no network interface leads to the other nodes.
    """

    def __init__(
        self, job: Job, report: Report, signer: Signer, rejected_requests: RejectedRequests
    ) -> None:
        self._job, self._report, self._signer = job, report, signer
        self._ranks = len(job.hosts) * job.slots
        self._closed = threading.Event()
        self.registry = Registry(
            job.hosts,
            secrets.token_hex(16),
            job.facts,
            lost_after_s=job.timeouts.lost_after_s,
            is_elastic=job.is_elastic,
        )
        self.group = Coordinator(find_rules(job), self.registry.attempt) if job.is_elastic else None
        store = Store(self._ranks) if self.group is None else self.group.stores
        self.answer_store: Answer = store.answer
        self.address = find_own_address(job.hosts)
        self.problem = ""
        self._server = self._serve(rejected_requests)
        if len(job.hosts) > 1:
            threading.Thread(target=self._verify, daemon=True).start()

    @property
    def port(self) -> int:
        return self._server.port

    def close(self) -> None:
        """Waits until all nodes know the outcome or stop asking, then stops the server."""
        end_s = time.monotonic() + CLOSING_S
        while not self.registry.all_nodes_know() and time.monotonic() < end_s:
            time.sleep(_TICK_S)
        self._closed.set()
        self._server.close()

    def _serve(self, rejected_requests: RejectedRequests) -> Server:
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
                    self.answer_store,
                    (self.address, port),
                    job.hosts[0],
                    self._signer,
                    rejected_requests,
                    self._ranks,
                    self.group,
                )
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise SettingsError(f"port {port}: {error.strerror}") from None
                self._identify_server(port, time.monotonic() > end_s)
                time.sleep(_RETRY_S)

    def _identify_server(self, port: int, last: bool) -> None:
        """Raises if another launcher has the port of node 0, or if the port stays in use."""
        try:
            view = self._send_report(port)
        except OSError as error:
            who = str(error)
        else:
            if view.error:
                raise view_error(view)
            who = "another launcher is running there, perhaps of an earlier job"
        if last:
            raise SettingsError(
                f"port {port} of {self._job.hosts[0]} is in use ({who}). Stop that process, or "
                "give another --port"
            )

    def _verify(self) -> None:
        """Checks whether the name of node 0 leads here, or to another launcher with index 0."""
        while not self._closed.is_set() and not self.registry.has_started:
            try:
                view = self._send_report(self.port)
            except OSError as error:
                self.problem = str(error)
            else:
                self.problem = ""
                if view.attempt == self.registry.attempt:
                    return
                if view.error:
                    self.registry.fail(view.error_code, view.error)
            self._closed.wait(_RETRY_S)

    def _send_report(self, port: int) -> View:
        hosts = self._job.hosts
        connection = Connection((resolve(hosts[0]), port), hosts[0], self._signer, len(hosts), 1.0)
        try:
            return send_report(connection, self._report)
        finally:
            connection.close()


def view_error(view: View) -> PipelineError:
    """Converts the error in a view to an exception."""
    kind: Callable[[str], PipelineError] = SettingsError if view.error_code == 2 else PeerLost
    return kind(view.error or "")

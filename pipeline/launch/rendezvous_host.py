"""The rendezvous on node 0: it serves until all nodes know the outcome of the job.

In an elastic job on several nodes, each node has one, and `begin` makes it the coordinator.
"""

from __future__ import annotations

import errno
import random
import secrets
import threading
import time
from collections.abc import Callable, Collection

from pipeline.errors import PeerLost, PipelineError, SettingsError
from pipeline.launch.addresses import find_own_address, resolve
from pipeline.launch.bounded_http import Server
from pipeline.launch.coordinator import Coordinator
from pipeline.launch.job import DEFAULT_PORT, Job
from pipeline.launch.registry import Registry
from pipeline.launch.rendezvous import Connection, RejectedRequests, Services, send_report, serve
from pipeline.launch.reports import Report, View
from pipeline.launch.rules import find_rules
from pipeline.launch.signatures import Signer
from pipeline.launch.store import Store
from pipeline.runtimes.ports import find_free_ports
from pipeline.runtimes.worker_reports import GroupView

_TICK_S, _RETRY_S = 0.05, 0.3
# An earlier launcher on this host may still be shutting down.
PORT_TAKEN_WAIT_S = 10.0
# How long node 0 continues to serve after its own processes have ended.
CLOSING_S = 5.0


class RendezvousHost:
    """Serves the registry and the key-value store of a job.

    Args:
      job: The job.
      report: Report of this node, sent to any other launcher that occupies its port.
      signer: Signs the messages.
      rejected_requests: Counts rejected requests.

    Attributes:
      services: What the server answers with.
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
        self.services = Services()
        others = [host for index, host in enumerate(job.hosts) if index != job.index]
        self.address = find_own_address([job.host, *others])
        self.problem = ""
        if not job.has_meetings:
            self._begin(secrets.token_hex(16))
        self._server = self._serve(rejected_requests)
        if not job.has_meetings and len(job.hosts) > 1:
            threading.Thread(target=self._verify, daemon=True).start()

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def registry(self) -> Registry | None:
        """The reports of all nodes; None if another launcher is the coordinator."""
        return self.services.registry

    def begin(self, attempt: str, view: GroupView, lost: Collection[int]) -> Coordinator:
        """Makes this launcher the coordinator of an elastic job.

        Args:
          attempt: Identifier of the attempt of the job.
          view: The group as this node knew it, if there was another coordinator before.
          lost: Nodes whose launchers do not answer.
        """
        group = Coordinator(find_rules(self._job), attempt, own=self._job.index)
        if view.version > 0:
            group.continue_from(view, lost)
        self._begin(attempt, group)
        if self._job.index == 0:
            threading.Thread(target=self._verify, daemon=True).start()
        return group

    def _begin(self, attempt: str, group: Coordinator | None = None) -> None:
        job, services = self._job, self.services
        if job.is_elastic and group is None:
            group = Coordinator(find_rules(job), attempt)
        registry = Registry(
            job.hosts,
            attempt,
            job.facts,
            lost_after_s=job.timeouts.lost_after_s,
            own=job.index,
            is_elastic=job.is_elastic,
        )
        services.store = Store(self._ranks).answer if group is None else group.stores.answer
        services.registry, services.group = registry, group

    def close(self) -> None:
        """Waits until all nodes know the outcome or stop asking, then stops the server."""
        end_s = time.monotonic() + CLOSING_S
        registry = self.registry
        while registry and not registry.all_nodes_know() and time.monotonic() < end_s:
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
                    self.services,
                    (self.address, port),
                    job.host,
                    self._signer,
                    rejected_requests,
                    self._ranks,
                )
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise SettingsError(f"port {port}: {error.strerror}") from None
                self._identify_server(port, time.monotonic() > end_s)
                time.sleep(_RETRY_S)

    def _identify_server(self, port: int, last: bool) -> None:
        """Raises if another launcher has the port of this node, or if the port stays in use."""
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
                f"port {port} of {self._job.host} is in use ({who}). Stop that process, or "
                "give another --port"
            )

    def _verify(self) -> None:
        """Checks whether the name of node 0 leads here, or to another launcher with index 0."""
        registry = self.registry
        while registry and not self._closed.is_set() and not registry.has_started:
            try:
                view = self._send_report(self.port)
            except OSError as error:
                self.problem = str(error)
            else:
                self.problem = ""
                if view.attempt == registry.attempt:
                    return
                if view.error:
                    registry.fail(view.error_code, view.error)
            self._closed.wait(_RETRY_S)

    def _send_report(self, port: int) -> View:
        host, nodes = self._job.host, len(self._job.hosts)
        connection = Connection((resolve(host), port), host, self._signer, nodes, 1.0)
        try:
            return send_report(connection, self._report)
        finally:
            connection.close()


def view_error(view: View) -> PipelineError:
    """Converts the error in a view to an exception."""
    kind: Callable[[str], PipelineError] = SettingsError if view.error_code == 2 else PeerLost
    return kind(view.error or "")

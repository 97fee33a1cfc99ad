"""The rendezvous as seen by one launcher: waits for the other nodes and exchanges their state."""

from __future__ import annotations

import logging
import math
import secrets
import socket
import threading
import time
from dataclasses import replace

from pipeline.errors import PeerLost, SettingsError, Stopped
from pipeline.launch.addresses import resolve
from pipeline.launch.coordinator import Coordinator
from pipeline.launch.job import DEFAULT_PORT, Job
from pipeline.launch.meeting import Meeting
from pipeline.launch.registry import Registry
from pipeline.launch.remote_group import RemoteGroup
from pipeline.launch.rendezvous import (
    Connection,
    RejectedRequests,
    RemoteStore,
    TokenMismatch,
    send_report,
)
from pipeline.launch.rendezvous_host import CLOSING_S, PORT_TAKEN_WAIT_S, RendezvousHost, view_error
from pipeline.launch.reports import MAX_NAME_LENGTH, MAX_TEXT_LENGTH, Report, View
from pipeline.launch.signatures import TOKEN, Signer
from pipeline.launch.store import Answer, LocalStore
from pipeline.runtimes.worker_reports import GroupView

_LOG = logging.getLogger(__name__)

_TICK_S = 0.05
_HEARTBEAT_S = 1.0
_HEARTBEAT_BEFORE_START_S = 0.3
_FIRST_NOTE_S, _NOTE_EVERY_S = 3.0, 30.0


class RendezvousClient:
    """This node's connection to the other nodes. On node 0 it also hosts the rendezvous.

    A thread sends a report to node 0 about once per second and receives a view of the job. In an
    elastic job on several nodes, another node may take the place of node 0 (meeting.py).

    Attributes:
      answer_store: Answers requests to the key-value store, which is on node 0 at first.
      rejected_requests: Counts requests of clients that do not belong to the job.

    Raises:
      SettingsError: The port is in use.
    """

    def __init__(self, job: Job) -> None:
        self._job, self._signer = job, Signer(job.token)
        self.rejected_requests = RejectedRequests()
        hostname = socket.gethostname()[:MAX_NAME_LENGTH]
        self._report = Report(job.index, secrets.token_hex(16), hostname, job.facts)
        self._delivered: Report | None = None
        self._view: View | None = None
        self._attempt: str | None = None
        self._own_address = self._server_address = "127.0.0.1"
        self._problem = ""
        self._heard_s = time.monotonic()
        self._rejected_since_s: float | None = None
        self._wake, self._closed = threading.Event(), threading.Event()
        self._host: RendezvousHost | None = None
        self._local: LocalStore | None = None
        self._port = job.port or DEFAULT_PORT
        if job.index == 0 or job.has_meetings:
            self._host = RendezvousHost(job, self._report, self._signer, self.rejected_requests)
            self._own_address = self._server_address = self._host.address
            self._port = self._host.port
        self._meeting: Meeting | None = None
        self.answer_store: Answer = RemoteStore(self._connect).answer
        if self._host is not None and job.has_meetings:
            self._meeting = Meeting(job, self._signer, self._host)
            self.answer_store = self._meeting.answer_store
        elif self._host is not None and self._host.services.store is not None:
            self.answer_store = self._host.services.store
        if job.runtime == "horovod" and not job.is_elastic:
            self._local = LocalStore(self.answer_store, self.rejected_requests.record, job.slots)
        threading.Thread(target=self._report_loop, daemon=True).start()

    def wait_for_all(self, received: list[int]) -> None:
        """Waits until the launchers of all nodes have arrived; of an elastic job, node 0.

        Args:
          received: Signals that the launcher received. A signal ends the wait.

        Raises:
          SettingsError: The nodes were started with different settings.
          PeerLost: A node did not arrive within wait_s, or arrived twice.
          Stopped: A signal arrived.
        """
        start_s = time.monotonic()
        note_s = start_s + _FIRST_NOTE_S
        while (view := self._view) is None or view.phase != "running" or view.error:
            now_s = time.monotonic()
            if view is not None and view.error:
                raise view_error(view)
            self._check_admitted(now_s)
            if received:
                raise Stopped("a stop was requested before the job started")
            if now_s - start_s > self._job.wait_s:
                text = f"after --wait-s {self._job.wait_s:g}: {self._describe_missing(view)}"
                if self._registry is not None:
                    self._registry.fail(76, f"node 0 ({self._job.host}) gave up {text}")
                raise PeerLost(f"gave up {text}")
            if now_s > note_s:
                note_s = now_s + _NOTE_EVERY_S
                waited = f"{now_s - start_s:.0f} of {self._job.wait_s:g} s"
                _LOG.warning("%s: %s", waited, self._describe_missing(view))
            time.sleep(_TICK_S)

    def _check_admitted(self, now_s: float) -> None:
        # A launcher of an earlier job, with a different token, may still be shutting down there.
        # Half of wait_s, so that this message comes before the one that the node gave up.
        limit_s = min(PORT_TAKEN_WAIT_S, self._job.wait_s / 2)
        if self._rejected_since_s is not None and now_s - self._rejected_since_s >= limit_s:
            raise SettingsError(
                f"{self._node_0} uses a different {TOKEN} than this node, {self._job.index} "
                f"({self._job.host}). Set it to the same value on all nodes"
            )

    @property
    def server(self) -> tuple[str, int]:
        """IPv4 address and port of the rendezvous on node 0, as this node reaches it."""
        return self._server_address, self._port

    @property
    def store(self) -> tuple[str, int]:
        """Address and port of the key-value store for this node's Horovod processes."""
        return self._local.address if self._local else ("", 0)

    @property
    def own_address(self) -> str:
        """The IPv4 address of this node, as seen by the other nodes."""
        return self._own_address

    @property
    def _node_0(self) -> str:
        return f"the launcher of node 0 ({self._job.hosts[0]}:{self._port})"

    def open_group(self) -> Coordinator | RemoteGroup:
        """Connects to the group of an elastic job, after `wait_for_all`."""
        job = self._job
        if self._meeting is not None:
            return RemoteGroup(
                job.index,
                self._report.uid,
                self._meeting,
                job.heartbeat_timeout_s,
                job.elastic_timeout_s,
                lambda: self._view.error if self._view else None,
            )
        if self._host is None or self._host.services.group is None:
            raise RuntimeError("the job is not elastic")
        return self._host.services.group

    def update_report(
        self, code: int | None = None, failure: tuple[int, str] | None = None
    ) -> None:
        """Updates this node's report and sends it immediately."""
        said = self._report
        failure = failure and (failure[0], failure[1][-MAX_TEXT_LENGTH:])
        self._report = replace(
            said,
            code=said.code if code is None else code,
            failure=failure or said.failure,
        )
        self._wake.set()

    def fail(self, text: str) -> None:
        """Reports to all nodes that this one cannot start because of its settings."""
        if self._registry is not None:
            self._registry.fail(2, text)
        self.update_report(code=2, failure=(2, text))
        self._closed.wait(_HEARTBEAT_BEFORE_START_S)

    def job_error(self) -> str | None:
        """Why the job cannot continue for a reason other than a failed process, or None."""
        view = self._view
        if view is not None and view.error:
            return view.error
        node_0 = self._node_0
        if view is not None and view.attempt != self._attempt:
            return f"{node_0} was restarted. Start all nodes again"
        lost_after_s = self._job.timeouts.lost_after_s
        if time.monotonic() - self._heard_s > lost_after_s:
            return f"{node_0} has not answered for {lost_after_s:g} s ({self._problem})"
        return None

    def codes(self) -> list[int | None]:
        """The exit codes by node; None if a node has not ended, or is not known to have ended."""
        view = self._view
        codes: list[int | None] = [None] * len(self._job.hosts) if view is None else [*view.codes]
        codes[self._job.index] = self._report.code
        return codes

    def failures(self) -> list[tuple[int, str]]:
        """Code and description of the first failure on each node that has failed."""
        own = [self._report.failure] if self._report.failure else []
        return own + self.other_failures()

    def other_failures(self) -> list[tuple[int, str]]:
        """Code and description of the first failure on each other node that has failed."""
        failures = self._view.failures if self._view else []
        return [
            (failure[0], failure[1])
            for index, failure in enumerate(failures)
            if failure is not None and index != self._job.index
        ]

    def wait_for_end(self, code: int, received: list[int]) -> None:
        """Reports this node's exit code and waits for the codes of the others.

        A failed node need not wait long for the others. A successful node must wait, because the
        job succeeds only if all nodes do. Node 0 must stay to serve the others.
        """
        self.update_report(code=code)
        patient = code == 0 or self._registry is not None
        end_s = time.monotonic() + (math.inf if patient else CLOSING_S)
        while not self._is_complete() and not self.job_error() and time.monotonic() < end_s:
            if received:
                return
            time.sleep(_TICK_S)

    def leave(self) -> None:
        """Tells node 0 that this node has left an elastic job, which continues without it."""
        self._report = replace(self._report, left=True)
        self._wake.set()
        end_s = time.monotonic() + CLOSING_S
        while self._delivered is not self._report and time.monotonic() < end_s:
            time.sleep(_TICK_S)

    def present_codes(self) -> list[int | None]:
        """As `codes`, of the nodes that are present. An elastic job may end without the others."""
        missing = self._view.missing if self._view is not None else ()
        return [code for index, code in enumerate(self.codes()) if index not in missing]

    def _is_complete(self) -> bool:
        codes = self.present_codes() if self._job.is_elastic else self.codes()
        return self._delivered is self._report and None not in codes

    def close(self) -> None:
        """Stops communicating. Node 0 first waits until all nodes know the outcome."""
        if self._host is not None:
            self._host.close()
        if self._local is not None:
            self._local.close()
        self._closed.set()
        self._wake.set()

    def _report_loop(self) -> None:
        while not self._closed.is_set():
            try:
                report = self._report
                view = self._exchange(replace(report, attempt=self._attempt))
                self._delivered = report
                started = view.phase == "running"
                if started and self._attempt is None:
                    self._attempt = view.attempt
                self._view, self._heard_s = view, time.monotonic()
                self._problem, self._rejected_since_s = "", None
            except OSError as error:
                self._problem = str(error)
                if not isinstance(error, TokenMismatch):
                    self._rejected_since_s = None
                elif self._rejected_since_s is None:
                    self._rejected_since_s = time.monotonic()
                started = self._attempt is not None
                if self._meeting is not None and not started:
                    self._meeting.forget()
            self._wake.wait(_HEARTBEAT_S if started else _HEARTBEAT_BEFORE_START_S)
            self._wake.clear()

    def _exchange(self, report: Report) -> View:
        if self._meeting is not None and self._meeting.attempt is None:
            self._meeting.find(GroupView())
        if self._registry is not None:
            return self._registry.update(report)
        if self._attempt is None and self._meeting is None:
            # Not resolved again after the start: a slow name server must not look like a lost node.
            self._server_address = resolve(self._job.hosts[0])
        connection = self._connect()
        try:
            view = send_report(connection, report)
            self._own_address = connection.own_address
            return view
        finally:
            connection.close()

    @property
    def _registry(self) -> Registry | None:
        """The reports of all nodes, if this launcher keeps them."""
        return None if self._host is None else self._host.registry

    def _connect(self) -> Connection:
        if self._meeting is not None:
            return self._meeting.connect()
        hosts = self._job.hosts
        return Connection(self.server, hosts[0], self._signer, len(hosts))

    def _describe_missing(self, view: View | None) -> str:
        job = self._job
        node_0 = f"node 0 ({job.hosts[0]}:{self._port})"
        if job.index == 0 and self._problem:
            return self._problem
        if self._registry is None and (view is None or self._problem):
            return (
                f"{self._node_0} does not answer: {self._problem}. Is it running with the same "
                "--hosts and --port, and is the port open between the nodes?"
            )
        if view is not None and view.phase == "other":
            return f"an earlier attempt is still shutting down at {node_0}"
        missing = view.missing if view else [i for i in range(len(job.hosts)) if i]
        names = ", ".join(f"{index} ({job.hosts[index]})" for index in missing)
        if not missing:
            return f"two launchers at {node_0} have the same index"
        problem = self._host.problem if self._host else ""
        hint = f" From here, {problem}." if problem else ""
        return (
            f"these nodes have not arrived: {names}.{hint} Is `vit launch` running on each, with "
            f"the same --hosts, --port and {TOKEN}, and does {node_0} resolve to "
            f"{self._report.hostname}?"
        )

"""A launcher's side of the meeting at node 0: to wait for the others, and to hear of them."""

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
from pipeline.launch.hosting import LAST_WORDS_S, PORT_TAKEN_WAIT_S, Hosting, error_of
from pipeline.launch.job import DEFAULT_PORT, Job
from pipeline.launch.registry import LOST_AFTER_S
from pipeline.launch.rendezvous import Connection, NotAdmitted, RemoteStore, Strangers, tell
from pipeline.launch.reports import LONGEST_NAME, LONGEST_TEXT, Report, View
from pipeline.launch.signatures import TOKEN, Signer
from pipeline.launch.store import LocalStore

_LOG = logging.getLogger(__name__)

_TICK_S = 0.05
_BEAT_S = 1.0
_BEAT_BEFORE_START_S = 0.3
_FIRST_NOTE_S, _NOTE_EVERY_S = 3.0, 30.0


class Meeting:
    """This node's place among the others. Node 0's serves, and is there until all have heard.

    Raises:
      SettingsError: The port is taken.
    """

    def __init__(self, job: Job) -> None:
        self._job, self._signer, strangers = job, Signer(job.token), Strangers()
        hostname = socket.gethostname()[:LONGEST_NAME]
        self._report = Report(job.index, secrets.token_hex(16), hostname, job.facts)
        self._delivered: Report | None = None
        self._view: View | None = None
        self._attempt: str | None = None
        self._own_address = self._server_address = "127.0.0.1"
        self._problem = ""
        self._heard_s = time.monotonic()
        self._refused_s: float | None = None
        self._wake, self._closed = threading.Event(), threading.Event()
        self._hosting: Hosting | None = None
        self._local: LocalStore | None = None
        self._port = job.port or DEFAULT_PORT
        if job.index == 0:
            self._hosting = Hosting(job, self._report, self._signer, strangers)
            self._own_address = self._server_address = self._hosting.address
            self._port = self._hosting.port
        if job.runtime == "horovod":
            store = self._hosting.store if self._hosting else RemoteStore(self._connect)
            self._local = LocalStore(store.answer, strangers.refuse, job.slots)
        threading.Thread(target=self._speak, daemon=True).start()

    def wait_for_all(self, received: list[int]) -> None:
        """Returns when all launchers have come.

        Args:
          received: Signals; one that comes meanwhile ends the waiting.

        Raises:
          SettingsError: The nodes were started differently.
          PeerLost: They did not come within wait_s, or one came twice.
          Stopped: By a signal.
        """
        start_s = time.monotonic()
        note_s = start_s + _FIRST_NOTE_S
        while (view := self._view) is None or view.phase != "running" or view.error:
            now_s = time.monotonic()
            if view is not None and view.error:
                raise error_of(view)
            self._check_admitted(now_s)
            if received:
                raise Stopped("asked to stop before the job had started")
            if now_s - start_s > self._job.wait_s:
                text = f"after --wait-s {self._job.wait_s:g}: {self._what_is_missing(view)}"
                if self._hosting is not None:
                    self._hosting.registry.fail(76, f"node 0 ({self._job.host}) gave up {text}")
                raise PeerLost(f"gave up {text}")
            if now_s > note_s:
                note_s = now_s + _NOTE_EVERY_S
                waited = f"{now_s - start_s:.0f} of {self._job.wait_s:g} s"
                _LOG.warning("%s: %s", waited, self._what_is_missing(view))
            time.sleep(_TICK_S)

    def _check_admitted(self, now_s: float) -> None:
        # An earlier job's launcher, which had another token, may still be ending there.
        limit_s = min(PORT_TAKEN_WAIT_S, self._job.wait_s)
        if self._refused_s is not None and now_s - self._refused_s >= limit_s:
            raise SettingsError(
                f"{self._node_0} has another {TOKEN} than this node, {self._job.index} "
                f"({self._job.host}). Set it to the same value on all nodes"
            )

    @property
    def server(self) -> tuple[str, int]:
        """IPv4 address and port of node 0's rendezvous, as this node reaches it."""
        return self._server_address, self._port

    @property
    def store(self) -> tuple[str, int]:
        """Where Horovod's processes of this node find its key-value store; see LocalStore."""
        return self._local.address if self._local else ("", 0)

    @property
    def own_address(self) -> str:
        """This node's IPv4 address towards the other nodes."""
        return self._own_address

    @property
    def _node_0(self) -> str:
        return f"the launcher of node 0 ({self._job.hosts[0]}:{self._port})"

    def say(self, code: int | None = None, failure: tuple[int, str] | None = None) -> None:
        """Adds to what this node reports, and sends it now."""
        said = self._report
        failure = failure and (failure[0], failure[1][-LONGEST_TEXT:])
        self._report = replace(
            said,
            code=said.code if code is None else code,
            failure=failure or said.failure,
        )
        self._wake.set()

    def fail(self, text: str) -> None:
        """Tells all nodes that this one cannot go on, for a reason in its settings."""
        if self._hosting is not None:
            self._hosting.registry.fail(2, text)
        self.say(code=2, failure=(2, text))
        self._closed.wait(_BEAT_BEFORE_START_S)

    def trouble(self) -> str | None:
        """Why the job cannot go on, where no process is the reason."""
        view = self._view
        if view is not None and view.error:
            return view.error
        node_0 = self._node_0
        if view is not None and view.attempt != self._attempt:
            return f"{node_0} was started again. Start all nodes again"
        if time.monotonic() - self._heard_s > LOST_AFTER_S:
            return f"{node_0} has not answered for {LOST_AFTER_S:g} s ({self._problem})"
        return None

    def codes(self) -> list[int | None]:
        """The nodes' codes; None where the node has not ended, or is not known to have."""
        view = self._view
        codes: list[int | None] = [None] * len(self._job.hosts) if view is None else [*view.codes]
        codes[self._job.index] = self._report.code
        return codes

    def failures(self) -> list[tuple[int, str]]:
        """Code and description of the first failure on each node that has one."""
        own = [self._report.failure] if self._report.failure else []
        return own + self.other_failures()

    def other_failures(self) -> list[tuple[int, str]]:
        """Those of the other nodes."""
        failures = self._view.failures if self._view else []
        return [
            (failure[0], failure[1])
            for index, failure in enumerate(failures)
            if failure is not None and index != self._job.index
        ]

    def wait_for_end(self, code: int, received: list[int]) -> None:
        """Tells this node's code, and waits for the others'.

        A node that has failed need not know how all others ended; one that is done must, since it
        is done only if all are, and node 0 stays to serve.
        """
        self.say(code=code)
        patient = code == 0 or self._hosting is not None
        end_s = time.monotonic() + (math.inf if patient else LAST_WORDS_S)
        while not self._all_is_said() and not self.trouble() and time.monotonic() < end_s:
            if received:
                return
            time.sleep(_TICK_S)

    def _all_is_said(self) -> bool:
        return self._delivered is self._report and None not in self.codes()

    def close(self) -> None:
        """Node 0's server ends when all have heard how it ended, or do not ask any more."""
        if self._hosting is not None:
            self._hosting.close()
        if self._local is not None:
            self._local.close()
        self._closed.set()
        self._wake.set()

    def _speak(self) -> None:
        while not self._closed.is_set():
            try:
                report = self._report
                view = self._exchange(replace(report, attempt=self._attempt))
                self._delivered = report
                started = view.phase == "running"
                if started and self._attempt is None:
                    self._attempt = view.attempt
                self._view, self._heard_s = view, time.monotonic()
                self._problem, self._refused_s = "", None
            except OSError as error:
                self._problem = str(error)
                if not isinstance(error, NotAdmitted):
                    self._refused_s = None
                elif self._refused_s is None:
                    self._refused_s = time.monotonic()
                started = self._attempt is not None
            self._wake.wait(_BEAT_S if started else _BEAT_BEFORE_START_S)
            self._wake.clear()

    def _exchange(self, report: Report) -> View:
        if self._hosting is not None:
            return self._hosting.registry.update(report)
        if self._attempt is None:
            # Later a slow name server is no reason to be taken for lost.
            self._server_address = resolve(self._job.hosts[0])
        connection = self._connect()
        try:
            view = tell(connection, report)
            self._own_address = connection.own_address
            return view
        finally:
            connection.close()

    def _connect(self) -> Connection:
        hosts = self._job.hosts
        return Connection(self.server, hosts[0], self._signer, len(hosts))

    def _what_is_missing(self, view: View | None) -> str:
        job = self._job
        node_0 = f"node 0 ({job.hosts[0]}:{self._port})"
        if self._hosting is None and (view is None or self._problem):
            return (
                f"{self._node_0} does not answer: {self._problem}. Is it started there, "
                "with the same --hosts and --port, and is the port open between the nodes?"
            )
        if view is not None and view.phase == "other":
            return f"an earlier attempt is still ending at {node_0}"
        missing = view.missing if view else [i for i in range(len(job.hosts)) if i]
        names = ", ".join(f"{index} ({job.hosts[index]})" for index in missing)
        if not missing:
            return f"two launchers have the same index at {node_0}"
        problem = self._hosting.problem if self._hosting else ""
        hint = f" From here, {problem}." if problem else ""
        return (
            f"these nodes have not come: {names}.{hint} Is `vit launch` started on each, with the "
            f"same --hosts, --port and {TOKEN}, and does {node_0} lead to {self._report.hostname}?"
        )

"""A launcher's side of the meeting at node 0: to wait for the others, and to hear of them."""

from __future__ import annotations

import errno
import logging
import math
import random
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import HTTPServer

from pipeline.distribute.job import DEFAULT_PORT, Job, find_free_ports
from pipeline.distribute.registry import LOST_AFTER_S, Registry, Report, View
from pipeline.distribute.rendezvous import resolve, serve, tell
from pipeline.errors import PeerLost, PipelineError, SettingsError, Stopped

_LOG = logging.getLogger(__name__)

_TICK_S = 0.05
_BEAT_S = 1.0
_BEAT_BEFORE_START_S = 0.3
_FIRST_NOTE_S, _NOTE_EVERY_S = 3.0, 30.0
# An earlier launcher on this host may still be ending.
_PORT_TAKEN_WAIT_S = 10.0
# How long a node that has failed goes on asking what the cause was, and node 0 goes on answering.
_LAST_WORDS_S = 5.0


class Meeting:
    """This node's place among the others. Node 0's serves, and is there until all have heard.

    Raises:
      SettingsError: The port is taken.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._report = Report(job.index, secrets.token_hex(8), socket.gethostname(), job.facts)
        self._delivered: Report | None = None
        self._view: View | None = None
        self._attempt: str | None = None
        self._own_address = self._server_address = "127.0.0.1"
        self._problem = ""
        self._heard_s = time.monotonic()
        self._wake, self._closed = threading.Event(), threading.Event()
        self._registry: Registry | None = None
        self._http: HTTPServer | None = None
        self._port = job.port or DEFAULT_PORT
        if job.index == 0:
            self._registry = Registry(job.hosts, self._report.uid, job.facts)
            self._http = self._serve(self._registry)
            self._server_address = self._bind_address() or self._server_address
            self._port = self._http.server_port
            if len(job.hosts) > 1:
                threading.Thread(target=self._verify, args=[self._registry], daemon=True).start()
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
                raise _error(view)
            if received:
                raise Stopped("asked to stop before the job had started")
            if now_s - start_s > self._job.wait_s:
                text = f"after --wait-s {self._job.wait_s:g}: {self._what_is_missing(view)}"
                if self._registry is not None:
                    self._registry.fail(76, f"node 0 ({self._job.host}) gave up {text}")
                raise PeerLost(f"gave up {text}")
            if now_s > note_s:
                note_s = now_s + _NOTE_EVERY_S
                waited = f"{now_s - start_s:.0f} of {self._job.wait_s:g} s"
                _LOG.warning("%s: %s", waited, self._what_is_missing(view))
            time.sleep(_TICK_S)

    @property
    def server(self) -> tuple[str, int]:
        """IPv4 address and port of node 0's rendezvous, as this node reaches it."""
        return self._server_address, self._port

    @property
    def own_address(self) -> str:
        """This node's IPv4 address towards the other nodes."""
        if self._registry is not None:
            return self._registry.server_address or "127.0.0.1"
        return self._own_address

    def say(self, code: int | None = None, failure: tuple[int, str] | None = None) -> None:
        """Adds to what this node reports, and sends it now."""
        said = self._report
        self._report = replace(
            said,
            code=said.code if code is None else code,
            failure=failure or said.failure,
        )
        self._wake.set()

    def fail(self, text: str) -> None:
        """Tells all nodes that this one cannot go on, for a reason in its settings."""
        if self._registry is not None:
            self._registry.fail(2, text)
        self.say(code=2, failure=(2, text))
        self._closed.wait(_BEAT_BEFORE_START_S)

    def trouble(self) -> str | None:
        """Why the job cannot go on, where no process is the reason."""
        view = self._view
        if view is not None and view.error:
            return view.error
        node_0 = f"the launcher of node 0 ({self._job.hosts[0]}:{self._port})"
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
        patient = code == 0 or self._registry is not None
        end_s = time.monotonic() + (math.inf if patient else _LAST_WORDS_S)
        while not self._all_is_said() and not self.trouble() and time.monotonic() < end_s:
            if received:
                return
            time.sleep(_TICK_S)

    def _all_is_said(self) -> bool:
        return self._delivered is self._report and None not in self.codes()

    def close(self) -> None:
        """Node 0's server ends when all have heard how it ended, or do not ask any more."""
        if self._registry is not None and self._http is not None:
            end_s = time.monotonic() + _LAST_WORDS_S
            while not self._registry.everyone_knows() and time.monotonic() < end_s:
                time.sleep(_TICK_S)
            self._http.shutdown()
            self._http.server_close()
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
                if self._registry is None:
                    self._problem = ""
            except OSError as error:
                self._problem = str(error)
                started = self._attempt is not None
            self._wake.wait(_BEAT_S if started else _BEAT_BEFORE_START_S)
            self._wake.clear()

    def _exchange(self, report: Report) -> View:
        if self._registry is not None:
            return self._registry.update(report)
        if self._attempt is None:
            # Later a slow name server is no reason to be taken for lost.
            self._server_address = resolve(self._job.hosts[0])
        view, self._own_address = tell(self._server_address, self._port, report)
        return view

    def _verify(self, registry: Registry) -> None:
        """Sees whether node 0's name leads here, or to another launcher with index 0."""
        while not self._closed.is_set() and self._attempt is None:
            try:
                address = resolve(self._job.hosts[0])
                view, _ = tell(address, self._port, self._report, timeout_s=1.0)
            except OSError as error:
                self._problem = str(error)
            else:
                self._problem = ""
                if view.attempt == registry.attempt:
                    return
                if view.error:
                    registry.fail(view.error_code, view.error)
            self._closed.wait(_BEAT_BEFORE_START_S)

    def _bind_address(self) -> str:
        """Nothing outside need reach a server of one host."""
        host = self._job.hosts[0]
        if len(self._job.hosts) == 1 or host == "localhost":
            return "127.0.0.1"
        return host if host.startswith("127.") else ""

    def _serve(self, registry: Registry) -> HTTPServer:
        job = self._job
        port = self._port
        if job.port is None and len(job.hosts) == 1:
            count = job.slots + 1
            is_row = job.runtime == "multi_worker"
            port = find_free_ports(count, random.SystemRandom()) if is_row else 0
        end_s = time.monotonic() + min(_PORT_TAKEN_WAIT_S, job.wait_s)
        while True:
            try:
                return serve(
                    registry, self._bind_address(), port, job.slots, job.runtime == "horovod"
                )
            except ModuleNotFoundError as error:
                raise SettingsError(
                    f"Horovod is not installed in {sys.prefix} ({error}): tools/build_horovod.sh "
                    "builds it, or give --runtime multi_worker"
                ) from None
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise SettingsError(f"port {port}: {error.strerror}") from None
                self._ask_who_is_there(port, time.monotonic() > end_s)
                time.sleep(_BEAT_BEFORE_START_S)

    def _ask_who_is_there(self, port: int, last: bool) -> None:
        """Raises where another launcher, or for too long something else, has node 0's port."""
        host = self._job.hosts[0]
        try:
            view, _ = tell(resolve(host), port, self._report, timeout_s=1.0)
        except OSError as error:
            who = str(error)
        else:
            if view.error:
                raise _error(view)
            who = "another launcher serves there, perhaps of an earlier job"
        if last:
            raise SettingsError(
                f"port {port} of {host} is taken ({who}): end what has it, or give another --port"
            )

    def _what_is_missing(self, view: View | None) -> str:
        job = self._job
        node_0 = f"node 0 ({job.hosts[0]}:{self._port})"
        if self._registry is None and (view is None or self._problem):
            return (
                f"the launcher of {node_0} does not answer: {self._problem}. Is it started there, "
                "with the same --hosts and --port, and is the port open between the nodes?"
            )
        if view is not None and view.phase == "other":
            return f"an earlier attempt is still ending at {node_0}"
        missing = view.missing if view else [i for i in range(len(job.hosts)) if i]
        names = ", ".join(f"{index} ({job.hosts[index]})" for index in missing)
        if not missing:
            return f"two launchers have the same index at {node_0}"
        hint = f" From here, {self._problem}." if self._problem else ""
        return (
            f"these nodes have not come: {names}.{hint} Is `vit launch` started on each, with the "
            f"same --hosts and --port, and does {node_0} lead to {self._report.hostname}?"
        )


def _error(view: View) -> PipelineError:
    kind: Callable[[str], PipelineError] = SettingsError if view.error_code == 2 else PeerLost
    return kind(view.error or "")

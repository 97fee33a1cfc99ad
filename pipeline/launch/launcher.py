"""Starts the processes of one node and supervises them until they end.

Every node runs one launcher with the same hosts, slots and command. The launchers meet at the
rendezvous on node 0 (rendezvous_client.py), start their processes (processes.py) when all nodes are
present, and end together.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType

from pipeline.errors import SettingsError
from pipeline.launch.elastic_launcher import run_elastic
from pipeline.launch.job import Job, environment, rank_variables
from pipeline.launch.private_network import PrivateNetwork
from pipeline.launch.processes import Guard, Process, ProcessExit, exit_code, job_exit_code
from pipeline.launch.rendezvous_client import RendezvousClient
from pipeline.runtimes.interfaces import (
    GLOO,
    NCCL,
    check_interfaces,
    find_interface,
    list_interfaces,
)
from pipeline.runtimes.ports import is_free
from pipeline.runtimes.proxies import bypass_proxies
from pipeline.runtimes.stop_signals import stop_signals

_LOG = logging.getLogger(__name__)

_TICK_S = 0.05
_MAX_TAIL_LINE = 400


@dataclass(frozen=True)
class Outcome:
    """The exit code of this node's launcher, and a message that is empty on success."""

    code: int
    message: str = ""


def launch(job: Job) -> Outcome:
    """Runs this node's part of the job until it ends.

    Raises:
      SettingsError: The nodes were started with different settings, or a port is in use.
      PeerLost: Not all nodes arrived.
      Stopped: A signal arrived before the start.
    """
    # The guard and the network fork, which is only safe before the rendezvous starts threads.
    with (
        closing(Guard()) as guard,
        _private_network(job) as namespaces,
        _received() as received,
        closing(RendezvousClient(job)) as rendezvous,
    ):
        rendezvous.wait_for_all(received)
        try:
            if job.is_elastic:
                return Outcome(*run_elastic(job, rendezvous, guard, received))
            processes = _start(job, rendezvous, guard, namespaces)
        except SettingsError as error:
            rendezvous.fail(str(error))
            raise
        node = Node(job, processes, rendezvous, received)
        ends = node.run()
        code = exit_code(ends)
        rendezvous.wait_for_end(code, received)
        return _outcome(job, ends, rendezvous, node.note)


class Node:
    """Supervises the running processes of this node.

    Args:
      job: The job.
      processes: The processes of this node, by local rank.
      rendezvous: Connection to the other nodes.
      received: Signals that the launcher received. Handled signals are removed.

    Attributes:
      note: Why the launcher ended processes that had not failed themselves.
    """

    def __init__(
        self,
        job: Job,
        processes: Sequence[Process],
        rendezvous: RendezvousClient,
        received: list[int],
    ) -> None:
        self.note = ""
        self._job, self._processes = job, processes
        self._timeouts = job.timeouts
        self._rendezvous, self._received = rendezvous, received
        self._ends: list[ProcessExit] = []
        self._failed = self._terminated = False
        self._terminate_at_s = self._kill_at_s = math.inf
        self._interrupts = 0

    def run(self) -> list[ProcessExit]:
        """Waits for all processes. Returns how they ended, in that order."""
        while len(self._ends) < len(self._processes):
            self._forward_signals()
            self._notice_ends()
            self._notice_others()
            self._end_overdue()
            time.sleep(_TICK_S)
        return self._ends

    def _forward_signals(self) -> None:
        while self._received:
            number = self._received.pop(0)
            self._interrupts += number == signal.SIGINT
            for process in self._processes:
                process.forward(number)
            # A user who presses Ctrl-C twice does not want to wait for a checkpoint.
            grace_s = self._job.grace_s if self._interrupts < 2 else self._timeouts.kill_after_s
            self._kill_at_s = min(self._kill_at_s, time.monotonic() + grace_s)

    def _notice_ends(self) -> None:
        for process in self._processes:
            if process.end is not None or (end := process.poll()) is None:
                continue
            self._ends.append(end)
            if end.status < 0:  # a killed process cannot report it itself
                process.say(f"{_name(self._job, end)} ended: it {end.describe()}")
            if end.code == 75:
                self._kill_at_s = min(self._kill_at_s, time.monotonic() + self._job.grace_s)
            elif end.code != 0:
                self._fail(self._timeouts.own_end_s)
                cause = _cause(self._ends)
                tail = self._processes[cause.rank % self._job.slots].tail()
                self._rendezvous.update_report(
                    failure=(cause.code, _describe(self._job, cause, tail))
                )

    def _notice_others(self) -> None:
        if (job_error := self._rendezvous.job_error()) is not None:
            self.note = self.note or job_error
            self._fail(self._timeouts.own_end_after_loss_s)
        elif self._rendezvous.other_failures():
            self._fail(self._timeouts.own_end_s)

    def _fail(self, own_end_s: float) -> None:
        if not self._failed:
            self._failed = True
            self._terminate_at_s = time.monotonic() + own_end_s
            self._kill_at_s = min(
                self._kill_at_s, self._terminate_at_s + self._timeouts.kill_after_s
            )

    def _end_overdue(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._kill_at_s:
            if not self._failed:
                self.note = f"not all processes ended within --grace-s {self._job.grace_s:g}"
            for process in self._processes:
                process.stop(signal.SIGKILL, because_of_another=self._failed)
        elif now_s >= self._terminate_at_s and not self._terminated:
            self._terminated = True
            for process in self._processes:
                process.stop(signal.SIGTERM, because_of_another=True)


@contextmanager
def _received() -> Iterator[list[int]]:
    """Collects signals in a list in place of their default action."""
    numbers: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        numbers.append(number)

    before = {number: signal.signal(number, receive) for number in stop_signals()}
    try:
        yield numbers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _private_network(job: Job) -> Iterator[tuple[int, ...]]:
    """The namespaces of the job's private network; empty if it uses the host's network."""
    if not job.is_private:
        yield ()
        return
    with closing(PrivateNetwork()) as network:
        yield network.namespaces


def _start(
    job: Job, rendezvous: RendezvousClient, guard: Guard, namespaces: Sequence[int]
) -> list[Process]:
    first = job.index * job.slots
    inherited = dict(os.environ)
    if job.is_private:
        inherited[NCCL] = "lo"  # a configured interface belongs to the host's network
    else:
        check_interfaces(inherited, job.host, job.runtime == "horovod", list_interfaces())
    interface = "" if job.runtime == "multi_worker" else _choose_interface(rendezvous)
    if job.runtime == "multi_worker" and not job.is_private:
        _check_ports(job, rendezvous.server[1] + 1 + first)
        _LOG.warning("%s", _open_ports(job, rendezvous.server[1] + 1 + first))
    server = rendezvous.server if job.runtime == "multi_worker" else rendezvous.store
    direct = bypass_proxies(os.environ, [*job.hosts, rendezvous.server[0]])
    return [
        Process(
            rank=rank,
            command=job.command,
            environment=environment(
                inherited, rank_variables(job, rank - first, server, interface) | direct
            ),
            prefix=f"[rank {rank} {job.host}] " if rank else "",
            guard=guard,
            namespaces=namespaces,
        )
        for rank in range(first, first + job.slots)
    ]


def _open_ports(job: Job, first: int) -> str:
    last = first + job.slots - 1
    ports = f"port {first}" if first == last else f"ports {first} to {last}"
    return (
        f"TensorFlow listens on {ports} of all interfaces of {job.host}, and executes any graph "
        "that a client sends (--trust-network)"
    )


def _choose_interface(rendezvous: RendezvousClient) -> str:
    return os.environ.get(GLOO) or find_interface(rendezvous.own_address)


def _check_ports(job: Job, first: int) -> None:
    for local_rank in range(job.slots):
        if not is_free(first + local_rank):
            raise SettingsError(
                f"port {first + local_rank} of {job.host} is in use, but rank "
                f"{job.index * job.slots + local_rank} needs it. Give another --port"
            )


def _cause(ends: Sequence[ProcessExit]) -> ProcessExit:
    """The exit of the process that caused the others to fail."""
    code = exit_code(ends)
    return min((end for end in ends if end.code == code), key=lambda end: end.by_launcher)


def _name(job: Job, end: ProcessExit) -> str:
    return f"rank {end.rank} of {len(job.hosts) * job.slots} on {job.host}"


def _describe(job: Job, end: ProcessExit, tail: Sequence[str]) -> str:
    text = f"rank {end.rank} on {job.host} {end.describe()}"
    if tail:
        lines = "\n".join(f"  | {line[:_MAX_TAIL_LINE]}" for line in tail)
        text = f"the last lines of rank {end.rank} on {job.host}:\n{lines}\n{text}"
    return text


def _outcome(
    job: Job, ends: Sequence[ProcessExit], rendezvous: RendezvousClient, note: str
) -> Outcome:
    own = exit_code(ends)
    job_error = rendezvous.job_error()
    failures = sorted(rendezvous.failures(), key=_severity)
    code = job_exit_code(own, [*rendezvous.codes(), *(code for code, _ in failures)])
    if job_error and code == 0:
        code = 76
    if code == 0:
        return Outcome(0)
    if code == 75 and not note:
        return Outcome(75)
    lines = [failures[0][1]] if failures else []
    mine = ", ".join(f"rank {end.rank} {end.describe()}" for end in ends)
    lines.append(f"on this node ({job.host}): {mine}")
    lines += [text for text in (note or job_error,) if text]
    return Outcome(code, "\n".join(lines))


def _severity(failure: tuple[int, str]) -> int:
    """The rank of a failure in the order of `exit_code`; 0 is the most severe."""
    return {2: 0, 3: 1, 75: 3, 76: 4}.get(failure[0], 2)

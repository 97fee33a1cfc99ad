"""Waits until all processes of a job have started, before the runtime connects them.

TensorFlow and Horovod wait for other processes in C++. Meanwhile they handle no signal and do not
say which processes are missing. TensorFlow waits for an hour; Horovod aborts the process. The
processes therefore gather here first.
"""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from urllib.parse import SplitResult, urlsplit

from pipeline.errors import PeerLost, SettingsError
from pipeline.runtimes.ports import is_free
from pipeline.runtimes.proxies import host_of

# Any rank may log here, not only the chief.
_LOG = logging.getLogger("pipeline.runtimes.kinds.joined")

LIMIT_S = 600.0
_FIRST_REPORT_S, _REPORT_EVERY_S = 20.0, 30.0
_TICK_S = 0.1
_STATUS_S = 1.0
_ANSWER_S = 5.0
_LONGEST_LINE = 1 << 16
# An earlier process on this host may not have exited yet.
_PORT_TAKEN_WAIT_S = 10.0


class Deadline:
    """Periodically reports which processes are missing, and raises an error after a time limit.

    Args:
      limit_s: Time limit from now, in seconds.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s, self._start_s = limit_s, time.monotonic()
        self._report_s = self._start_s + _FIRST_REPORT_S

    def wait(self, missing: Callable[[], str], reports: bool, tick_s: float = _TICK_S) -> None:
        """Sleeps for `tick_s` seconds.

        Args:
          missing: Returns which processes are missing, and why if that is known.
          reports: Whether this process logs the missing processes from time to time. Rank 0 does;
            the others do only if rank 0 itself is missing.
          tick_s: Seconds to sleep.

        Raises:
          PeerLost: The time limit has passed.
        """
        now_s = time.monotonic()
        if now_s - self._start_s > self._limit_s:
            raise PeerLost(
                f"gave up after {self._limit_s:g} s: {missing()}. Check that all processes were "
                "started and are running, and that no firewall blocks traffic between the hosts. "
                "Then start all of them again"
            )
        if reports and now_s > self._report_s:
            self._report_s = now_s + _REPORT_EVERY_S
            waited = f"{now_s - self._start_s:.0f} of {self._limit_s:g} s"
            _LOG.info(f"waited {waited}: {missing()}")
        time.sleep(tick_s)


def _name(missing: Iterable[str]) -> str:
    names = list(missing)
    have = "has" if len(names) == 1 else "have"
    return f"{len(names)} of the job's processes {have} not arrived: {', '.join(names)}"


def gather_by_store(
    server: tuple[str, int], rank: int, size: int, hosts: Sequence[str], limit_s: float
) -> None:
    """Waits for all Horovod processes, through the rendezvous server that Horovod itself uses.

    Args:
      server: HOROVOD_GLOO_RENDEZVOUS_ADDR and HOROVOD_GLOO_RENDEZVOUS_PORT.
      rank: Rank of this process.
      size: Number of processes.
      hosts: Host of each rank; empty if the launcher has not set it.
      limit_s: Time limit in seconds.

    Raises:
      PeerLost: A process did not arrive within the time limit.
    """

    def describe() -> str:
        # Called only for a report, because it sends one request per missing rank.
        late = [other for other in missing if not _is_there(server, other)] or missing
        return _name(f"rank {other}" + (f" on {hosts[other]}" if hosts else "") for other in late)

    deadline, missing, registered = Deadline(limit_s), list(range(size)), False
    while missing:
        try:
            if not registered:
                _request(server, "PUT", rank, socket.gethostname())
                registered = True
            while missing and _is_there(server, missing[0]):
                missing.pop(0)
            if missing:
                deadline.wait(describe, reports=rank == 0 or missing[0] == 0)
        except (OSError, HTTPException) as error:
            # The message omits the path, which may be a secret (see store.py).
            text = (
                f"the rendezvous at {_url(server).netloc} does not answer "
                f"({error or type(error).__name__})"
            )
            deadline.wait(partial(str, text), reports=True)


def _is_there(server: tuple[str, int], rank: int) -> bool:
    return _request(server, "GET", rank) == HTTPStatus.OK


def _request(server: tuple[str, int], method: str, rank: int, value: str | None = None) -> int:
    url = _url(server)
    with closing(HTTPConnection(url.netloc, timeout=_ANSWER_S)) as connection:
        connection.request(method, f"{url.path}/gathering/{rank}", value)
        answer = connection.getresponse()
        answer.read()
        if answer.status not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
            raise HTTPException(f"HTTP status {answer.status}")
        return answer.status


def _url(server: tuple[str, int]) -> SplitResult:
    """URL of the rendezvous. The address may include a path; Horovod appends the port to it."""
    return urlsplit(f"http://{server[0]}:{server[1]}")


def gather_by_address(addresses: Sequence[str], rank: int, limit_s: float = LIMIT_S) -> None:
    """Waits for all TensorFlow workers, at the address on which rank 0 will serve later.

    Args:
      addresses: host:port of each rank.
      rank: Rank of this process.
      limit_s: Time limit in seconds.

    Raises:
      PeerLost: A process did not arrive within the time limit, or two arrived as the same rank.
      SettingsError: The processes have different lists of addresses, or the port of this process
        is in use.
    """
    deadline = Deadline(limit_s)
    _wait_for_port(addresses[rank], limit_s)
    if rank == 0:
        _Rank0(addresses, deadline).gather()
    else:
        _wait_for_rank_0(addresses, rank, deadline)


def _wait_for_port(address: str, limit_s: float) -> None:
    end_s = time.monotonic() + min(_PORT_TAKEN_WAIT_S, limit_s)
    port = int(address.rpartition(":")[2])
    while not is_free(port):
        if time.monotonic() > end_s:
            raise SettingsError(
                f"port {port} of this host is in use, but this process must serve {address}. "
                "Another process here has the same rank in the job. To run a command beside the "
                "job, remove TF_CONFIG: env -u TF_CONFIG vit ..."
            )
        time.sleep(_TICK_S)


class _Rank0:
    """Rank 0: keeps a connection to each other rank until all have arrived."""

    def __init__(self, addresses: Sequence[str], deadline: Deadline) -> None:
        self._addresses, self._deadline = addresses, deadline
        self._arrived: dict[int, tuple[socket.socket, str]] = {}

    def gather(self) -> None:
        port = int(self._addresses[0].rpartition(":")[2])
        with closing(socket.create_server(("", port), backlog=1024)) as listener:
            listener.settimeout(_TICK_S)
            status_s = 0.0
            try:
                while missing := self._missing():
                    self._deadline.wait(lambda: _name(self._missing()), reports=True, tick_s=0)
                    self._accept(listener)
                    if time.monotonic() > status_s:
                        status_s = time.monotonic() + _STATUS_S
                        self._send_all({"missing": missing})
                self._send_all({"go": True})
            except (PeerLost, SettingsError) as error:
                self._send_all({"error": str(error), "code": error.exit_code})
                raise
            finally:
                for connection, _ in self._arrived.values():
                    connection.close()

    def _missing(self) -> list[str]:
        self._remove_closed()
        ranks = range(1, len(self._addresses))
        return [_describe(self._addresses, rank) for rank in ranks if rank not in self._arrived]

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            return
        connection.settimeout(_ANSWER_S)
        try:
            with connection.makefile("rb") as lines:
                hello = json.loads(lines.readline(_LONGEST_LINE))
            rank, host, cluster = int(hello["rank"]), str(hello["host"]), hello["cluster"]
        except (OSError, ValueError, KeyError, TypeError):
            connection.close()  # not a process of this job
            return
        before = self._arrived.get(rank)
        self._arrived[rank] = (connection, host)
        if cluster != _digest(self._addresses):
            raise SettingsError(
                f"rank {rank} on {host} has different addresses of the job's processes from rank 0 "
                f"on {socket.gethostname()}: TF_CONFIG must have the same cluster for all processes"
            )
        if before is not None and _is_open(before[0]):
            before[0].close()
            raise PeerLost(
                f"two processes have rank {rank}: one on {before[1]}, one on {host}. Start all of "
                "them again, each with its own index"
            )

    def _send_all(self, status: dict[str, object]) -> None:
        line = json.dumps(status).encode() + b"\n"
        for connection, _ in self._arrived.values():
            with suppress(OSError):  # it has disconnected again
                connection.sendall(line)

    def _remove_closed(self) -> None:
        for rank, (connection, _) in list(self._arrived.items()):
            if not _is_open(connection):
                connection.close()
                del self._arrived[rank]


def _is_open(connection: socket.socket) -> bool:
    """Whether the peer is connected. It sends nothing more, so readable means closed."""
    connection.settimeout(0)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        connection.settimeout(_ANSWER_S)


def _wait_for_rank_0(addresses: Sequence[str], rank: int, deadline: Deadline) -> None:
    """Other ranks: register with rank 0 and wait until it says that all have arrived."""
    hello = {"rank": rank, "host": socket.gethostname(), "cluster": _digest(addresses)}
    port = int(addresses[0].rpartition(":")[2])
    while True:
        try:
            with (
                socket.create_connection((host_of(addresses[0]), port), _ANSWER_S) as connection,
                connection.makefile("rb") as lines,
            ):
                connection.sendall(json.dumps(hello).encode() + b"\n")
                while line := lines.readline(_LONGEST_LINE):
                    status = json.loads(line)
                    if status.get("go"):
                        return
                    if "error" in status:
                        kind = SettingsError if status["code"] == 2 else PeerLost
                        raise kind(status["error"])
                    deadline.wait(partial(_name, status["missing"]), reports=False, tick_s=0)
            problem = "it closed the connection"
        except OSError as error:
            problem = error.strerror or str(error)
        except ValueError:
            problem = "the process that answers there does not belong to this job"
        missing = [f"{_describe(addresses, 0)}: {problem}"]
        deadline.wait(partial(_name, missing), reports=True)


def _describe(addresses: Sequence[str], rank: int) -> str:
    return f"rank {rank} ({addresses[rank]})"


def _digest(addresses: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(addresses)).encode()).hexdigest()

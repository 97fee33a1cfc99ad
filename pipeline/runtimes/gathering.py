"""Waits until all processes of a job have come, before their runtime joins them.

TensorFlow and Horovod wait in C++, where no signal is heard and nobody is told who is missing:
TensorFlow for an hour, Horovod until it aborts the process. So the processes gather here first.
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

# Any rank may have to speak, not the chief alone.
_LOG = logging.getLogger("pipeline.runtimes.kinds.joined")

LIMIT_S = 600.0
_FIRST_NOTE_S, _NOTE_EVERY_S = 20.0, 30.0
_TICK_S = 0.1
_STATUS_S = 1.0
_ANSWER_S = 5.0
_LONGEST_LINE = 1 << 16
# An earlier process on this host may still be ending.
_PORT_TAKEN_WAIT_S = 10.0


class Patience:
    """Reports at intervals who is missing, and raises an error after a limit.

    Args:
      limit_s: Seconds from now.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s, self._start_s = limit_s, time.monotonic()
        self._note_s = self._start_s + _FIRST_NOTE_S

    def wait(self, missing: Callable[[], str], speaks: bool, tick_s: float = _TICK_S) -> None:
        """Waits for a moment.

        Args:
          missing: Says who has not come, and why, as far as it is known.
          speaks: Whether this process prints that from time to time. Rank 0 does, and the others
            only where rank 0 is missing itself.

        Raises:
          PeerLost: It took too long.
        """
        now_s = time.monotonic()
        if now_s - self._start_s > self._limit_s:
            raise PeerLost(
                f"gave up after {self._limit_s:g} s: {missing()}. Were they started, are they "
                "running, and do firewalls let the hosts reach each other? Start all of them again"
            )
        if speaks and now_s > self._note_s:
            self._note_s = now_s + _NOTE_EVERY_S
            waited = f"{now_s - self._start_s:.0f} of {self._limit_s:g} s"
            _LOG.info(f"waited {waited}: {missing()}")
        time.sleep(tick_s)


def _name(missing: Iterable[str]) -> str:
    names = list(missing)
    have = "has" if len(names) == 1 else "have"
    return f"{len(names)} of the job's processes {have} not come: {', '.join(names)}"


def gather_by_store(
    server: tuple[str, int], rank: int, size: int, hosts: Sequence[str], limit_s: float
) -> None:
    """Gathers Horovod's processes at the server where Horovod itself will let them meet.

    Args:
      server: HOROVOD_GLOO_RENDEZVOUS_ADDR and _PORT.
      hosts: Of each rank, where the launcher has told; else empty.

    Raises:
      PeerLost: Not all came in time.
    """

    def describe() -> str:
        # Only now, as it asks for each of them.
        late = [other for other in missing if not _is_there(server, other)] or missing
        return _name(f"rank {other}" + (f" on {hosts[other]}" if hosts else "") for other in late)

    patience, missing, has_said = Patience(limit_s), list(range(size)), False
    while missing:
        try:
            if not has_said:
                _ask(server, "PUT", rank, socket.gethostname())
                has_said = True
            while missing and _is_there(server, missing[0]):
                missing.pop(0)
            if missing:
                patience.wait(describe, speaks=rank == 0 or missing[0] == 0)
        except (OSError, HTTPException) as error:
            # Not the path: it may be secret, see store.py.
            text = (
                f"the rendezvous at {_url(server).netloc} does not answer "
                f"({error or type(error).__name__})"
            )
            patience.wait(partial(str, text), speaks=True)


def _is_there(server: tuple[str, int], rank: int) -> bool:
    return _ask(server, "GET", rank) == HTTPStatus.OK


def _ask(server: tuple[str, int], method: str, rank: int, value: str | None = None) -> int:
    url = _url(server)
    with closing(HTTPConnection(url.netloc, timeout=_ANSWER_S)) as connection:
        connection.request(method, f"{url.path}/gathering/{rank}", value)
        answer = connection.getresponse()
        answer.read()
        if answer.status not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
            raise HTTPException(f"it answers {answer.status}")
        return answer.status


def _url(server: tuple[str, int]) -> SplitResult:
    """Where the rendezvous is; the address may have a path, after which Horovod puts the port."""
    return urlsplit(f"http://{server[0]}:{server[1]}")


def gather_by_address(addresses: Sequence[str], rank: int, limit_s: float = LIMIT_S) -> None:
    """Gathers TensorFlow's workers at the address that rank 0 will serve itself.

    Args:
      addresses: host:port of each rank.

    Raises:
      PeerLost: Not all came in time, or two came as the same rank.
      SettingsError: The processes have different lists of addresses, or this one's port is taken.
    """
    patience = Patience(limit_s)
    _wait_for_port(addresses[rank], limit_s)
    if rank == 0:
        _Host(addresses, patience).gather()
    else:
        _come(addresses, rank, patience)


def _wait_for_port(address: str, limit_s: float) -> None:
    end_s = time.monotonic() + min(_PORT_TAKEN_WAIT_S, limit_s)
    port = int(address.rpartition(":")[2])
    while not is_free(port):
        if time.monotonic() > end_s:
            raise SettingsError(
                f"port {port} of this host is taken, and this process is to serve {address}: "
                "another one runs here with the same place in the job. A command beside the job "
                "must not have its place: env -u TF_CONFIG vit ..."
            )
        time.sleep(_TICK_S)


class _Host:
    """Rank 0: keeps a connection to each of the others until all are there."""

    def __init__(self, addresses: Sequence[str], patience: Patience) -> None:
        self._addresses, self._patience = addresses, patience
        self._came: dict[int, tuple[socket.socket, str]] = {}

    def gather(self) -> None:
        port = int(self._addresses[0].rpartition(":")[2])
        with closing(socket.create_server(("", port), backlog=1024)) as listener:
            listener.settimeout(_TICK_S)
            status_s = 0.0
            try:
                while missing := self._missing():
                    self._patience.wait(lambda: _name(self._missing()), speaks=True, tick_s=0)
                    self._welcome(listener)
                    if time.monotonic() > status_s:
                        status_s = time.monotonic() + _STATUS_S
                        self._tell({"missing": missing})
                self._tell({"go": True})
            except (PeerLost, SettingsError) as error:
                self._tell({"error": str(error), "code": error.exit_code})
                raise
            finally:
                for connection, _ in self._came.values():
                    connection.close()

    def _missing(self) -> list[str]:
        self._forget_those_who_left()
        ranks = range(1, len(self._addresses))
        return [_describe(self._addresses, rank) for rank in ranks if rank not in self._came]

    def _welcome(self, listener: socket.socket) -> None:
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
            connection.close()  # not one of ours
            return
        before = self._came.get(rank)
        self._came[rank] = (connection, host)
        if cluster != _digest(self._addresses):
            raise SettingsError(
                f"rank {rank} on {host} was given other addresses of the job's processes than "
                f"rank 0 on {socket.gethostname()}: their TF_CONFIG must have the same cluster"
            )
        if before is not None and _is_open(before[0]):
            before[0].close()
            raise PeerLost(
                f"two processes came as rank {rank}: one on {before[1]}, one on {host}. Start all "
                "of them again, each with an index of its own"
            )

    def _tell(self, status: dict[str, object]) -> None:
        line = json.dumps(status).encode() + b"\n"
        for connection, _ in self._came.values():
            with suppress(OSError):  # it went away again
                connection.sendall(line)

    def _forget_those_who_left(self) -> None:
        for rank, (connection, _) in list(self._came.items()):
            if not _is_open(connection):
                connection.close()
                del self._came[rank]


def _is_open(connection: socket.socket) -> bool:
    """Whether the other side is there: it sends nothing more, so what can be read is the end."""
    connection.settimeout(0)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        connection.settimeout(_ANSWER_S)


def _come(addresses: Sequence[str], rank: int, patience: Patience) -> None:
    """The other ranks: greet rank 0, and wait for its word."""
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
                    patience.wait(partial(_name, status["missing"]), speaks=False, tick_s=0)
            problem = "it hung up"
        except OSError as error:
            problem = error.strerror or str(error)
        except ValueError:
            problem = "what answers there is no process of this job"
        missing = [f"{_describe(addresses, 0)}: {problem}"]
        patience.wait(partial(_name, missing), speaks=True)


def _describe(addresses: Sequence[str], rank: int) -> str:
    return f"rank {rank} ({addresses[rank]})"


def _digest(addresses: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(addresses)).encode()).hexdigest()

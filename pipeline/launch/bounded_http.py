"""A small HTTP/1.1 server for ports that anyone may reach.

Everything that a stranger can make it spend has a limit: the size of a request, the time until it
is complete (in total, however slowly it drips), and the number of connections and threads. Where
there are too many connections, the oldest of those who have not shown that they belong to the job
is closed.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol

LARGEST_BODY = 1 << 20
_LARGEST_HEAD = 1 << 13
_MOST_HEADERS = 32
# A stranger has so long in total. A member's connection may also lie idle.
STRANGER_S, _MEMBER_S = 5.0, 60.0
_SEND_S = 10.0
_ACCEPT_TICK_S = 0.1

_REQUEST_LINE = re.compile(r"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~\t]*?)[ \t]*")


@dataclass(frozen=True)
class Request:
    """A request; the names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Response:
    """A response. With `closes` the connection ends with it."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    closes: bool = False

    def to_bytes(self) -> bytes:
        headers = {**self.headers, "Content-Length": str(len(self.body))}
        if self.closes:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


class Refused(Exception):
    """A request that is not read to its end.

    Args:
      status: To answer with.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Session(Protocol):
    """One connection's side of the server.

    Attributes:
      is_member: Whether the other side has shown that it belongs to the job.
    """

    is_member: bool

    def answer(self, request: Request) -> Response: ...


def parse_head(head: bytes) -> tuple[Request, int]:
    """Reads a request's first line and headers, without the empty line at their end.

    Returns:
      The request without its body, and the body's size.

    Raises:
      Refused: It is no HTTP/1.1, or has a body without a size, or one that is too large.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    request_line = _REQUEST_LINE.fullmatch(first)
    if request_line is None or len(lines) > _MOST_HEADERS:
        raise Refused(400)
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        # Two of one name could be read one way here and another way elsewhere.
        if header is None or header[1].lower() in headers:
            raise Refused(400)
        headers[header[1].lower()] = header[2]
    method, path = request_line.groups()
    return Request(method, path, headers), _body_size(method, headers)


def _body_size(method: str, headers: Mapping[str, str]) -> int:
    length = headers.get("content-length")
    if "transfer-encoding" in headers or (length is None and method in ("POST", "PUT")):
        raise Refused(411)
    if length is None:
        return 0
    if not re.fullmatch("[0-9]{1,18}", length):
        raise Refused(400)
    if int(length) > LARGEST_BODY:
        raise Refused(413)
    return int(length)


class Incoming:
    """Reads requests from a connection, each by a deadline.

    Attributes:
      deadline_s: On the monotonic clock.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._buffer = connection, bytearray()
        self.deadline_s = time.monotonic() + STRANGER_S

    def read(self) -> Request | None:
        """The next request; None where the other side has closed.

        Raises:
          Refused: As `parse_head`.
          OSError: The connection broke, or the deadline has passed (TimeoutError).
        """
        while (end := self._buffer.find(b"\r\n\r\n", 0, _LARGEST_HEAD)) < 0:
            if len(self._buffer) >= _LARGEST_HEAD:
                raise Refused(431)
            if not self._receive():
                return None
        request, size = parse_head(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        while len(self._buffer) < size:
            if not self._receive():
                return None
        body = bytes(self._buffer[:size])
        del self._buffer[:size]
        return Request(request.method, request.path, request.headers, body)

    def _receive(self) -> bool:
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        # Anew for each piece: a timeout of the socket alone begins again with every byte.
        self._connection.settimeout(left_s)
        data = self._connection.recv(1 << 16)
        self._buffer += data
        return bool(data)


class Server:
    """Answers requests until it is closed, each connection in a thread of its own.

    Args:
      address: IPv4 address to listen at.
      port: 0 takes a free one.
      new_session: Called for each connection.
      limit: Of connections, and so of threads.

    Raises:
      OSError: The port is taken, or the address is not of this host.
    """

    def __init__(
        self, address: str, port: int, new_session: Callable[[str], Session], limit: int
    ) -> None:
        self._new_session, self._limit = new_session, limit
        self._open: dict[socket.socket, Session] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        # Processes that wait ask each 10 ms: a short queue would drop connections.
        self._listener = socket.create_server((address, port), backlog=1024)
        self._listener.settimeout(_ACCEPT_TICK_S)
        self.address, self.port = self._listener.getsockname()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listens no more, and ends all connections."""
        self._closed.set()
        self._thread.join()
        self._listener.close()
        with self._lock:
            for connection in self._open:
                _end(connection)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, peer = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:  # too many open files, or the other side has gone already
                self._closed.wait(_ACCEPT_TICK_S)
                continue
            session = self._new_session(peer[0])
            if not self._admit(connection, session):
                connection.close()
                continue
            try:
                threading.Thread(
                    target=self._serve, args=(connection, session), daemon=True
                ).start()
            except RuntimeError:  # the system gives no thread
                self._forget(connection)

    def _admit(self, connection: socket.socket, session: Session) -> bool:
        with self._lock:
            if len(self._open) >= self._limit:
                oldest = next((c for c, s in self._open.items() if not s.is_member), None)
                if oldest is None:
                    return False
                _end(oldest)  # which wakes its thread
                del self._open[oldest]
            self._open[connection] = session
            return True

    def _forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.pop(connection, None)
        connection.close()

    def _serve(self, connection: socket.socket, session: Session) -> None:
        try:
            # The other side may vanish, or not read what it asked for.
            with suppress(OSError):
                self._answer_all(connection, session)
        finally:
            self._forget(connection)

    @staticmethod
    def _answer_all(connection: socket.socket, session: Session) -> None:
        incoming = Incoming(connection)
        try:
            while (request := incoming.read()) is not None:
                response = session.answer(request)
                connection.settimeout(_SEND_S)
                connection.sendall(response.to_bytes())
                if response.closes:
                    break
                if session.is_member:
                    incoming.deadline_s = time.monotonic() + _MEMBER_S
        except Refused as refused:
            connection.settimeout(_SEND_S)
            connection.sendall(Response(refused.status, closes=True).to_bytes())


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)

"""A small HTTP/1.1 server for ports that are open to everyone.

All resources that an unauthenticated client can consume are limited: the size of a request, the
total time to receive it, and the number of connections and threads. At the limit of connections,
the oldest unauthenticated one is closed.
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

MAX_BODY_BYTES = 1 << 20
_MAX_HEAD_BYTES = 1 << 13
_MAX_HEADERS = 32
# Total time for an unauthenticated client, and idle time for an authenticated one.
UNAUTHENTICATED_S, _IDLE_S = 5.0, 60.0
_SEND_S = 10.0
_ACCEPT_TICK_S = 0.1

_REQUEST_LINE = re.compile(r"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~\t]*?)[ \t]*")


@dataclass(frozen=True)
class Request:
    """A request. Header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Response:
    """A response. If `closes` is set, the server closes the connection after it."""

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


class RequestRejected(Exception):
    """A request is rejected before it has been read completely.

    Args:
      status: HTTP status of the response.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Session(Protocol):
    """Handles the requests of one connection.

    Attributes:
      is_authenticated: Whether the client has proved that it belongs to the job.
    """

    is_authenticated: bool

    def answer(self, request: Request) -> Response: ...

    def closed(self) -> None:
        """Called when the connection is closed."""


def parse_head(head: bytes) -> tuple[Request, int]:
    """Parses the request line and the headers, given without the final empty line.

    Returns:
      The request without its body, and the size of the body in bytes.

    Raises:
      RequestRejected: The request is not HTTP/1.1, or its body has no size or is too large.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    request_line = _REQUEST_LINE.fullmatch(first)
    if request_line is None or len(lines) > _MAX_HEADERS:
        raise RequestRejected(400)
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        # Duplicate headers are rejected, because other software may pick the other value.
        if header is None or header[1].lower() in headers:
            raise RequestRejected(400)
        headers[header[1].lower()] = header[2]
    method, path = request_line.groups()
    return Request(method, path, headers), _body_size(method, headers)


def _body_size(method: str, headers: Mapping[str, str]) -> int:
    length = headers.get("content-length")
    if "transfer-encoding" in headers or (length is None and method in ("POST", "PUT")):
        raise RequestRejected(411)
    if length is None:
        return 0
    if not re.fullmatch("[0-9]{1,18}", length):
        raise RequestRejected(400)
    if int(length) > MAX_BODY_BYTES:
        raise RequestRejected(413)
    return int(length)


class RequestReader:
    """Reads requests from a connection, each before a deadline.

    Attributes:
      deadline_s: Time on the monotonic clock.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._buffer = connection, bytearray()
        self.deadline_s = time.monotonic() + UNAUTHENTICATED_S

    def read(self) -> Request | None:
        """Reads the next request. Returns None if the client has closed the connection.

        Raises:
          RequestRejected: See `parse_head`.
          OSError: The connection broke, or the deadline has passed (TimeoutError).
        """
        while (end := self._buffer.find(b"\r\n\r\n", 0, _MAX_HEAD_BYTES)) < 0:
            if len(self._buffer) >= _MAX_HEAD_BYTES:
                raise RequestRejected(431)
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
        # The timeout of a socket restarts with every byte, so it is set again for each read.
        self._connection.settimeout(left_s)
        data = self._connection.recv(1 << 16)
        self._buffer += data
        return bool(data)


class Server:
    """Serves requests until it is closed, with one thread per connection.

    Args:
      address: IPv4 address to listen at.
      port: Port to listen at; 0 selects a free one.
      new_session: Creates the session of a connection from the client's address.
      limit: Maximum number of connections, and so of threads.

    Raises:
      OSError: The port is in use, or the address does not belong to this host.
    """

    def __init__(
        self, address: str, port: int, new_session: Callable[[str], Session], limit: int
    ) -> None:
        self._new_session, self._limit = new_session, limit
        self._open: dict[socket.socket, Session] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        # Waiting processes poll every 10 ms. A short backlog would drop connections.
        self._listener = socket.create_server((address, port), backlog=1024)
        self._listener.settimeout(_ACCEPT_TICK_S)
        self.address, self.port = self._listener.getsockname()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening and closes all connections."""
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
            except OSError:  # too many open files, or the client has disconnected
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
            except RuntimeError:  # no more threads
                self._forget(connection)

    def _admit(self, connection: socket.socket, session: Session) -> bool:
        with self._lock:
            if len(self._open) >= self._limit:
                oldest = next((c for c, s in self._open.items() if not s.is_authenticated), None)
                if oldest is None:
                    return False
                _end(oldest)  # wakes its thread
                del self._open[oldest]
            self._open[connection] = session
            return True

    def _forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.pop(connection, None)
        connection.close()

    def _serve(self, connection: socket.socket, session: Session) -> None:
        try:
            # The client may disconnect, or not read the response.
            with suppress(OSError):
                self._answer_all(connection, session)
        finally:
            self._forget(connection)
            session.closed()

    @staticmethod
    def _answer_all(connection: socket.socket, session: Session) -> None:
        incoming = RequestReader(connection)
        try:
            while (request := incoming.read()) is not None:
                response = session.answer(request)
                connection.settimeout(_SEND_S)
                connection.sendall(response.to_bytes())
                if response.closes:
                    break
                if session.is_authenticated:
                    incoming.deadline_s = time.monotonic() + _IDLE_S
        except RequestRejected as refused:
            connection.settimeout(_SEND_S)
            connection.sendall(Response(refused.status, closes=True).to_bytes())


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)

"""The key-value store at which Horovod's processes find each other, and who may use it.

Horovod's client, in C++, speaks plain HTTP: PUT, GET and DELETE of /SCOPE/KEY. It polls a key that
is not there yet each 10 ms, and cannot sign. So each launcher serves the store to its own processes
only, at 127.0.0.1, and behind a path that cannot be guessed; between launchers each request is
signed (rendezvous.py). The path is part of the address that Horovod is given: it makes its URLs of
`http://ADDRESS:PORT/SCOPE/KEY`, so the address 127.0.0.1:P/SECRET leads to /SECRET:P/SCOPE/KEY at
port P. Only this user can read the environment in which the address stands. The kernel's table of
sockets, which names the user at the other end, was not taken: it has a row for each of the many
connections of the last minute, and reading it for each request is slow.
"""

from __future__ import annotations

import hmac
import re
import secrets
import threading
from collections.abc import Callable

from pipeline.launch.bounded_http import Request, Response, Server

_HERE = "127.0.0.1"
_PATH = re.compile(r"/[!-.0-~]{1,256}/[!-.0-~]{1,256}")
# A rank stores some 150 bytes for each of the others, in three scopes.
_BYTES_A_PAIR, _BYTES_AT_LEAST = 1024, 1 << 24
_BYTES_A_KEY = 256

Answer = Callable[[str, str, bytes], Response]


class Store:
    """Values by /SCOPE/KEY, kept by node 0.

    Horovod's own server forgets a scope when all its ranks have sent DELETE, or, where it does not
    know how many there are, one rank's key with that rank's DELETE. Here it is always the latter:
    a rank sends it when all are connected.

    Args:
      ranks: Of the job; they limit how much is kept.
    """

    def __init__(self, ranks: int) -> None:
        self._limit = _BYTES_AT_LEAST + _BYTES_A_PAIR * ranks * ranks
        self._values: dict[str, bytes] = {}
        self._size = 0
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, body: bytes) -> Response:
        """What Horovod's client expects for a request."""
        if not _PATH.fullmatch(path):
            return Response(400)
        with self._lock:
            value = self._values.get(path)
            if method == "GET":
                return Response(404) if value is None else Response(200, value)
            freed = 0 if value is None else len(value) + _BYTES_A_KEY
            if method == "DELETE":
                self._values.pop(path, None)
                self._size -= freed
                return Response(200)
            if method != "PUT":
                return Response(405)
            size = self._size - freed + len(body) + _BYTES_A_KEY
            if size > self._limit:
                return Response(507)
            self._values[path], self._size = body, size
            return Response(200)


class LocalStore:
    """Serves a store to this node's processes.

    Args:
      answer: Of the store.
      refused: Called with the address of one who does not belong to them.
      ranks: Of this node.
    """

    def __init__(self, answer: Answer, refused: Callable[[str], None], ranks: int) -> None:
        self._answer, self._refused = answer, refused
        self._secret = secrets.token_hex(16)
        self._server = Server(_HERE, 0, self._new_session, 64 + 4 * ranks)

    @property
    def address(self) -> tuple[str, int]:
        """For HOROVOD_GLOO_RENDEZVOUS_ADDR and _PORT."""
        return f"{_HERE}:{self._server.port}/{self._secret}", self._server.port

    def close(self) -> None:
        self._server.close()

    def _new_session(self, peer: str) -> _LocalSession:
        port = self._server.port
        return _LocalSession(self._answer, self._refused, f"/{self._secret}:{port}", port, peer)


class _LocalSession:
    def __init__(
        self, answer: Answer, refused: Callable[[str], None], prefix: str, port: int, peer: str
    ) -> None:
        self.is_member = False
        self._answer, self._refused, self._prefix, self._peer = answer, refused, prefix, peer
        self._hosts = (_HERE, f"{_HERE}:{port}")

    def answer(self, request: Request) -> Response:
        """The store's answer; 403 for one who does not know the path."""
        prefix, rest = request.path[: len(self._prefix)], request.path[len(self._prefix) :]
        headers = request.headers
        self.is_member = (
            hmac.compare_digest(prefix, self._prefix)
            # A web page in this user's browser comes from elsewhere, or by another name.
            and "origin" not in headers
            and headers.get("host") in self._hosts
        )
        if not self.is_member:
            self._refused(self._peer)
            return Response(403, closes=True)
        response = self._answer(request.method, rest, request.body)
        return Response(response.status, response.body, closes=True)

"""The key-value store with which Horovod's processes find each other, and its access control.

Horovod's C++ client speaks plain HTTP: PUT, GET and DELETE of /SCOPE/KEY. It polls missing keys
every 10 ms and cannot sign requests. Each launcher therefore serves the store only to its own
processes, at 127.0.0.1 below a secret path. Requests between launchers are signed (rendezvous.py).

The secret path is part of the address that Horovod gets. Horovod builds URLs of the form
`http://ADDRESS:PORT/SCOPE/KEY`. The address 127.0.0.1:P/SECRET therefore leads to
/SECRET:P/SCOPE/KEY at port P. The address is in the environment of the processes, which only this
user can read.

Alternative: the kernel's socket table names the user of a connection. Reading it for each request
is slow, because it lists the many connections of the last minute.
"""

from __future__ import annotations

import hmac
import re
import secrets
import threading
from collections.abc import Callable

from pipeline.launch.bounded_http import Request, Response, Server

_HERE = "127.0.0.1"
_GENERATION = re.compile(r"/g([0-9]{1,12}):[0-9]{1,5}(/.*)")
_PATH = re.compile(r"/[!-.0-~]{1,256}/[!-.0-~]{1,256}")
# A rank stores about 150 bytes for each other rank in each of three scopes.
_BYTES_PER_PAIR, _MIN_BYTES = 1024, 1 << 24
_BYTES_PER_KEY = 256

Answer = Callable[[str, str, bytes], Response]


class Store:
    """Values by /SCOPE/KEY, kept by node 0.

    Horovod's own server deletes a scope when all ranks have sent DELETE or, if it does not know
    their number, deletes one key per DELETE. This store always deletes one key: a rank sends DELETE
    once all are connected.

    Args:
      ranks: Number of processes in the job, which limits the size of the store.
    """

    def __init__(self, ranks: int) -> None:
        self._limit = _MIN_BYTES + _BYTES_PER_PAIR * ranks * ranks
        self._values: dict[str, bytes] = {}
        self._size = 0
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, body: bytes) -> Response:
        """Answers a request as Horovod's client expects."""
        if not _PATH.fullmatch(path):
            return Response(400)
        with self._lock:
            value = self._values.get(path)
            if method == "GET":
                return Response(404) if value is None else Response(200, value)
            freed = 0 if value is None else len(value) + _BYTES_PER_KEY
            if method == "DELETE":
                self._values.pop(path, None)
                self._size -= freed
                return Response(200)
            if method != "PUT":
                return Response(405)
            size = self._size - freed + len(body) + _BYTES_PER_KEY
            if size > self._limit:
                return Response(507)
            self._values[path], self._size = body, size
            return Response(200)


class GenerationStores:
    """The store of the newest generation of an elastic job, kept by the coordinator.

    Paths begin with /gGENERATION:PORT, because HOROVOD_GLOO_RENDEZVOUS_ADDR ends in /gGENERATION.

    Args:
      ranks: Maximum number of processes in the job.
    """

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._current: tuple[int, bool, Store] = 0, True, Store(ranks)

    def open(self, generation: int, broken: bool) -> None:
        """Replaces the store if the generation is new, and closes it if the generation is broken.

        A process that is still connecting fails then, instead of waiting for one that is gone.
        """
        number, _, store = self._current
        self._current = generation, broken, store if generation == number else Store(self._ranks)

    def answer(self, method: str, path: str, body: bytes) -> Response:
        """Answers a request as `Store.answer`; 410 if the generation is over."""
        if (found := _GENERATION.fullmatch(path)) is None:
            return Response(404)
        number, broken, store = self._current
        if broken or int(found[1]) != number:
            return Response(410)
        return store.answer(method, found[2], body)


class LocalStore:
    """Serves a store to the processes of this node.

    Args:
      answer: Answers requests to the store.
      refused: Called with the address of each client that does not know the secret path.
      ranks: Number of processes on this node.
    """

    def __init__(self, answer: Answer, refused: Callable[[str], None], ranks: int) -> None:
        self._answer, self._refused = answer, refused
        self._secret = secrets.token_hex(16)
        self._server = Server(_HERE, 0, self._new_session, 64 + 4 * ranks)

    @property
    def address(self) -> tuple[str, int]:
        """Values of HOROVOD_GLOO_RENDEZVOUS_ADDR and HOROVOD_GLOO_RENDEZVOUS_PORT."""
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
        self.is_authenticated = False
        self._answer, self._refused, self._prefix, self._peer = answer, refused, prefix, peer
        self._hosts = (_HERE, f"{_HERE}:{port}")

    def closed(self) -> None:
        """Does nothing: each connection serves one request."""

    def answer(self, request: Request) -> Response:
        """Answers a request, with 403 if the client does not know the secret path."""
        prefix, rest = request.path[: len(self._prefix)], request.path[len(self._prefix) :]
        headers = request.headers
        self.is_authenticated = (
            hmac.compare_digest(prefix, self._prefix)
            # Requests from web pages carry an Origin or the name of another host.
            and "origin" not in headers
            and headers.get("host") in self._hosts
        )
        if not self.is_authenticated:
            self._refused(self._peer)
            return Response(403, closes=True)
        response = self._answer(request.method, rest, request.body)
        return Response(response.status, response.body, closes=True)

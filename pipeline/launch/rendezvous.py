"""The server on node 0 at which the launchers meet, and how they speak to it.

    GET  /hello              a challenge for this connection; the only thing a stranger is told
    POST /report             a launcher's Report, answered by a View (reports.py)
    any  /store/SCOPE/KEY    Horovod's key-value store, for a node's processes (store.py)

All but the first are signed in both directions (signatures.py). What is not is answered 403, and
changes nothing.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException

from pipeline.launch.bounded_http import LARGEST_BODY, Request, Response, Server
from pipeline.launch.registry import Registry
from pipeline.launch.reports import LONGEST_TEXT, Report, View, read, write
from pipeline.launch.signatures import TOKEN, Signer
from pipeline.launch.store import Answer
from pipeline.printable import printable

# Of the logger that the other notes of the waiting come from.
_LOG = logging.getLogger("pipeline.launch.meeting")

_HELLO = "vit-launch 1 "
_NONCE, _SIGNATURE = "X-Vit-Nonce", "X-Vit-Signature"
_JSON, _BYTES = "application/json", "application/octet-stream"
_NOTE_EVERY_S = 60.0


class NotAdmitted(OSError):
    """Node 0 has another token, or this is not node 0."""


class Strangers:
    """Counts requests that do not belong to the job, and mentions them once a minute at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count, self._note_s = 0, 0.0

    def refuse(self, peer: str) -> None:
        """Notes a refused request.

        Args:
          peer: Its IPv4 address.
        """
        with self._lock:
            self._count += 1
            now_s = time.monotonic()
            if now_s < self._note_s:
                return
            self._note_s, count, self._count = now_s + _NOTE_EVERY_S, self._count, 0
        what = "a request" if count == 1 else f"{count} requests"
        _LOG.warning(
            "refused %s without this job's %s, the last from %s", what, TOKEN, printable(peer)
        )


def serve(
    registry: Registry,
    store: Answer,
    address: tuple[str, int],
    name: str,
    signer: Signer,
    strangers: Strangers,
    ranks: int,
) -> Server:
    """Starts node 0's server.

    Args:
      address: IPv4 address and port to listen at; port 0 takes a free one.
      name: Of node 0 in --hosts, by which all nodes ask.

    Raises:
      OSError: The port is taken.
    """

    def handle(request: Request) -> Response:
        return _answer(registry, store, request)

    def new_session(peer: str) -> LauncherSession:
        return LauncherSession(handle, signer, name, strangers, peer)

    return Server(*address, new_session, 64 + 4 * ranks)


class LauncherSession:
    """One connection to node 0's server."""

    def __init__(
        self,
        handle: Callable[[Request], Response],
        signer: Signer,
        name: str,
        strangers: Strangers,
        peer: str,
    ) -> None:
        self.is_member = False
        self._handle, self._signer, self._name = handle, signer, name
        self._strangers, self._peer = strangers, peer
        self._challenge, self._number = secrets.token_hex(32), 0

    def answer(self, request: Request) -> Response:
        """The answer to a request of this connection; 403 for a stranger's."""
        headers = request.headers
        # Pages in a browser send their Origin, and the name that led them here.
        if "origin" in headers or headers.get("host", "").partition(":")[0] != self._name:
            return self._refuse()
        if (request.method, request.path) == ("GET", "/hello"):
            return Response(200, (_HELLO + self._challenge).encode())
        nonce = headers.get(_NONCE.lower(), "")
        about = (self._challenge, self._number, nonce)
        signed = ("request", *about, request.method, request.path, request.body)
        if not self._signer.is_signed(headers.get(_SIGNATURE.lower(), ""), *signed):
            return self._refuse()
        self.is_member = True
        self._number += 1
        response = self._handle(request)
        signature = self._signer.sign("response", *about, response.status, response.body)
        return Response(response.status, response.body, {_SIGNATURE: signature})

    def _refuse(self) -> Response:
        self._strangers.refuse(self._peer)
        return Response(403, closes=True)


def _answer(registry: Registry, store: Answer, request: Request) -> Response:
    """The answer to a request that is signed."""
    if request.path.startswith("/store/"):
        return store(request.method, request.path.removeprefix("/store"), request.body)
    if request.path != "/report":
        return Response(404)
    if request.method != "POST":
        return Response(405)
    if request.headers.get("content-type") != _JSON:
        return Response(415)
    try:
        return Response(200, write(registry.update(read(Report, request.body))))
    except ValueError as error:
        return Response(400, str(error).encode())


class Connection:
    """A launcher's signed connection to node 0's server, made with the first request.

    Args:
      address: IPv4 address and port.
      name: Of node 0 in --hosts.
      nodes: Of the job; they limit the size of an answer.
    """

    def __init__(
        self,
        address: tuple[str, int],
        name: str,
        signer: Signer,
        nodes: int,
        timeout_s: float = 3.0,
    ) -> None:
        self._address, self._name, self._signer = address, name, signer
        self._largest = LARGEST_BODY + nodes * 2 * LONGEST_TEXT
        self._connection = HTTPConnection(*address, timeout=timeout_s)
        self._connection.auto_open = 0  # another connection has another challenge
        self._challenge, self._number = "", 0

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Sends a request, and returns status and body of the answer.

        Raises:
          NotAdmitted: The token is not node 0's.
          OSError: Nothing answers, or what answers is no launcher of this job.
        """
        where = ":".join(map(str, self._address))
        try:
            return self._ask(method, path, body)
        except NotAdmitted:
            self.close()
            raise NotAdmitted(f"what answers at {where} has another {TOKEN}") from None
        except (HTTPException, ValueError) as error:
            self.close()
            reason = printable(str(error) or type(error).__name__)[:300]
            raise OSError(f"what answers at {where} is no launcher ({reason})") from None
        except OSError as error:
            self.close()
            raise OSError(f"{where}: {error.strerror or error}") from None

    def close(self) -> None:
        self._connection.close()
        self._challenge = ""

    @property
    def own_address(self) -> str:
        """This host's IPv4 address on the way to node 0, while connected."""
        return str(self._connection.sock.getsockname()[0])

    def _ask(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if not self._challenge:
            self._connection.close()
            self._connection.connect()
            self._greet()
        nonce = secrets.token_hex(16)
        about = (self._challenge, self._number, nonce)
        signature = self._signer.sign("request", *about, method, path, body)
        headers = {_NONCE: nonce, _SIGNATURE: signature}
        headers["Content-Type"] = _JSON if method == "POST" else _BYTES
        status, answered, signature = self._exchange(method, path, body, headers)
        self._number += 1
        if not self._signer.is_signed(signature, "response", *about, status, answered):
            if status == 403:
                raise NotAdmitted
            raise ValueError(f"it answers {status}, without a signature")
        return status, answered

    def _greet(self) -> None:
        status, answered, _ = self._exchange("GET", "/hello", b"", {})
        hello = answered.decode("latin-1")
        if status == 403:
            raise ValueError("it expects another name of node 0 in --hosts")
        if status != 200 or len(hello) > 200 or not hello.startswith(_HELLO):
            raise ValueError(f"it answers {status}, and does not greet")
        self._challenge, self._number = hello.removeprefix(_HELLO), 0

    def _exchange(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes, str]:
        headers = {"Host": f"{self._name}:{self._address[1]}", **headers}
        self._connection.request(method, path, body or None, headers)
        answer = self._connection.getresponse()
        answered = answer.read(self._largest + 1)
        if len(answered) > self._largest:
            raise ValueError("it answers too much")
        return answer.status, answered, answer.getheader(_SIGNATURE, "")


def tell(connection: Connection, report: Report) -> View:
    """Sends a report to node 0 and returns its answer.

    Raises:
      OSError: As `Connection.ask`, or node 0 does not understand the report.
    """
    status, answered = connection.ask("POST", "/report", write(report))
    try:
        if status != 200:
            raise ValueError(f"it answers {status}: {printable(answered[:300].decode())}")
        return read(View, answered)
    except ValueError as error:
        raise OSError(f"the launcher of node 0 is of another version ({error})") from None


class RemoteStore:
    """Node 0's store, asked over one signed connection."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, body: bytes) -> Response:
        """Passes a request of Horovod on; 503 where node 0 does not answer."""
        with self._lock:
            # Node 0 closes a connection that was idle: the second attempt is on a new one.
            for _ in range(2):
                if self._connection is None:
                    self._connection = self._connect()
                with suppress(OSError):
                    return Response(*self._connection.ask(method, f"/store{path}", body))
                self._connection = None
        return Response(503)

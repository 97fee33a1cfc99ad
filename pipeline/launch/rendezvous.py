"""The rendezvous server on node 0, and the connection of a launcher to it.

rendezvous_client.py waits for node 0 and uses the connection. In an elastic job on several nodes,
each launcher has such a server, because each may have to take the place of node 0 (meeting.py).

    GET  /hello              a challenge for this connection; open to everyone
    GET  /role               the Role of the launcher in an elastic job
    POST /report             takes a launcher's Report, returns a View (reports.py)
    POST /group              takes a NodeReport of an elastic job, returns a GroupView when there is
                             a newer one, or after about a second (coordinator.py)
    any  /store/SCOPE/KEY    Horovod's key-value store, for the processes of a node (store.py)

All requests and responses except the first are signed (signatures.py). Unsigned requests get 403
and have no effect.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException

from pipeline.launch.bounded_http import MAX_BODY_BYTES, Request, Response, Server
from pipeline.launch.coordinator import Coordinator, NodeLink, ReplacedError
from pipeline.launch.registry import Registry
from pipeline.launch.reports import MAX_TEXT_LENGTH, Report, Role, View
from pipeline.launch.signatures import TOKEN, Signer
from pipeline.launch.store import Answer
from pipeline.printable import printable
from pipeline.runtimes.messages import read, write
from pipeline.runtimes.worker_reports import GroupView, NodeReport

# Logged under the same name as the other messages about the rendezvous.
_LOG = logging.getLogger("pipeline.launch.rendezvous_client")

_HELLO = "vit-launch 1 "
_NONCE, _SIGNATURE = "X-Vit-Nonce", "X-Vit-Signature"
_JSON, _BYTES = "application/json", "application/octet-stream"
_NOTE_EVERY_S = 60.0


class TokenMismatch(OSError):
    """The server on node 0 uses another token, or it is not node 0 of this job."""


class RejectedRequests:
    """Counts unauthenticated requests and logs them at most once per minute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count, self._note_s = 0, 0.0

    def record(self, peer: str) -> None:
        """Records a rejected request.

        Args:
          peer: IPv4 address of the client.
        """
        with self._lock:
            self._count += 1
            now_s = time.monotonic()
            if now_s < self._note_s:
                return
            self._note_s, count, self._count = now_s + _NOTE_EVERY_S, self._count, 0
        what = "a request" if count == 1 else f"{count} requests"
        _LOG.warning(
            "rejected %s without this job's %s, the last from %s", what, TOKEN, printable(peer)
        )


@dataclass
class Services:
    """What the server of a launcher answers with. It changes when this is the coordinator.

    Attributes:
      registry: Takes the reports; None if another launcher does.
      store: Answers requests to the key-value store; None if another launcher does.
      group: Decides on the generations of an elastic job; None for other jobs, and if another
        launcher does.
      role: Returns the Role of this launcher in an elastic job on several nodes.
    """

    registry: Registry | None = None
    store: Answer | None = None
    group: Coordinator | None = None
    role: Callable[[], Role] | None = None

    @property
    def is_elastic(self) -> bool:
        """Whether the job is elastic."""
        return self.group is not None or self.role is not None


def serve(
    services: Services,
    address: tuple[str, int],
    name: str,
    signer: Signer,
    rejected_requests: RejectedRequests,
    ranks: int,
) -> Server:
    """Starts the server of a launcher.

    Args:
      services: Answer the requests.
      address: IPv4 address and port to listen at; port 0 selects a free one.
      name: Name of this node in --hosts. Requests must have it as their Host.
      signer: Verifies requests and signs responses.
      rejected_requests: Counts rejected requests.
      ranks: Number of processes in the job, which limits the number of connections.

    Raises:
      OSError: The port is in use.
    """

    def new_session(peer: str) -> LauncherSession:
        link = NodeLink(lambda: services.group, is_local=False)

        def handle(request: Request) -> Response:
            return _answer(services, link, request)

        return LauncherSession(handle, signer, name, rejected_requests, peer, link.close)

    return Server(*address, new_session, 64 + 4 * ranks)


def _nothing() -> None:
    """The default of `LauncherSession.closed`."""


class LauncherSession:
    """One connection to the server on node 0."""

    def __init__(
        self,
        handle: Callable[[Request], Response],
        signer: Signer,
        name: str,
        rejected_requests: RejectedRequests,
        peer: str,
        closed: Callable[[], None] = _nothing,
    ) -> None:
        self.is_authenticated = False
        self.closed = closed
        self._handle, self._signer, self._name = handle, signer, name
        self._rejected_requests, self._peer = rejected_requests, peer
        self._challenge, self._number = secrets.token_hex(32), 0

    def answer(self, request: Request) -> Response:
        """Answers a request of this connection, with 403 if it is not authenticated."""
        headers = request.headers
        # Requests from web pages carry an Origin and the name of another host.
        if "origin" in headers or headers.get("host", "").partition(":")[0] != self._name:
            return self._refuse()
        if (request.method, request.path) == ("GET", "/hello"):
            return Response(200, (_HELLO + self._challenge).encode())
        nonce = headers.get(_NONCE.lower(), "")
        about = (self._challenge, self._number, nonce)
        signed = ("request", *about, request.method, request.path, request.body)
        if not self._signer.is_signed(headers.get(_SIGNATURE.lower(), ""), *signed):
            return self._refuse()
        self.is_authenticated = True
        self._number += 1
        response = self._handle(request)
        signature = self._signer.sign("response", *about, response.status, response.body)
        return Response(response.status, response.body, {_SIGNATURE: signature})

    def _refuse(self) -> Response:
        self._rejected_requests.record(self._peer)
        return Response(403, closes=True)


def _answer(services: Services, link: NodeLink, request: Request) -> Response:
    """Answers an authenticated request; with 409 if another launcher is responsible."""
    registry, store, role = services.registry, services.store, services.role
    if request.path.startswith("/store/"):
        path = request.path.removeprefix("/store")
        return store(request.method, path, request.body) if store else Response(409)
    if request.path == "/role" and role is not None:
        return Response(200, write(role())) if request.method == "GET" else Response(405)
    if request.path != "/report" and (request.path != "/group" or not services.is_elastic):
        return Response(404)
    if request.method != "POST":
        return Response(405)
    if request.headers.get("content-type") != _JSON:
        return Response(415)
    try:
        if request.path == "/group":
            view = link.exchange(read(NodeReport, request.body))
            return Response(409) if view is None else Response(200, write(view))
        report = read(Report, request.body)
        return Response(200, write(registry.update(report))) if registry else Response(409)
    except ReplacedError:
        return Response(410)
    except ValueError as error:
        return Response(400, str(error).encode())


class Connection:
    """A launcher's signed connection to the server on node 0, opened by the first request.

    Args:
      address: IPv4 address and port.
      name: Name of node 0 in --hosts.
      signer: Signs requests and verifies responses.
      nodes: Number of nodes in the job, which limits the size of a response.
      timeout_s: Timeout of the socket.
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
        self._largest = MAX_BODY_BYTES + nodes * 2 * MAX_TEXT_LENGTH
        self._connection = HTTPConnection(*address, timeout=timeout_s)
        self._connection.auto_open = 0  # a new connection needs a new challenge
        self._challenge, self._number = "", 0

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Sends a request and returns the status and body of the response.

        Raises:
          TokenMismatch: Node 0 uses another token.
          OSError: There is no response, or the server is not a launcher of this job.
        """
        where = ":".join(map(str, self._address))
        try:
            return self._ask(method, path, body)
        except TokenMismatch:
            self.close()
            raise TokenMismatch(f"the server at {where} uses a different {TOKEN}") from None
        except (HTTPException, ValueError) as error:
            self.close()
            reason = printable(str(error) or type(error).__name__)[:300]
            raise OSError(f"the server at {where} is not a launcher ({reason})") from None
        except OSError as error:
            self.close()
            text = f"{where}: {error.strerror or error}"
            if isinstance(error, ConnectionRefusedError):
                raise ConnectionRefusedError(text) from None
            raise OSError(text) from None

    def close(self) -> None:
        self._connection.close()
        self._challenge = ""

    @property
    def own_address(self) -> str:
        """The IPv4 address of this host on the route to node 0, while connected."""
        return str(self._connection.sock.getsockname()[0])

    def _ask(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if not self._challenge:
            self._connection.close()
            self._connection.connect()
            self._request_challenge()
        nonce = secrets.token_hex(16)
        about = (self._challenge, self._number, nonce)
        signature = self._signer.sign("request", *about, method, path, body)
        headers = {_NONCE: nonce, _SIGNATURE: signature}
        headers["Content-Type"] = _JSON if method == "POST" else _BYTES
        status, answered, signature = self._exchange(method, path, body, headers)
        self._number += 1
        if not self._signer.is_signed(signature, "response", *about, status, answered):
            if status == 403:
                raise TokenMismatch
            raise ValueError(f"it returned status {status} without a signature")
        return status, answered

    def _request_challenge(self) -> None:
        status, answered, _ = self._exchange("GET", "/hello", b"", {})
        hello = answered.decode("latin-1")
        if status == 403:
            raise ValueError("it expects a different name of node 0 in --hosts")
        if status != 200 or len(hello) > 200 or not hello.startswith(_HELLO):
            raise ValueError(f"it returned status {status} without a challenge")
        self._challenge, self._number = hello.removeprefix(_HELLO), 0

    def _exchange(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes, str]:
        headers = {"Host": f"{self._name}:{self._address[1]}", **headers}
        self._connection.request(method, path, body or None, headers)
        answer = self._connection.getresponse()
        answered = answer.read(self._largest + 1)
        if len(answered) > self._largest:
            raise ValueError("its response is too large")
        return answer.status, answered, answer.getheader(_SIGNATURE, "")


def send_report(connection: Connection, report: Report) -> View:
    """Sends a report to node 0 and returns the view.

    Raises:
      OSError: See `Connection.ask`. Also if node 0 does not understand the report.
    """
    status, answered = connection.ask("POST", "/report", write(report))
    try:
        if status != 200:
            raise ValueError(f"it returned status {status}: {printable(answered[:300].decode())}")
        return read(View, answered)
    except ValueError as error:
        raise OSError(f"the launcher of node 0 is a different version ({error})") from None


class RemoteLink:
    """A connection to the group of an elastic job on another node."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def exchange(self, report: NodeReport) -> GroupView | None:
        """See `Coordinator.exchange`. Returns None, too, if that launcher is not the coordinator.

        Raises:
          OSError: See `Connection.ask`.
        """
        status, body = self._connection.ask("POST", "/group", write(report))
        if status == 410:
            raise ReplacedError
        if status == 409:
            return None
        if status != 200:
            raise ValueError(f"status {status}: {printable(body[:300].decode())}")
        return read(GroupView, body)

    def close(self) -> None:
        self._connection.close()


class RemoteStore:
    """Access to the store on node 0 over one signed connection."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, body: bytes) -> Response:
        """Forwards a request of Horovod. Returns 503 if node 0 does not respond."""
        with self._lock:
            # Node 0 closes idle connections, so a failed request is retried on a new one.
            for _ in range(2):
                if self._connection is None:
                    self._connection = self._connect()
                with suppress(OSError):
                    return Response(*self._connection.ask(method, f"/store{path}", body))
                self._connection = None
        return Response(503)

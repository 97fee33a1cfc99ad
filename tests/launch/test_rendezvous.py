"""Attacks on the server of node 0 and the local store, on real sockets."""

import contextlib
import json
import logging
import re
import resource
import socket
import subprocess
import sys
import threading
import time

import pytest

from pipeline.launch import bounded_http
from pipeline.launch.registry import Registry
from pipeline.launch.rendezvous import (
    Connection,
    RejectedRequests,
    RemoteStore,
    Services,
    TokenMismatch,
    send_report,
    serve,
)
from pipeline.launch.reports import Report, View
from pipeline.launch.signatures import Signer
from pipeline.launch.store import LocalStore, Store
from pipeline.runtimes.messages import read, write

TOKEN = "0123456789abcdef" * 2
HOSTS = ("127.0.0.1", "127.0.0.2")
FACTS = {"--hosts": ",".join(HOSTS), "--processes-per-node": "1"}
ATTEMPT = "a" * 32


def report(index, **changes):
    return Report(**{"index": index, "uid": f"{index}" * 32, "hostname": f"host-{index}"}
                  | {"facts": FACTS} | changes)  # fmt: skip


@pytest.fixture
def registry():
    registry = Registry(HOSTS, ATTEMPT, FACTS)
    registry.update(report(0))
    return registry


@pytest.fixture
def server(registry):
    server = serve(
        Services(registry, Store(2).answer), ("127.0.0.1", 0), HOSTS[0], Signer(TOKEN),
        RejectedRequests(), 2,
    )  # fmt: skip
    yield server
    server.close()


def connect(port, token=TOKEN):
    return contextlib.closing(Connection(("127.0.0.1", port), HOSTS[0], Signer(token), 2))


def send(port, data, timeout_s=10):
    """The response of the server to these bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
        with contextlib.suppress(OSError):  # it need not take all
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(1 << 16):
                answer += data
        return answer


def request(method, path, body=b"", host=HOSTS[0], **headers):
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


FORGED = json.dumps(
    {"index": 1, "uid": "f" * 32, "hostname": "x", "facts": {}, "attempt": None}
).encode()
JSON = {"Content_Type": "application/json"}


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("POST", "/report", FORGED, **JSON), 403),
        (request("POST", "/launch", FORGED, **JSON), 403),
        (request("POST", "/report", FORGED, **JSON, X_Vit_Signature="0" * 64), 403),
        (request("POST", "/report", FORGED, **JSON, X_Vit_Signature="\xe9"), 400),
        (request("PUT", "/store/global_/0", b"x"), 403),
        (request("GET", "/store/global_/0"), 403),
        (request("DELETE", "/store/global_/0"), 403),
        (request("GET", "/"), 403),
        (request("HEAD", "/README.md"), 403),
        (request("OPTIONS", "/report"), 403),
        (request("GET", "/etc/passwd"), 403),
        (request("GET", "/hello", Origin="https://example.com"), 403),
        (request("GET", "/hello", host="example.com"), 403),
        (b"GET /hello HTTP/1.1\r\n\r\n", 403),
        (b"POST /report HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /report HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: +1\r\n\r\nx", 400),
        (b"POST /report HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1_0\r\n\r\n", 400),
        (b"POST /report HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /report HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 411),
        (b"PUT /store/a/b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"PUT /store/a/b HTTP/1.1\r\nContent-Length: 629145600\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 2, None),
        (b"GET / HTTP/1.1\r\n" + b"x" * 10_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % i for i in range(50)) + b"\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET http://127.0.0.1/ HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/0.9\r\n\r\n", 400),
        (b"", None),
    ],
    ids=lambda value: str(value)[:60],
)
def test_unauthenticated_requests_are_rejected_without_details(server, registry, sent, status):
    answer = send(server.port, sent)
    if status is None:
        assert answer == b""
    else:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split()[1] == str(status).encode()
        assert body == b""
        assert b"Python" not in head
    view = registry.update(report(0))
    assert (view.phase, view.missing, view.error) == ("waiting", [1], None)


def test_a_member_is_admitted_and_gets_the_view(server):
    with connect(server.port) as connection:
        view = send_report(connection, report(1))
        assert (view.phase, view.attempt) == ("running", ATTEMPT)
        assert connection.own_address == "127.0.0.1"
        assert connection.ask("PUT", "/store/a/b", b"\0value") == (200, b"")
        assert connection.ask("GET", "/store/a/b") == (200, b"\0value")


def test_a_different_token_is_rejected(server, registry):
    with connect(server.port, "another" * 5) as connection, pytest.raises(TokenMismatch) as caught:
        send_report(connection, report(1))
    assert "uses a different VIT_LAUNCH_TOKEN" in str(caught.value)
    assert registry.update(report(0)).missing == [1]


class Relay:
    """Relays between a client and the server, records messages, and may change responses."""

    def __init__(self, port, change):
        self.requests, self._change = [], change
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._server = socket.create_connection(("127.0.0.1", port), 10)
        self._thread = threading.Thread(target=self._pass)
        self._thread.start()

    def _pass(self):
        client, _ = self._listener.accept()
        with client, contextlib.suppress(OSError):
            while data := client.recv(1 << 20):
                self.requests.append(data)
                self._server.sendall(data)
                client.sendall(self._change(self._server.recv(1 << 20)))

    def replay(self):
        """Repeats the last request on its connection."""
        self._server.sendall(self.requests[-1])
        return self._server.recv(1 << 16)

    def close(self):
        self._thread.join()
        self._server.close()
        self._listener.close()


@pytest.fixture
def relay(server):
    with contextlib.ExitStack() as stack:

        def start(change=lambda answer: answer):
            return stack.enter_context(contextlib.closing(Relay(server.port, change)))

        yield start


def test_a_recorded_request_is_refused_on_its_own_connection_and_on_every_other(server, relay):
    relay = relay()
    with connect(relay.port) as connection:
        connection.ask("PUT", "/store/a/b", b"")
    replayed = relay.requests[-1]
    assert b"PUT /store/a/b" in replayed
    assert relay.replay().startswith(b"HTTP/1.1 403")
    assert send(server.port, replayed).startswith(b"HTTP/1.1 403")
    with socket.create_connection(("127.0.0.1", server.port), 10) as other:
        other.sendall(request("GET", "/hello"))
        assert other.recv(1 << 16).startswith(b"HTTP/1.1 200")
        other.sendall(replayed)
        assert other.recv(1 << 16).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: answer.replace(b"HTTP/1.1 404", b"HTTP/1.1 200"),
        lambda answer: re.sub(rb"X-Vit-Signature: .*\r\n", b"", answer),
        lambda answer: answer.replace(b"X-Vit-Signature: ", b"X-Vit-Signature: \xe9"),
        lambda answer: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        lambda answer: b"SSH-2.0-OpenSSH\r\n",
    ],
)
def test_a_forged_response_is_rejected(relay, change):
    def change_signed(answer):
        return change(answer) if b"vit-launch" not in answer else answer

    relay = relay(change_signed)
    with connect(relay.port) as connection, pytest.raises(OSError, match="is not a launcher"):
        connection.ask("GET", "/store/a/b")


def test_an_earlier_response_is_rejected_for_a_later_request(relay):
    answers = []

    def repeat(answer):
        answers.append(answer)
        return answers[1] if len(answers) > 2 else answer

    relay = relay(repeat)
    with connect(relay.port) as connection:
        assert connection.ask("GET", "/store/a/b") == (404, b"")
        with pytest.raises(OSError, match="is not a launcher"):
            connection.ask("GET", "/store/a/b")


def wire(**changes):
    """A serialized report with some entries changed or left out."""
    entries = json.loads(write(report(1))) | changes
    return json.dumps({name: value for name, value in entries.items() if value != "left out"})


@pytest.mark.parametrize(
    "body",
    [
        "[" * 50_000,
        "[" * 50_000 + "]" * 50_000,
        '{"facts":' * 50_000,
        wire(facts="left out"),
        wire(facts=[]),
        wire(facts={"--hosts": 1}),
        wire(facts={f"{i}": "" for i in range(17)}),
        wire(index="1"),
        wire(index=True),
        wire(index=1.0),
        wire(index=-1),
        wire(index=2),
        wire(index=10**400),
        wire(uid="left out"),
        wire(uid="../../etc"),
        wire(uid="1" * 33),
        wire(hostname="h" * 256),
        wire(hostname=None),
        wire(attempt=7),
        wire(code=256),
        wire(code="0"),
        wire(failure=[1]),
        wire(failure=[1, "x" * 40_000]),
        wire(more=1),
        '{"index": NaN}',
        wire(hostname="\ud800"),
        "null",
        "",
        "\xff",
    ],
    ids=lambda body: body[:60],
)
def test_a_malformed_report_of_a_member_is_one_line_and_changes_nothing(server, registry, body):
    with connect(server.port) as connection:
        status, answer = connection.ask("POST", "/report", body.encode("latin-1"))
        assert status == 400
        assert len(answer.splitlines()) == 1
        assert connection.ask("GET", "/store/a/b")[0] == 404  # it goes on
    assert registry.update(report(0)).missing == [1]


def test_text_from_other_nodes_is_escaped_on_arrival():
    hostile = "\x1b]0;owned\x07\x1b[2J"
    seen = read(Report, write(report(1, hostname=hostile, failure=(1, f"a\n{hostile}\n\tb"))))
    assert seen.hostname == r"\x1b]0;owned\x07\x1b[2J"
    assert seen.failure == (1, "a\n\\x1b]0;owned\\x07\\x1b[2J\n\tb")
    view = View(ATTEMPT, "running", [], [None], [(1, hostile)], hostile, 76)
    seen = read(View, write(view))
    assert "\x1b" not in seen.error + seen.failures[0][1]


def test_a_slow_request_ends_at_its_deadline(server, monkeypatch):
    monkeypatch.setattr(bounded_http, "UNAUTHENTICATED_S", 1.0)
    start_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        for byte in request("GET", "/hello", X_Long="x" * 1000):
            try:
                connection.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.05)
    assert 0.9 < time.monotonic() - start_s < 3


@pytest.mark.parametrize("slow", [b"", b"POST /report HTTP/1.1\r\nContent-Length: 999\r\n\r\nx"])
def test_400_slow_connections_do_not_displace_a_member(server, slow):
    with contextlib.ExitStack() as stack:
        member = stack.enter_context(connect(server.port))
        assert send_report(member, report(1)).phase == "running"
        for _ in range(400):
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", server.port), 10)
            )
            connection.sendall(slow)
        time.sleep(0.3)
        ours = [t for t in threading.enumerate() if "_serve" in t.name]
        assert 64 <= len(ours) <= 64 + 4 * 2 + 8
        start_s = time.monotonic()
        assert send_report(member, report(1)).phase == "running"
        with connect(server.port) as another:
            assert send_report(another, report(1)).phase == "running"
        assert time.monotonic() - start_s < 2


def test_a_request_of_600_mb_is_not_read(server):
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    piece = b"x" * (1 << 20)
    for length in ("-1", "629145600"):
        sent = 0
        head = f"PUT /store/a/b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n"
        with (
            socket.create_connection(("127.0.0.1", server.port), 10) as connection,
            contextlib.suppress(OSError),
        ):
            connection.sendall(head.encode())
            for _ in range(600):
                connection.sendall(piece)
                sent += 1
        assert sent < 50
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 50_000


def test_rejected_requests_are_logged_once_a_minute(caplog):
    caplog.set_level(logging.WARNING, "pipeline.launch.rendezvous_client")
    rejected_requests = RejectedRequests()
    for _ in range(1000):
        rejected_requests.record("10.0.0.7")
    assert [record.getMessage() for record in caplog.records] == [
        "rejected a request without this job's VIT_LAUNCH_TOKEN, the last from 10.0.0.7"
    ]


def test_the_store_is_bounded_and_forgets_what_is_deleted():
    store = Store(ranks=1)
    value = b"x" * (1 << 20)
    statuses = [store.answer("PUT", f"/scope/{i}", value).status for i in range(40)]
    assert statuses[:15] == [200] * 15
    assert statuses[-1] == 507
    for i in range(40):
        assert store.answer("DELETE", f"/scope/{i}", b"").status == 200
    assert store.answer("GET", "/scope/0", b"").status == 404
    for _ in range(100):  # one key again and again takes the place of one
        assert store.answer("PUT", "/scope/0", value).status == 200
    assert store.answer("GET", "/scope/0", b"").body == value


@pytest.mark.parametrize("path", ["/", "/a", "/a/", "/a/b/c", "//b", f"/{'a' * 300}/b"])
def test_the_store_has_only_scopes_and_keys(path):
    assert Store(1).answer("PUT", path, b"").status == 400


def test_a_request_is_retried_after_an_idle_connection_was_closed(server, monkeypatch):
    monkeypatch.setattr(bounded_http, "_IDLE_S", 0.2)
    made = []

    def make():
        made.append(Connection(("127.0.0.1", server.port), HOSTS[0], Signer(TOKEN), 2))
        return made[-1]

    store = RemoteStore(make)
    assert store.answer("PUT", "/a/b", b"value").status == 200
    assert store.answer("GET", "/a/b", b"").body == b"value"
    time.sleep(0.5)
    assert store.answer("GET", "/a/b", b"").body == b"value"
    assert len(made) == 2
    server.close()
    assert store.answer("GET", "/a/b", b"").status == 503


@pytest.fixture
def local():
    store = Store(2)
    local = LocalStore(store.answer, RejectedRequests().record, 2)
    yield local
    local.close()


def test_the_local_store_accepts_requests_of_horovod(local):
    address, port = local.address
    path = f"/{address.partition('/')[2]}:{port}"  # as Horovod puts it together
    put = request("PUT", f"{path}/global_/0", b"\0\r\n\r\n", host="127.0.0.1")
    assert send(port, put).startswith(b"HTTP/1.1 200")
    assert send(port, request("GET", f"{path}/global_/0")).endswith(b"\r\n\r\n\0\r\n\r\n")
    assert send(port, request("GET", f"{path}/global_/1")).startswith(b"HTTP/1.1 404")
    assert send(port, request("DELETE", f"{path}/global_/0")).startswith(b"HTTP/1.1 200")
    assert send(port, request("GET", f"{path}/global_/0")).startswith(b"HTTP/1.1 404")
    assert send(port, request("HEAD", f"{path}/global_/0")).startswith(b"HTTP/1.1 405")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/global_/0", {}),
        ("/{port}/global_/0", {}),
        ("/" + "0" * 32 + ":{port}/global_/0", {}),
        ("/{secret}/global_/0", {}),
        ("/{secret}:{port}/global_/0", {"Origin": "http://127.0.0.1"}),
        ("/{secret}:{port}/global_/0", {"host": "localhost.example.com"}),
    ],
)
def test_the_local_store_rejects_clients_without_its_path(local, path, headers):
    address, port = local.address
    path = path.format(port=port, secret=address.partition("/")[2])
    for method in ("PUT", "GET", "DELETE", "HEAD"):
        sent = request(method, path, b"x" if method == "PUT" else b"", **headers)
        assert send(port, sent).startswith(b"HTTP/1.1 403")


@pytest.mark.processes
def test_the_rendezvous_starts_without_tensorflow_and_horovod():
    code = (
        "import sys, pipeline.launch.rendezvous_client\n"
        "sys.exit(not {'tensorflow', 'numpy', 'horovod'}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Processes of a job wait for each other, and say who is missing. Nothing imports TensorFlow."""

import http.server
import logging
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from pipeline.errors import PeerLost, SettingsError
from pipeline.runtimes import gathering
from pipeline.runtimes.gathering import gather_by_address, gather_by_store
from pipeline.runtimes.ports import find_free_ports


@pytest.fixture
def addresses():
    first = find_free_ports(3, random.SystemRandom())
    return [f"127.0.0.1:{first + rank}" for rank in range(3)]


@pytest.fixture
def store():
    """Address of a server that keeps what is put there, as Horovod's rendezvous does."""
    kept = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self):
            kept[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(200)

        def do_GET(self):
            self._answer(200 if self.path in kept else 404)

        def _answer(self, code):
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_address[:2]
    server.shutdown()
    server.server_close()


@pytest.fixture
def notes(monkeypatch, caplog):
    """What is printed while they wait, at once and all the time."""
    monkeypatch.setattr(gathering, "_FIRST_REPORT_S", 0.0)
    monkeypatch.setattr(gathering, "_REPORT_EVERY_S", 0.1)
    caplog.set_level(logging.INFO, "pipeline.runtimes.kinds.joined")
    return caplog


def ends(*calls):
    """What each call, in a thread of its own, returned or raised."""

    def end(call):
        try:
            return call()
        except (PeerLost, SettingsError) as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(end, calls))


def at(addresses, rank, limit_s=30.0, after_s=0.0):
    def call():
        time.sleep(after_s)
        return gather_by_address(addresses, rank, limit_s)

    return call


def in_store(store, rank, limit_s=30.0, size=3, hosts=()):
    return lambda: gather_by_store(store, rank, size, hosts, limit_s)


@pytest.mark.parametrize("late", [0, 2])
def test_workers_go_on_when_all_have_come(addresses, late):
    calls = [at(addresses, rank, after_s=0.5 * (rank == late)) for rank in range(3)]
    assert ends(*calls) == [None] * 3
    # TensorFlow can serve there now.
    socket.create_server(("", int(addresses[0].rpartition(":")[2]))).close()


def test_one_worker_waits_for_nobody(addresses):
    gather_by_address(addresses[:1], 0, limit_s=0.0)


def test_workers_that_do_not_come_are_named_on_all(addresses, notes):
    first, second = ends(at(addresses, 0, limit_s=2.0), at(addresses, 1))
    said = f"1 of the job's processes has not arrived: rank 2 ({addresses[2]})"
    assert f"gave up after 2 s: {said}" in str(first)
    assert (str(second), second.exit_code) == (str(first), 76)
    assert said in notes.text


def test_a_missing_chief_is_named_by_the_others(addresses, notes):
    (error,) = ends(at(addresses, 2, limit_s=1.0))
    said = f"has not arrived: rank 0 ({addresses[0]}): Connection refused"
    assert said in str(error)
    assert said in notes.text
    assert error.exit_code == 76


def test_workers_of_different_clusters_end_with_2(addresses):
    others = [*addresses[:2], "127.0.0.1:1"]
    found = ends(at(addresses, 0), at(others, 1))
    assert {error.exit_code for error in found} == {2}
    assert all("rank 1 on" in str(error) and "the same cluster" in str(error) for error in found)


def test_a_stranger_and_a_worker_that_comes_again_do_no_harm(addresses):
    host, port = addresses[0].split(":")

    def disturb():
        limit = time.monotonic() + 20
        for words in (b"GET / HTTP/1.1\r\n\r\n", b'{"rank": 1', b""):
            while time.monotonic() < limit:
                try:
                    with closing(socket.create_connection((host, int(port)))) as stranger:
                        stranger.sendall(words)
                    break
                except OSError:
                    time.sleep(0.05)

    calls = [at(addresses, 0), disturb, at(addresses, 1), at(addresses, 2, after_s=1.0)]
    assert ends(*calls) == [None] * 4


def test_a_place_that_is_taken_is_an_error(addresses):
    host, port = addresses[1].split(":")
    with closing(socket.create_server((host, int(port)))):
        (error,) = ends(at(addresses, 1, limit_s=0.2))
    assert f"port {port} of this host is in use" in str(error)
    assert "env -u TF_CONFIG" in str(error)


def test_ranks_of_horovod_go_on_when_all_have_come(store):
    assert ends(*(in_store(store, rank) for rank in range(3))) == [None] * 3


def test_ranks_of_horovod_that_do_not_come_are_named_with_their_hosts(store, notes):
    waiting = [in_store(store, rank, 1.0, hosts=["h0", "h1", "h2"]) for rank in (0, 2)]
    first, second = ends(*waiting)
    said = "1 of the job's processes has not arrived: rank 1 on h1"
    assert f"gave up after 1 s: {said}" in str(first)
    assert said in str(second)
    assert first.exit_code == second.exit_code == 76
    assert said in notes.text


def test_a_rendezvous_that_does_not_answer_is_named(addresses):
    host, port = addresses[0].split(":")
    (error,) = ends(in_store((host, int(port)), 1, limit_s=0.5))
    assert f"the rendezvous at {addresses[0]} does not answer" in str(error)

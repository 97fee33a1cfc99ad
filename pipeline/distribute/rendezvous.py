"""The server on node 0 at which launchers and processes meet, and how launchers speak to it.

One port serves the launchers' reports (registry.py) and Horovod's own rendezvous. It is plain HTTP
without authentication: only the job's own nodes should reach it.
"""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from dataclasses import asdict
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, cast

from pipeline.distribute.registry import Registry, Report, View

_LARGEST_REPORT = 1 << 20


def serve(registry: Registry, address: str, port: int, slots: int, for_horovod: bool) -> HTTPServer:
    """Starts node 0's server in a thread of its own; port 0 takes a free one.

    Raises:
      OSError: The port is taken.
      ModuleNotFoundError: Horovod is not installed, and asked for.
    """
    server: Any
    if not for_horovod:
        server = _server_class(socketserver.ThreadingMixIn, HTTPServer)(
            (address, port), _handler_class(registry, BaseHTTPRequestHandler)
        )
    else:
        from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
        from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

        handler = _handler_class(registry, RendezvousHandler)
        server = _server_class(RendezvousHTTPServer)((address, port), handler, 0)
        hosts = parse_hosts(",".join(f"{host}:{slots}" for host in registry.hosts))
        server.init(get_host_assignments(hosts, slots * len(registry.hosts)))
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    return cast(HTTPServer, server)


def _server_class(*bases: type) -> Any:
    class Server(*bases):  # type: ignore[misc]
        # Every process asks again each 10 ms while it waits; the default of 5 drops connections.
        request_queue_size = 1024
        daemon_threads = True

        def server_bind(self) -> None:
            # HTTPServer's own looks its name up, which can take many seconds and is not needed.
            socketserver.TCPServer.server_bind(self)
            self.server_name, self.server_port = self.server_address[:2]

    return Server


def _handler_class(registry: Registry, base: type) -> Any:
    class Handler(base):
        timeout = 3

        def do_POST(self) -> None:  # noqa: N802
            try:
                length = min(int(self.headers["Content-Length"]), _LARGEST_REPORT)
                report = Report(**json.loads(self.rfile.read(length)))
                view = registry.update(report, self.connection.getsockname()[0])
            except (ValueError, TypeError, KeyError) as error:
                self.send_error(400, str(error))
                return
            body = json.dumps(asdict(view)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


def tell(address: str, port: int, report: Report, timeout_s: float = 3.0) -> tuple[View, str]:
    """Sends a report to node 0 and returns its answer and the own address on the way there.

    Raises:
      OSError: With a message for the user: nothing answers, or what answers is no launcher.
    """
    connection = HTTPConnection(address, port, timeout=timeout_s)
    try:
        connection.connect()
        own = connection.sock.getsockname()[0]
        connection.request("POST", "/launch", json.dumps(asdict(report)))
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise ValueError(f"{answer.status} {answer.reason}")
        return View(**json.loads(body)), own
    except (HTTPException, ValueError, TypeError) as error:
        raise OSError(f"what answers at {address}:{port} is no launcher ({error!r})") from None
    except OSError as error:
        raise OSError(f"{address}:{port}: {error.strerror or error}") from None
    finally:
        connection.close()


def resolve(host: str) -> str:
    """The IPv4 address of a name: Horovod's client knows no other.

    Raises:
      OSError: With a message for the user.
    """
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise OSError(f"the name {host} does not resolve ({error.strerror or error})") from None
    return str(found[0][4][0])

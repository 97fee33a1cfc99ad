"""Another user of this machine, who attacks a job: python stranger.py PORT STORE_PORT RANK_PID.

Prints as JSON what came of each attempt. Started by root, it becomes nobody first.
"""

import contextlib
import encodings.idna  # noqa: F401  # nobody may not read where Python is
import json
import os
import socket
import sys
import time


def ask(port: int, text: str) -> int:
    """The status of the answer to a request; 0 where the connection is closed without one."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(text.replace("\n", "\r\n").encode())
        try:
            answer = connection.recv(1 << 16)
        except ConnectionResetError:
            answer = b""
    return int(answer.split()[1]) if answer else 0


def post(path: str, body: str, length: int | None = None) -> str:
    length = len(body) if length is None else length
    return (
        f"POST {path} HTTP/1.1\nHost: 127.0.0.1\nContent-Type: application/json\n"
        f"Content-Length: {length}\n\n{body}"
    )


def attack(port: int, store_port: int, rank: int) -> dict[str, int | str]:
    forged = [
        {"index": index, "uid": "f" * 32, "hostname": "\x1b[2J", "facts": {}, "failure": [2, "!"]}
        for index in (0, 1)
    ]
    found: dict[str, int | str] = {}
    for path in ("/launch", "/report"):
        for report in forged:
            found[f"{path} {report['index']}"] = ask(port, post(path, json.dumps(report)))
    found["nested"] = ask(port, post("/report", "[" * 50_000))
    found["negative"] = ask(port, post("/report", "x", -1))
    found["huge"] = ask(port, post("/report", "x", 600 << 20))
    found["HEAD"] = ask(port, "HEAD / HTTP/1.1\nHost: 127.0.0.1\n\n")
    found["PUT"] = ask(
        port, "PUT /store/global_/0 HTTP/1.1\nHost: 127.0.0.1\nContent-Length: 1\n\nx"
    )
    if store_port:
        found["store PUT"] = ask(
            store_port, "PUT /global_/0 HTTP/1.1\nHost: 127.0.0.1\nContent-Length: 1\n\nx"
        )
        found["store GET"] = ask(store_port, "GET /global_/0 HTTP/1.1\nHost: 127.0.0.1\n\n")
        try:
            with open(f"/proc/{rank}/environ", "rb") as environment:
                found["environment"] = environment.read().decode()
        except PermissionError:
            found["environment"] = "not permitted"
    return found


if __name__ == "__main__":
    port, store_port, rank = map(int, sys.argv[1:])
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    slow = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(400)]
    for connection in slow:
        with contextlib.suppress(OSError):  # it was closed for a newer one
            connection.sendall(b"POST /report HTTP/1.1\r\n")
    print(json.dumps(attack(port, store_port, rank)), flush=True)
    time.sleep(3600)  # and keeps the connections

"""The server's end of `exec`: a WebSocket (RFC 6455) with the channels of v5.channel.k8s.io."""

import base64
import hashlib
import json
import struct
import subprocess

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_STDOUT, _ERROR = 1, 3
_BINARY, _CLOSE = 0x2, 0x8
_LARGEST = 4096  # of a frame's data, so that outputs come in several


def serve(handler, command, environment):
    """Answers the upgrade that `handler` has read, runs the command, and sends what it prints."""
    offered = [p.strip() for p in handler.headers["Sec-WebSocket-Protocol"].split(",")]
    protocol = next(p for p in ("v5.channel.k8s.io", "v4.channel.k8s.io") if p in offered)
    key = handler.headers["Sec-WebSocket-Key"] + _MAGIC
    handler.send_response(101, "Switching Protocols")
    handler.send_header("Upgrade", "websocket")
    handler.send_header("Connection", "Upgrade")
    accept = base64.b64encode(hashlib.sha1(key.encode(), usedforsecurity=False).digest())
    handler.send_header("Sec-WebSocket-Accept", accept.decode())
    handler.send_header("Sec-WebSocket-Protocol", protocol)
    handler.end_headers()
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    for i in range(0, len(done.stdout), _LARGEST):
        _send(handler, _BINARY, bytes([_STDOUT]) + done.stdout[i : i + _LARGEST])
    status = {"metadata": {}, "status": "Success"}
    if done.returncode:
        cause = {"reason": "ExitCode", "message": str(done.returncode)}
        status |= {
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "message": f"command terminated with non-zero exit code: {done.returncode}",
            "details": {"causes": [cause]},
        }
    _send(handler, _BINARY, bytes([_ERROR]) + json.dumps(status).encode())
    _send(handler, _CLOSE, struct.pack(">H", 1000))
    handler.close_connection = True


def _send(handler, opcode, data):
    """One whole frame, without a mask: only clients mask."""
    if len(data) < 126:
        head = struct.pack(">BB", 0x80 | opcode, len(data))
    else:
        head = struct.pack(">BBH", 0x80 | opcode, 126, len(data))
    handler.wfile.write(head + data)
    handler.wfile.flush()

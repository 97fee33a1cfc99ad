"""The job's token, and the signatures by which those who know it recognize each other.

Whoever can reach a port of a job may send anything to it. Each request and each response between
launchers is therefore signed with HMAC-SHA256. A signature covers a random challenge that the
server draws for each connection, and the number of the request on that connection. So a recorded
request is worthless on every other connection, and the server needs neither a clock nor a memory
of what it has seen. The response also covers the client's nonce and the request's number, so that
it answers this request and no other.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping

from pipeline.errors import SettingsError

TOKEN = "VIT_LAUNCH_TOKEN"  # noqa: S105  # the name of the variable
# 16 random bytes as hexadecimal digits; `openssl rand -hex 32` writes twice as many.
_SHORTEST, _LONGEST = 32, 1024
_HOW = (
    f"Run `export {TOKEN}=$(openssl rand -hex 32)` on one node, set the same value on all others, "
    "and use it for this job only"
)


def find_token(environment: Mapping[str, str], nodes: int) -> str:
    """The job's token: that of the environment, or on one node a new one.

    Raises:
      SettingsError: Several nodes need a token, and there is none that can be used. The message
        never contains it.
    """
    if nodes == 1:
        return secrets.token_hex(32)
    token = environment.get(TOKEN, "").strip()
    if not token:
        raise SettingsError(
            f"a job of {nodes} nodes needs a secret by which they know each other: {TOKEN} is "
            f"not set. {_HOW}"
        )
    if not re.fullmatch(r"[!-~]+", token) or not _SHORTEST <= len(token) <= _LONGEST:
        raise SettingsError(
            f"{TOKEN} must be {_SHORTEST} to {_LONGEST} printable characters without spaces. "
            f"Received: {len(token)} characters. {_HOW}"
        )
    return token


class Signer:
    """Signs with a job's token."""

    def __init__(self, token: str) -> None:
        # A key of its own for this protocol, should the token ever sign something else.
        self._key = hmac.digest(token.encode(), b"vit launch, version 1", "sha256")

    def sign(self, *parts: str | int | bytes) -> str:
        """The signature of these parts, in this order, as hexadecimal digits."""
        message = b""
        for part in parts:
            data = part if isinstance(part, bytes) else str(part).encode()
            # With its length before each, no two lists of parts have the same bytes.
            message += len(data).to_bytes(8, "big") + data
        return hmac.digest(self._key, message, "sha256").hex()

    def is_signed(self, signature: str, *parts: str | int | bytes) -> bool:
        """Whether this is the signature of these parts; takes the same time for any other."""
        return hmac.compare_digest(signature.encode(), self.sign(*parts).encode())

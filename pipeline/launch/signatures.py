"""The token of a job, and the signatures with which its launchers authenticate each other.

Anyone who can reach a port of the job may send anything to it. Each request and each response
between launchers is therefore signed with HMAC-SHA256. A signature covers a random challenge, which
the server draws for each connection, and the number of the request on that connection. A recorded
request is therefore invalid on every other connection, and the server needs neither a clock nor a
list of past requests. The response also covers the client's nonce and the number of the request, so
that it is valid for this request only.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping

from pipeline.errors import SettingsError

TOKEN = "VIT_LAUNCH_TOKEN"  # noqa: S105  # name of the environment variable
# 16 random bytes as hexadecimal digits. `openssl rand -hex 32` prints twice as many.
_MIN_LENGTH, _MAX_LENGTH = 32, 1024
_HOW = (
    f"Run `export {TOKEN}=$(openssl rand -hex 32)` on one node, set the same value on all others, "
    "and use it for this job only"
)


def find_token(environment: Mapping[str, str], nodes: int) -> str:
    """Finds the token in the environment. A job on one node gets a new random token.

    Raises:
      SettingsError: There are several nodes, and the token is missing or invalid. The message
        never contains the token.
    """
    if nodes == 1:
        return secrets.token_hex(32)
    token = environment.get(TOKEN, "").strip()
    if not token:
        raise SettingsError(
            f"a job of {nodes} nodes needs a shared secret, but {TOKEN} is not set. {_HOW}"
        )
    if not re.fullmatch(r"[!-~]+", token) or not _MIN_LENGTH <= len(token) <= _MAX_LENGTH:
        raise SettingsError(
            f"{TOKEN} must be {_MIN_LENGTH} to {_MAX_LENGTH} printable characters without spaces. "
            f"Received: {len(token)} characters. {_HOW}"
        )
    return token


class Signer:
    """Signs and verifies messages with the token of a job."""

    def __init__(self, token: str) -> None:
        # The key is derived for this protocol, in case the token is ever used for another one.
        self._key = hmac.digest(token.encode(), b"vit launch, version 1", "sha256")

    def sign(self, *parts: str | int | bytes) -> str:
        """The signature of these parts, in this order, in hexadecimal digits."""
        message = b""
        for part in parts:
            data = part if isinstance(part, bytes) else str(part).encode()
            # The length prefixes ensure that different lists of parts give different messages.
            message += len(data).to_bytes(8, "big") + data
        return hmac.digest(self._key, message, "sha256").hex()

    def is_signed(self, signature: str, *parts: str | int | bytes) -> bool:
        """Verifies the signature of these parts in constant time."""
        return hmac.compare_digest(signature.encode(), self.sign(*parts).encode())

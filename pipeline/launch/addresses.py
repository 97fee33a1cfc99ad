"""IPv4 addresses of nodes, and which of this host's own the other nodes reach."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from contextlib import closing, suppress

from pipeline.errors import SettingsError

# Of the networks set aside for examples (RFC 5737): no packet is sent, only a route looked up.
_ELSEWHERE = "192.0.2.1"
# A name that does not resolve can take seconds; one that does is enough.
_MOST_NAMES = 4


def resolve(host: str) -> str:
    """The IPv4 address of a name: Horovod's client knows no other.

    Raises:
      OSError: With a message for the user.
    """
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"the name {host} does not resolve ({reason})") from None
    return str(found[0][4][0])


def find_own_address(hosts: Sequence[str]) -> str:
    """The address of this host, node 0, to listen at.

    That to which its name leads, where it is this host's: then the other nodes come to it by the
    same name. Debian maps a host's own name to 127.0.1.1, a cloud may give a name to an address
    that is translated, and in Kubernetes a name may not resolve yet. Then it is the address from
    which packets to the other nodes are sent.

    Args:
      hosts: All nodes; this one is the first.

    Raises:
      SettingsError: There is none.
    """
    if len(hosts) == 1:
        return "127.0.0.1"  # nobody outside need reach it
    with suppress(OSError):
        address = resolve(hosts[0])
        if (address == hosts[0] or not _is_loopback(address)) and _is_own(address):
            return address
    for host in hosts[1:_MOST_NAMES]:
        with suppress(OSError):
            other = resolve(host)
            if (other == host or not _is_loopback(other)) and (own := _source_towards(other)):
                return own
    if own := _source_towards(_ELSEWHERE):
        return own
    raise SettingsError(
        f"no network interface of this host leads to the other nodes ({', '.join(hosts[1:])}), and "
        f"{hosts[0]} is no address of this host: give its IPv4 address as the first of --hosts"
    )


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _is_own(address: str) -> bool:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _source_towards(address: str) -> str | None:
    """The own address that the route to another one has; None without a route."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])

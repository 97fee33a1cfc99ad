"""Resolves the IPv4 addresses of nodes, and finds the address at which others reach this host."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from contextlib import closing, suppress

from pipeline.errors import SettingsError

# An address reserved for documentation (RFC 5737). Only its route is looked up; no packet is sent.
_ELSEWHERE = "192.0.2.1"
# Resolving an unknown name can take seconds, and one name that resolves is enough.
_MAX_NAMES = 4


def resolve(host: str) -> str:
    """Resolves a name to an IPv4 address. Horovod's client does not support IPv6.

    Raises:
      OSError: The name does not resolve. The message is for the user.
    """
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"the name {host} does not resolve ({reason})") from None
    return str(found[0][4][0])


def find_own_address(hosts: Sequence[str]) -> str:
    """Finds the address at which this host should listen.

    This is the address that its name resolves to, if it is an address of this host, because the
    other nodes connect by that name. The name may not help: Debian maps a host's own name to
    127.0.1.1, a cloud may use translated addresses, and in Kubernetes a name may not resolve yet.
    Then this is the source address of packets to the other nodes.

    Args:
      hosts: All nodes, this host first.

    Raises:
      SettingsError: No address was found.
    """
    if len(hosts) == 1:
        return "127.0.0.1"  # nothing outside this host connects
    with suppress(OSError):
        address = resolve(hosts[0])
        if (address == hosts[0] or not _is_loopback(address)) and _is_own(address):
            return address
    for host in hosts[1:_MAX_NAMES]:
        with suppress(OSError):
            other = resolve(host)
            if (other == host or not _is_loopback(other)) and (own := _source_towards(other)):
                return own
    if own := _source_towards(_ELSEWHERE):
        return own
    raise SettingsError(
        f"no network interface of this host leads to the other nodes ({', '.join(hosts[1:])}), and "
        f"{hosts[0]} is not an address of this host. Give its IPv4 address first in --hosts"
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
    """The source address of packets to an address; None without a route."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])

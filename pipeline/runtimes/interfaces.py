"""This host's network interfaces, and whether those that the environment names are among them."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import SettingsError

# Of <linux/sockios.h> and <linux/if.h>.
_SIOCGIFFLAGS, _SIOCGIFADDR = 0x8913, 0x8915
_IFF_UP = 1

GLOO, NCCL = "HOROVOD_GLOO_IFACE", "NCCL_SOCKET_IFNAME"


class Interface(NamedTuple):
    """A network interface.

    Attributes:
      address: Its first IPv4 address, None without.
      has_ipv6: Whether it has an IPv6 address.
    """

    name: str
    address: str | None
    is_up: bool = True
    has_ipv6: bool = False

    def __str__(self) -> str:
        down = "" if self.is_up else "down, "
        return f"{self.name} ({down}{self.address or 'no IPv4 address'})"


def list_interfaces() -> list[Interface]:
    """All interfaces of this host, or of this container."""
    with_ipv6 = set()
    with suppress(OSError):  # the kernel has no IPv6
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
        with_ipv6 = {line.split()[-1] for line in lines}
    found = []
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        for _, name in socket.if_nameindex():
            flags = _ask(probe, _SIOCGIFFLAGS, name)
            address = _ask(probe, _SIOCGIFADDR, name)
            found.append(
                Interface(
                    name,
                    # struct ifreq: 16 bytes of name, then the flags, or a sockaddr_in.
                    socket.inet_ntoa(address[20:24]) if address else None,
                    bool(flags and struct.unpack_from("H", flags, 16)[0] & _IFF_UP),
                    name in with_ipv6,
                )
            )
    return found


def _ask(probe: socket.socket, request: int, name: str) -> bytes | None:
    try:
        return fcntl.ioctl(probe.fileno(), request, struct.pack("256s", name.encode()[:15]))
    except OSError:
        return None  # it has no IPv4 address, or was removed meanwhile


def find_interface(address: str) -> str:
    """Name of the interface that has this IPv4 address.

    Raises:
      SettingsError: None has.
    """
    if address.startswith("127."):
        return "lo"
    interfaces = list_interfaces()
    for interface in interfaces:
        if interface.address == address:
            return interface.name
    raise SettingsError(
        f"no network interface has the address {address}, at which this node reaches the others. "
        f"There are {_listed(interfaces)}. Name one: {GLOO}=eth0 {NCCL}=eth0 vit launch ..."
    )


def check_interfaces(
    environment: Mapping[str, str], host: str, gloo: bool, interfaces: Sequence[Interface]
) -> None:
    """Checks the variables by which Gloo and NCCL choose an interface of this host.

    Args:
      host: For the message.
      gloo: Whether Horovod's processes meet over Gloo.
      interfaces: Of this host.

    Raises:
      SettingsError: A variable names no interface that can be used.
    """
    if gloo and (name := environment.get(GLOO)):
        named = [interface for interface in interfaces if interface.name == name]
        _check(GLOO, name, host, named, interfaces, ipv6=False)
    if wanted := environment.get(NCCL):
        named = select_for_nccl(wanted, interfaces)
        _check(NCCL, wanted, host, named, interfaces, ipv6=True)


def uses_gloo(environment: Mapping[str, str]) -> bool:
    """Whether Horovod's processes meet over Gloo; over MPI otherwise."""
    chosen = [
        environment[name].lower()
        for name in ("HOROVOD_CONTROLLER", "HOROVOD_CPU_OPERATIONS")
        if name in environment
    ]
    return "gloo" in chosen if chosen else "HOROVOD_RANK" in environment


def select_for_nccl(wanted: str, interfaces: Sequence[Interface]) -> list[Interface]:
    """Those that NCCL_SOCKET_IFNAME allows.

    The syntax of NCCL's user guide: prefixes of names with commas between them; = before the list
    takes whole names, ^ before it excludes what is named, and a port may follow a name.
    """
    excludes = wanted.startswith("^")
    names = wanted.removeprefix("^")
    exact = names.startswith("=")
    listed = [name.partition(":")[0] for name in names.removeprefix("=").split(",") if name]

    def is_named(name: str) -> bool:
        return name in listed if exact else any(name.startswith(prefix) for prefix in listed)

    return [interface for interface in interfaces if is_named(interface.name) != excludes]


def _check(
    variable: str,
    value: str,
    host: str,
    named: Sequence[Interface],
    interfaces: Sequence[Interface],
    ipv6: bool,
) -> None:
    if any(one.is_up and (one.address or (ipv6 and one.has_ipv6)) for one in named):
        return
    wrong = "names no network interface"
    if named:
        wrong = f"names {', '.join(map(str, named))}, which cannot be used"
    raise SettingsError(
        f"on {host}, {variable}={value} {wrong}. There are {_listed(interfaces)}. Set it to the "
        f"interface towards the other hosts, or remove it: unset {variable}"
    )


def _listed(interfaces: Sequence[Interface]) -> str:
    return ", ".join(map(str, interfaces))

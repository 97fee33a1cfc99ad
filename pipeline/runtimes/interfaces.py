"""Lists this host's network interfaces and checks those that the environment names."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import SettingsError

# From <linux/sockios.h> and <linux/if.h>.
_SIOCGIFFLAGS, _SIOCGIFADDR = 0x8913, 0x8915
_IFF_UP = 1

GLOO, NCCL = "HOROVOD_GLOO_IFACE", "NCCL_SOCKET_IFNAME"


class Interface(NamedTuple):
    """A network interface.

    Attributes:
      address: Its first IPv4 address, or None.
      is_up: Whether it is enabled (IFF_UP).
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
    """All interfaces of this host or container."""
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
        return None  # it has no IPv4 address, or was removed in the meantime


def find_interface(address: str) -> str:
    """Name of the interface that has this IPv4 address.

    Raises:
      SettingsError: No interface has it.
    """
    if address.startswith("127."):
        return "lo"
    interfaces = list_interfaces()
    for interface in interfaces:
        if interface.address == address:
            return interface.name
    raise SettingsError(
        f"no network interface has the address {address}, through which this node reaches the "
        f"others. Interfaces: {_listed(interfaces)}. Select one: {GLOO}=eth0 {NCCL}=eth0 vit "
        "launch ..."
    )


def check_interfaces(
    environment: Mapping[str, str], host: str, gloo: bool, interfaces: Sequence[Interface]
) -> None:
    """Checks the variables that select the network interfaces of Gloo and NCCL.

    Args:
      environment: The environment variables.
      host: Name of this host, for the message.
      gloo: Whether Horovod's processes connect over Gloo.
      interfaces: Interfaces of this host.

    Raises:
      SettingsError: A variable names no usable interface.
    """
    if gloo and (name := environment.get(GLOO)):
        named = [interface for interface in interfaces if interface.name == name]
        _check(GLOO, name, host, named, interfaces, ipv6=False)
    if wanted := environment.get(NCCL):
        named = select_for_nccl(wanted, interfaces)
        _check(NCCL, wanted, host, named, interfaces, ipv6=True)


def uses_gloo(environment: Mapping[str, str]) -> bool:
    """Whether Horovod's processes connect over Gloo; otherwise they use MPI."""
    chosen = [
        environment[name].lower()
        for name in ("HOROVOD_CONTROLLER", "HOROVOD_CPU_OPERATIONS")
        if name in environment
    ]
    return "gloo" in chosen if chosen else "HOROVOD_RANK" in environment


def select_for_nccl(wanted: str, interfaces: Sequence[Interface]) -> list[Interface]:
    """Returns the interfaces that NCCL_SOCKET_IFNAME allows.

    The syntax is that of NCCL's user guide: a comma-separated list of name prefixes. A leading =
    means exact names, a leading ^ excludes the named interfaces, and a port may follow a name.
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
        f"on {host}, {variable}={value} {wrong}. Interfaces: {_listed(interfaces)}. Set it to the "
        f"interface that reaches the other hosts, or remove it: unset {variable}"
    )


def _listed(interfaces: Sequence[Interface]) -> str:
    return ", ".join(map(str, interfaces))

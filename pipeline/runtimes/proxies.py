"""Exempts the processes of a job from HTTP proxies.

TensorFlow's workers connect over gRPC, which uses the proxies of the environment. A proxy for
traffic that leaves a company's network does not route connections back into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
_ALWAYS = ("localhost", "127.0.0.1")


def bypass_proxies(environment: Mapping[str, str], hosts: Iterable[str]) -> dict[str, str]:
    """Returns variables that let a process reach `hosts` directly; empty if no proxy is set.

    Hosts that the user has exempted stay exempted. All other traffic still uses the proxy.
    """
    is_set = {name.lower() for name, value in environment.items() if value}
    if is_set.isdisjoint(_PROXIES):
        return {}
    lower, upper = environment.get("no_proxy"), environment.get("NO_PROXY")
    # Most programs, including gRPC, read only no_proxy.
    given = {"no_proxy": lower or upper, "NO_PROXY": upper or lower}
    if own := environment.get("no_grpc_proxy"):
        given["no_grpc_proxy"] = own  # gRPC prefers this one
    return {name: _extended(entries or "", hosts) for name, entries in given.items()}


def host_of(address: str) -> str:
    """Returns the host of `host:port`; an IPv6 address loses its brackets."""
    return address.rpartition(":")[0].strip("[]")


def _extended(entries: str, hosts: Iterable[str]) -> str:
    listed = [entry.strip() for entry in entries.split(",") if entry.strip()]
    return ",".join(dict.fromkeys([*listed, *_ALWAYS, *hosts]))

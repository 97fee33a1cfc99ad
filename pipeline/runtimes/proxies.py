"""Keeps the processes of a job from speaking to each other through a proxy.

gRPC, over which TensorFlow's workers meet, takes the proxies that are meant for the way out of a
company's network, and such a proxy does not lead back in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
_ALWAYS = ("localhost", "127.0.0.1")


def past_proxies(environment: Mapping[str, str], hosts: Iterable[str]) -> dict[str, str]:
    """Variables that let a process reach `hosts` directly; none where no proxy is set.

    What the user has excluded stays excluded, and all else goes through the proxy as before.
    """
    is_set = {name.lower() for name, value in environment.items() if value}
    if is_set.isdisjoint(_PROXIES):
        return {}
    lower, upper = environment.get("no_proxy"), environment.get("NO_PROXY")
    # Most programs, gRPC among them, read the first one alone.
    given = {"no_proxy": lower or upper, "NO_PROXY": upper or lower}
    if own := environment.get("no_grpc_proxy"):
        given["no_grpc_proxy"] = own  # which gRPC reads instead
    return {name: _extended(entries or "", hosts) for name, entries in given.items()}


def host_of(address: str) -> str:
    """`host:port` -> host, of an IPv6 address without its brackets."""
    return address.rpartition(":")[0].strip("[]")


def _extended(entries: str, hosts: Iterable[str]) -> str:
    listed = [entry.strip() for entry in entries.split(",") if entry.strip()]
    return ",".join(dict.fromkeys([*listed, *_ALWAYS, *hosts]))

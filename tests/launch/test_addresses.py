"""The address at which node 0 listens, tested in a network namespace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.launch.addresses import find_own_address, resolve
from tests.parallel.hosts import remove, run, why_not
from tests.parallel.launches import ROOT

needs_namespaces = pytest.mark.skipif(bool(reason := why_not()), reason=reason or "all there")


@pytest.fixture
def host():
    """A host with the addresses 198.51.100.1 and 203.0.113.1; returns a query function."""
    space = f"vit{os.getpid()}a"
    run("ip", "netns", "add", space)
    for link, address in (("front", "198.51.100.1"), ("back", "203.0.113.1")):
        run("ip", "-n", space, "link", "add", link, "type", "bridge")
        run("ip", "-n", space, "address", "add", f"{address}/24", "dev", link)
        run("ip", "-n", space, "link", "set", link, "up")
    run("ip", "-n", space, "link", "set", "lo", "up")
    etc = Path("/etc/netns", space)
    etc.mkdir(parents=True)

    def ask(names, *hosts):
        (etc / "hosts").write_text(names)
        code = (
            "import sys\n"
            "from pipeline.launch.addresses import find_own_address\n"
            "from pipeline.errors import SettingsError\n"
            "try: print(find_own_address(sys.argv[1:]))\n"
            "except SettingsError as error: print(error)\n"
        )
        done = subprocess.run(
            ["ip", "netns", "exec", space, sys.executable, "-c", code, *hosts],
            cwd=ROOT, check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.stdout.strip()

    yield ask
    remove([space])


NODE_1 = "198.51.100.2 node-1\n"


@pytest.mark.processes
@needs_namespaces
@pytest.mark.parametrize(
    ("names", "hosts", "address"),
    [
        ("198.51.100.1 node-0\n" + NODE_1, ["node-0", "node-1"], "198.51.100.1"),
        # Not the one towards node 1: the others come to the address that the name has.
        ("203.0.113.1 node-0\n" + NODE_1, ["node-0", "node-1"], "203.0.113.1"),
        ("127.0.1.1 node-0\n" + NODE_1, ["node-0", "node-1"], "198.51.100.1"),  # Debian
        ("192.0.2.9 node-0\n" + NODE_1, ["node-0", "node-1"], "198.51.100.1"),  # translated
        (NODE_1, ["node-0", "node-1"], "198.51.100.1"),  # not known yet
        ("", ["198.51.100.1", "198.51.100.2"], "198.51.100.1"),
        ("", ["node-0", "203.0.113.2"], "203.0.113.1"),
        ("", ["127.0.0.1", "127.0.0.2"], "127.0.0.1"),
        ("", ["node-0"], "127.0.0.1"),
    ],
)
def test_node_0_listens_where_the_others_look_for_it(host, names, hosts, address):
    assert host(names, *hosts) == address


@pytest.mark.processes
@needs_namespaces
def test_a_host_without_a_route_to_the_others_is_an_error(host):
    said = host("", "node-0", "node-1")
    assert said.startswith("no network interface of this host leads to the other nodes (node-1)")
    assert "Give its IPv4 address first in --hosts" in said


def test_an_invalid_host_name_is_a_clear_error():
    for name in ("no-such.invalid", "a..b", "x" * 300):
        with pytest.raises(OSError, match="does not resolve"):
            resolve(name)


def test_a_single_host_is_not_resolved():
    assert find_own_address(["no-such.invalid"]) == "127.0.0.1"

"""Hosts on one machine behind a switch with links of limited bandwidth in bits per second."""

import os
import subprocess
from pathlib import Path

from tests.parallel.hosts import processes_in, remove, run, start_in


class Switch:
    """Network namespaces `node-0` ... joined by a bridge in one of its own.

    `tc tbf` shapes what leaves each of them; what arrives has been shaped by its sender.
    """

    def __init__(self, count):
        tag = f"vitp{os.getpid()}"
        self.names = [f"node-{i}" for i in range(count)]
        self._middle = f"{tag}-m"
        self._spaces = [f"{tag}-{i}" for i in range(count)]
        try:
            self._join()
        except BaseException:
            self.close()
            raise

    def shape(self, bits_per_s):
        """Limits the rate at which each host sends; None means no limit."""
        for space in self._spaces:
            command = ["ip", "netns", "exec", space, "tc", "qdisc"]
            subprocess.run([*command, "del", "dev", "eth0", "root"], capture_output=True)
            if bits_per_s is not None:
                # Bytes: of half a millisecond, and some of the 64 KiB that TCP hands down at once.
                # A smaller bucket has the kernel cut those into frames, on the cores that train.
                burst = max(200_000, int(bits_per_s / 8 * 5e-4))
                limit = ["rate", f"{bits_per_s:.0f}bit", "burst", burst, "latency", "100ms"]
                run(*command, "add", "dev", "eth0", "root", "tbf", *limit)

    def start(self, index, *command, **options):
        """Starts a command on a host."""
        return start_in(self._spaces[index], *command, **options)

    def set_link(self, index, state):
        """Takes the link of a host "down", of which nobody is told, or "up" again."""
        run("ip", "-n", self._spaces[index], "link", "set", "eth0", state)

    def processes(self):
        """Process ids of all that runs on the hosts."""
        return [process for space in self._spaces for process in processes_in(space)]

    def close(self):
        """Ends all processes on the hosts, and removes the hosts."""
        remove([*self._spaces, self._middle])

    def _join(self):
        run("ip", "netns", "add", self._middle)
        run("ip", "-n", self._middle, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", self._middle, "link", "set", "bridge", "up")
        # Of the network set aside for examples; no route leads out of the namespaces.
        addresses = [f"198.51.100.{i + 1}" for i in range(len(self.names))]
        table = "".join(f"{a} {n}\n" for a, n in zip(addresses, self.names, strict=True))
        for i, (space, address) in enumerate(zip(self._spaces, addresses, strict=True)):
            run("ip", "netns", "add", space)
            run("ip", "link", "add", "eth0", "netns", space, "type", "veth",
                "peer", "name", f"port{i}", "netns", self._middle)  # fmt: skip
            run("ip", "-n", self._middle, "link", "set", f"port{i}", "master", "bridge", "up")
            run("ip", "-n", space, "address", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", space, "link", "set", "eth0", "up")
            run("ip", "-n", space, "link", "set", "lo", "up")
            etc = Path("/etc/netns", space)  # `ip netns exec` mounts what lies here over /etc
            etc.mkdir(parents=True)
            (etc / "hosts").write_text(f"127.0.0.1 localhost\n{table}")

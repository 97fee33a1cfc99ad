"""Two hosts on one machine: network namespaces with addresses, names and an sshd of their own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.parallel.launches import ROOT, TOKEN

PORT = 2222
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def why_not():
    """What is missing to make hosts, or an empty string."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "ssh", "ssh-keygen") if shutil.which(name) is None]
    missing += [] if SSHD else ["sshd"]
    if missing:
        packages = "apt-get install iproute2 openssh-server openssh-client"
        return f"{', '.join(missing)} not found: {packages}"
    done = subprocess.run(["ip", "netns", "add", "vit-probe"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", "vit-probe"], capture_output=True)
    return done.stderr.strip()


def run(*command):
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


class Hosts:
    """Namespaces joined by a veth pair; `node-0` and `node-1` are names only they know.

    Args:
      folder: For keys and settings.
      links: What each host calls its network interface. Those who use horovodrun need one name.
    """

    names = ("node-0", "node-1")

    def __init__(self, folder, links=("eth0", "eth0")):
        tag = f"vit{os.getpid()}"
        self.spaces = [f"{tag}-{i}" for i in range(2)]
        self.links = links
        # Of the network set aside for examples; no route leads out of the namespaces.
        self.addresses = ["198.51.100.1", "198.51.100.2"]
        self._folder, self._servers = folder, []
        try:
            self._join()
            self._start_servers()
        except BaseException:
            self.close()
            raise

    def start(self, index, *command):
        """Starts a command on a host."""
        return start_in(self.spaces[index], *command)

    def sent_bytes(self, index, link=None):
        """What has left a host by its link so far."""
        path = f"/sys/class/net/{link or self.links[index]}/statistics/tx_bytes"
        return int(self._output(index, "cat", path))

    def cut(self):
        """Takes the link away, as a failing switch does."""
        run("ip", "-n", self.spaces[0], "link", "set", self.links[0], "down")

    def close(self):
        """Ends all that runs on the hosts, and takes them away."""
        remove(self.spaces)
        for server in self._servers:
            server.wait()

    def _output(self, index, *command):
        return subprocess.run(
            ["ip", "netns", "exec", self.spaces[index], *command],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip

    def _join(self):
        for space in self.spaces:
            run("ip", "netns", "add", space)
        ends = [f"{space}v" for space in self.spaces]
        run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        names = "".join(f"{a} {n}\n" for a, n in zip(self.addresses, self.names, strict=True))
        for i, (space, link, address) in enumerate(
            zip(self.spaces, self.links, self.addresses, strict=True)
        ):
            run("ip", "link", "set", ends[i], "netns", space, "name", link)
            run("ip", "-n", space, "address", "add", f"{address}/24", "dev", link)
            run("ip", "-n", space, "link", "set", link, "up")
            run("ip", "-n", space, "link", "set", "lo", "up")
            # `ip netns exec` mounts what lies here over /etc.
            etc = Path("/etc/netns", space)
            (etc / "ssh").mkdir(parents=True)
            (etc / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
            (etc / "ssh/ssh_config").write_text(
                f"Port {PORT}\nIdentityFile {self._folder}/key\nStrictHostKeyChecking no\n"
                "UserKnownHostsFile /dev/null\nLogLevel ERROR\nBatchMode yes\n"
            )

    def _start_servers(self):
        key = self._folder / "key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
        Path("/run/sshd").mkdir(exist_ok=True)
        for index, address in enumerate(self.addresses):
            settings = self._folder / f"sshd_config_{index}"
            settings.write_text(
                f"Port {PORT}\nListenAddress {address}\nHostKey {key}\nStrictModes no\nUsePAM no\n"
                f"AuthorizedKeysFile {key}.pub\nPasswordAuthentication no\n"
                f"PermitRootLogin prohibit-password\nPidFile {self._folder}/sshd_{index}.pid\n"
            )
            space = self.spaces[index]
            with (self._folder / f"sshd_{index}.log").open("wb") as log:
                self._servers.append(
                    subprocess.Popen(
                        ["ip", "netns", "exec", space, SSHD, "-D", "-e", "-f", settings],
                        stdout=subprocess.DEVNULL,
                        stderr=log,
                    )
                )
        for name in self.names:
            self._wait_for(name)

    def _wait_for(self, name):
        limit = time.monotonic() + 20
        while True:
            try:
                self._output(0, "ssh", name, "true")
                return
            except subprocess.CalledProcessError as error:
                if time.monotonic() > limit:
                    raise RuntimeError(f"no ssh to {name}: {error.stderr}") from None
                time.sleep(0.2)


def vit(verb, *arguments):
    """A command line of this Python's `vit`."""
    return [sys.executable, "-m", "jobs.cli", verb, *map(str, arguments)]


def start_in(space, *command, output=subprocess.PIPE):
    """Starts a command in a network namespace."""
    return subprocess.Popen(
        ["ip", "netns", "exec", space, *map(str, command)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | TOKEN,
        text=True,
        stdout=output,
        stderr=subprocess.STDOUT,
    )


def processes_in(space):
    """Process ids of all that runs in a network namespace."""
    found = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True)
    return [int(process) for process in found.stdout.split()]


def remove(spaces):
    """Ends all that runs in network namespaces, and takes them away."""
    for space in spaces:
        for process in processes_in(space):
            with suppress(ProcessLookupError):  # its namespace of processes may just have ended
                os.kill(process, signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", space], capture_output=True)
        shutil.rmtree(f"/etc/netns/{space}", ignore_errors=True)

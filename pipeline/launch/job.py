"""A job on several nodes, and the environment that tells each process its place in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.launch.signatures import TOKEN
from pipeline.runtimes.environment import HOSTS
from pipeline.runtimes.interpreter import python_command

DEFAULT_PORT = 29500

# What a launcher further out may have set, and would be taken for this one's.
_NOT_INHERITED = (
    # Nor need they know it: the launcher speaks for them.
    TOKEN,
    HOSTS,
    "TF_CONFIG",
    "HOROVOD_ELASTIC",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
)
_PLACE = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE", "HOSTNAME")


@dataclass(frozen=True)
class Job:
    """What to start, and this node's part.

    Attributes:
      hosts: Names or IPv4 addresses of the nodes, by index.
      slots: Processes on each node.
      index: This node's.
      command: Program and arguments of each process.
      port: At which node 0's launcher serves; with multi_worker, rank r's own is port + 1 + r.
        None takes free ones on one host, and DEFAULT_PORT on several.
      wait_s: How long to wait for the other nodes.
      grace_s: How long processes may take to end after a signal was passed on to them.
      gpus: As CUDA_VISIBLE_DEVICES names this node's; empty without.
      token: The secret by which the launchers of the job know each other.
      trust_network: Whether multi_worker may serve on the host's own network, where TensorFlow
        executes whatever connects.
    """

    hosts: tuple[str, ...]
    slots: int
    index: int
    command: tuple[str, ...]
    runtime: Literal["horovod", "multi_worker"] = "horovod"
    port: int | None = None
    wait_s: float = 300.0
    grace_s: float = 60.0
    gpus: tuple[str, ...] = ()
    token: str = field(default="", repr=False)
    trust_network: bool = False

    @property
    def is_private(self) -> bool:
        """Whether the processes get a network of their own, which ends at this host."""
        return self.runtime == "multi_worker" and not self.trust_network

    @property
    def host(self) -> str:
        return self.hosts[self.index]

    @property
    def facts(self) -> dict[str, str]:
        """What all nodes must have been started with. Arguments may be secret, so only a hash."""
        command = hashlib.sha256(json.dumps(self.command).encode()).hexdigest()[:12]
        return {
            "--hosts": ",".join(self.hosts),
            "--processes-per-node": str(self.slots),
            "--runtime": self.runtime,
            "COMMAND with the hash": command,
        }


def variables(job: Job, local_rank: int, server: tuple[str, int], interface: str) -> dict[str, str]:
    """The environment that tells one process its place.

    Args:
      server: Address and port of this node's store for Horovod; with multi_worker, of node 0's
        rendezvous.
      interface: The network interface towards the other nodes.
    """
    rank = job.index * job.slots + local_rank
    if job.runtime == "multi_worker":
        return _tensorflow_variables(job, local_rank, rank, server[1])
    return {
        HOSTS: ",".join(job.hosts),
        "HOROVOD_HOSTNAME": job.host,
        "HOROVOD_RANK": str(rank),
        "HOROVOD_SIZE": str(len(job.hosts) * job.slots),
        "HOROVOD_LOCAL_RANK": str(local_rank),
        "HOROVOD_LOCAL_SIZE": str(job.slots),
        "HOROVOD_CROSS_RANK": str(job.index),
        "HOROVOD_CROSS_SIZE": str(len(job.hosts)),
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": server[0],
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(server[1]),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_IFACE": interface,
        "NCCL_SOCKET_IFNAME": interface,
        # 30, the default, is too short for processes that import TensorFlow at different speeds.
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "120",
    }


def _tensorflow_variables(job: Job, local_rank: int, rank: int, port: int) -> dict[str, str]:
    # A private network has no address but those of its loopback interface.
    hosts = ("localhost",) if job.is_private else job.hosts
    workers = [
        f"{host}:{port + 1 + index * job.slots + local}"
        for index, host in enumerate(hosts)
        for local in range(job.slots)
    ]
    task = {"type": "worker", "index": rank}
    config = json.dumps({"cluster": {"worker": workers}, "task": task})
    own = {HOSTS: ",".join(hosts), "TF_CONFIG": config}
    if job.slots > 1 and job.gpus:
        # TensorFlow itself would give each process all of the node's GPUs.
        own["CUDA_VISIBLE_DEVICES"] = job.gpus[local_rank]
    return own


def environment(inherited: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """A process's whole environment; what an administrator chose of the network stays."""
    stale = {*_NOT_INHERITED, *(f"HOROVOD_{name}" for name in _PLACE)}
    kept = {name: value for name, value in inherited.items() if name not in stale}
    chosen = ("HOROVOD_GLOO_IFACE", "NCCL_SOCKET_IFNAME", "HOROVOD_GLOO_TIMEOUT_SECONDS")
    # Without PYTHONUNBUFFERED the last lines of a process that is killed are lost.
    return {"PYTHONUNBUFFERED": "1", **kept, **own} | {
        name: kept[name] for name in chosen if name in kept
    }


def launch_here(slots: int, runtime: str) -> list[str]:
    """What to put before a command to run it as `slots` processes on this machine."""
    vit = python_command("-m", "jobs.cli", "launch", "--hosts", "localhost")
    return [*vit, "--processes-per-node", str(slots), "--runtime", runtime, "--"]

"""A job on several nodes, and the environment variables that give each process its rank."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.launch.signatures import TOKEN
from pipeline.launch.timeouts import Timeouts
from pipeline.runtimes.environment import HOSTS, MEMBERSHIP, SLOT, WORKER
from pipeline.runtimes.interpreter import python_command

DEFAULT_PORT = 29500

# Variables that an outer launcher may have set and that would conflict with ours.
_NOT_INHERITED = (
    # The processes do not need the token: only launchers communicate with it.
    TOKEN,
    HOSTS,
    MEMBERSHIP,
    WORKER,
    SLOT,
    "TF_CONFIG",
    "HOROVOD_ELASTIC",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
)
_PLACE = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE", "HOSTNAME")


@dataclass(frozen=True)
class Job:
    """What to start on all nodes, and the part of this node.

    Attributes:
      hosts: Names or IPv4 addresses of the nodes, by index.
      slots: Number of processes per node.
      index: Index of this node.
      command: Program and arguments of each process.
      runtime: How the processes communicate.
      port: Port of the rendezvous on node 0. With multi_worker, rank r uses port + 1 + r. None
        selects free ports on a single host, and DEFAULT_PORT on several.
      wait_s: How long to wait for the other nodes.
      grace_s: How long processes may run after a signal was forwarded to them.
      timeouts: How long they may run after a failure.
      gpus: GPUs of this node as in CUDA_VISIBLE_DEVICES; empty without GPUs.
      token: Shared secret with which the launchers of the job authenticate each other.
      trust_network: Whether multi_worker may use the host's network, although the servers of
        TensorFlow execute any graph that a client sends.
      min_workers: Makes the job elastic: it continues with this many processes. None ends it when
        one process fails.
      max_workers: Maximum number of processes that train together; None for all slots.
      elastic_timeout_s: How long an elastic job waits when it has fewer than min_workers.
      heartbeat_timeout_s: How long a process of an elastic job may be silent.
    """

    hosts: tuple[str, ...]
    slots: int
    index: int
    command: tuple[str, ...]
    runtime: Literal["horovod", "multi_worker"] = "horovod"
    port: int | None = None
    wait_s: float = 300.0
    grace_s: float = 60.0
    timeouts: Timeouts = field(default_factory=Timeouts)
    gpus: tuple[str, ...] = ()
    token: str = field(default="", repr=False)
    trust_network: bool = False
    min_workers: int | None = None
    max_workers: int | None = None
    elastic_timeout_s: float = 600.0
    heartbeat_timeout_s: float = 15.0

    @property
    def is_private(self) -> bool:
        """Whether the processes run in a private network namespace of this host."""
        return self.runtime == "multi_worker" and not self.trust_network

    @property
    def is_elastic(self) -> bool:
        """Whether processes may fail and join while the others train."""
        return self.min_workers is not None

    @property
    def has_meetings(self) -> bool:
        """Whether another launcher continues the job when that of node 0 is gone."""
        return self.is_elastic and len(self.hosts) > 1

    @property
    def host(self) -> str:
        return self.hosts[self.index]

    @property
    def facts(self) -> dict[str, str]:
        """Settings that must be equal on all nodes. The command is hashed: it may hold secrets."""
        command = hashlib.sha256(json.dumps(self.command).encode()).hexdigest()[:12]
        elastic = {
            "--min-workers": f"{self.min_workers}",
            "--max-workers": f"{self.max_workers or 'not given'}",
            "--elastic-timeout-s": f"{self.elastic_timeout_s:g}",
            "--heartbeat-timeout-s": f"{self.heartbeat_timeout_s:g}",
        }
        return {
            "--hosts": ",".join(self.hosts),
            "--processes-per-node": str(self.slots),
            "--runtime": self.runtime,
            "--end-within-s": f"{self.timeouts.end_within_s:g}",
            "COMMAND with the hash": command,
            **(elastic if self.is_elastic else {}),
        }


def rank_variables(
    job: Job, local_rank: int, server: tuple[str, int], interface: str
) -> dict[str, str]:
    """The environment variables that give one process its rank.

    Args:
      job: The job.
      local_rank: Rank of the process on this node.
      server: Address and port of this node's key-value store for Horovod; with multi_worker, of
        the rendezvous on node 0.
      interface: Network interface towards the other nodes.
    """
    rank = job.index * job.slots + local_rank
    if job.runtime == "multi_worker":
        return _tensorflow_variables(job, local_rank, rank, server[1])
    return {
        "HOROVOD_RANK": str(rank),
        "HOROVOD_SIZE": str(len(job.hosts) * job.slots),
        "HOROVOD_LOCAL_RANK": str(local_rank),
        "HOROVOD_LOCAL_SIZE": str(job.slots),
        "HOROVOD_CROSS_RANK": str(job.index),
        "HOROVOD_CROSS_SIZE": str(len(job.hosts)),
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": server[0],
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(server[1]),
        **_horovod_variables(job, interface),
    }


def elastic_variables(
    job: Job, slot: int, worker: str, server: tuple[str, int], interface: str
) -> dict[str, str]:
    """The environment variables of one worker of an elastic job, which gets its ranks later.

    Args:
      job: The job.
      slot: Index of the worker's place on this node.
      worker: Identifier of the process.
      server: Address and port of this node's membership server, as in `rank_variables`.
      interface: Network interface towards the other nodes.
    """
    rank = job.index * job.slots + slot
    # The local rank changes with each generation, but a process keeps its GPU.
    gpu = {"CUDA_VISIBLE_DEVICES": job.gpus[slot]} if job.gpus else {}
    return {
        **gpu,
        MEMBERSHIP: f"{server[0]}:{server[1]}",
        WORKER: worker,
        SLOT: f"{rank},{len(job.hosts) * job.slots},{slot},{job.slots}",
        **_horovod_variables(job, interface),
        # All members of a generation are ready when it is formed. What is missing then for longer
        # than a silent member may live is lost.
        "HOROVOD_GLOO_TIMEOUT_SECONDS": f"{math.ceil(2 * job.heartbeat_timeout_s)}",
    }


def _horovod_variables(job: Job, interface: str) -> dict[str, str]:
    return {
        HOSTS: ",".join(job.hosts),
        "HOROVOD_HOSTNAME": job.host,
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_IFACE": interface,
        "NCCL_SOCKET_IFNAME": interface,
        # The default, 30 s, is too short if processes import TensorFlow at different speeds.
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "120",
    }


def _tensorflow_variables(job: Job, local_rank: int, rank: int, port: int) -> dict[str, str]:
    # A private network has only a loopback interface.
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
        # By default TensorFlow would give each process all GPUs of the node.
        own["CUDA_VISIBLE_DEVICES"] = job.gpus[local_rank]
    return own


def environment(inherited: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The complete environment of a process. Network settings of the administrator take priority.

    Args:
      inherited: Environment of the launcher.
      own: Result of `rank_variables`.
    """
    stale = {*_NOT_INHERITED, *(f"HOROVOD_{name}" for name in _PLACE)}
    kept = {name: value for name, value in inherited.items() if name not in stale}
    chosen = ("HOROVOD_GLOO_IFACE", "NCCL_SOCKET_IFNAME", "HOROVOD_GLOO_TIMEOUT_SECONDS")
    # Without PYTHONUNBUFFERED, a killed process would lose its last lines of output.
    return {"PYTHONUNBUFFERED": "1", **kept, **own} | {
        name: kept[name] for name in chosen if name in kept
    }


def local_launch_command(slots: int, runtime: str) -> list[str]:
    """The command prefix that runs a command as `slots` processes on this machine."""
    vit = python_command("-m", "jobs.cli", "launch", "--hosts", "localhost")
    return [*vit, "--processes-per-node", str(slots), "--runtime", runtime, "--"]

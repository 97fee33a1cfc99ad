"""A job on a cluster, and the checks of it that need no cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import SettingsError

Backend = Literal["job", "mpijob"]
Runtime = Literal["horovod", "multi_worker", "mirrored"]

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LONGEST_LABEL = 63  # RFC 1123


@dataclass(frozen=True)
class ClusterJob:
    """A job on a cluster.

    Attributes:
      name: Name of the Job and of everything that belongs to it.
      verb: Verb of `vit`; all verbs but train run in one pod.
      nodes: Number of pods, one per node.
      min_nodes: Number of nodes below which an elastic job pauses; None for a job that is not.
      gpus: GPUs of each pod; 0 trains on the CPU.
      processes: Processes in each pod; None is one per GPU, or one on the CPU.
      cpu, memory, shm: Kubernetes quantities for each pod.
      data_claim: A second claim, mounted read-only at /data.
      deadline_s: Time limit of the job, including all its restarts.
      rdma: Resource of which each pod requests one; such a pod is no longer restricted.
    """

    name: str
    image: str
    claim: str
    verb: str = "train"
    nodes: int = 1
    min_nodes: int | None = None
    gpus: int = 0
    processes: int | None = None
    backend: Backend = "job"
    runtime: Runtime = "horovod"
    namespace: str | None = None
    queue: str | None = None
    cpu: str = "4"
    memory: str = "16Gi"
    shm: str = "2Gi"
    data_claim: str | None = None
    node_selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[tuple[tuple[str, str], ...], ...] = ()
    priority_class: str | None = None
    max_restarts: int = 3
    deadline_s: int = 7 * 86400
    rdma: str | None = None
    tensorboard: bool = False

    @property
    def slots(self) -> int:
        """Processes per pod."""
        return max(1, self.gpus) if self.processes is None else self.processes

    @property
    def num_replicas(self) -> int:
        """Total number of model replicas."""
        return self.nodes * max(self.gpus, self.slots)

    @property
    def launched(self) -> bool:
        """Whether `vit launch` starts the processes. If not, one process uses all GPUs."""
        return self.verb == "train" and self.runtime != "mirrored"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Host names of the pods of an Indexed Job, by index."""
        return tuple(f"{self.name}-{i}.{self.name}" for i in range(self.nodes))


def check_job(job: ClusterJob) -> None:
    """Checks a job as far as possible without a cluster.

    Raises:
      SettingsError: The job is wrong on every cluster. The message names the options of
        `vit submit`.
    """
    _check_numbers(job)
    _check_names(job)
    _check_together(job)


def _check_numbers(job: ClusterJob) -> None:
    for option, value, least in (
        ("--nodes", job.nodes, 1),
        ("--gpus-per-node", job.gpus, 0),
        ("--processes-per-node", job.slots, 1),
        ("--max-restarts", job.max_restarts, 0),
    ):
        if value < least:
            raise SettingsError(f"{option} must be {least} or more. Received: {value}")
    for option, text in (("--cpu", job.cpu), ("--memory", job.memory), ("--shm", job.shm)):
        if not quantity(text, option) > 0:
            raise SettingsError(f"{option} must be more than 0. Received: {text}")
    if quantity(job.shm, "--shm") >= quantity(job.memory, "--memory"):
        raise SettingsError(
            f"--shm {job.shm} is part of --memory {job.memory} and must be smaller: give more "
            "--memory"
        )


def max_name_length(backend: Backend, nodes: int, tensorboard: bool) -> int:
    """Returns the maximum length of a name: the name of the last pod must be a DNS label."""
    last = {"job": f"-{nodes - 1}", "mpijob": f"-worker-{nodes - 1}"}[backend]
    return _LONGEST_LABEL - max(len(last), len("-board") if tensorboard else 0)


def _check_names(job: ClusterJob) -> None:
    room = max_name_length(job.backend, job.nodes, job.tensorboard)
    if not _LABEL.fullmatch(job.name) or len(job.name) > room:
        raise SettingsError(
            "--name must consist of lowercase letters, digits and dashes, start with a letter, end "
            f"with a letter or digit, and have at most {room} characters, because the name of the "
            "last pod is a host name. "
            f"Received: {job.name!r} ({len(job.name)} characters)"
        )
    for option, name in (
        ("--claim", job.claim),
        ("--data-claim", job.data_claim),
        ("--queue", job.queue),
        ("--priority-class", job.priority_class),
        ("--namespace", job.namespace),
    ):
        if name is not None and not re.fullmatch(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", name):
            raise SettingsError(
                f"{option} must be a Kubernetes name: lowercase letters, digits and dashes. "
                f"Received: {name!r}"
            )
    if not re.fullmatch(r"[a-z0-9][\w./:@-]*", job.image):
        raise SettingsError(
            f"--image must be a name such as registry.example.com/vit:1.0. Received: {job.image!r}"
        )
    if job.rdma is not None and not re.fullmatch(r"[a-z0-9.-]+/[\w.-]+", job.rdma):
        raise SettingsError(f"--rdma must be DOMAIN/RESOURCE. Received: {job.rdma!r}")


def _check_together(job: ClusterJob) -> None:
    if job.processes is not None and not job.launched:
        why = f"--verb {job.verb}" if job.verb != "train" else "--runtime mirrored"
        raise SettingsError(f"{why} runs one process: leave out --processes-per-node")
    if 0 < job.gpus < job.slots:
        raise SettingsError(
            f"--processes-per-node {job.slots} needs a GPU for each process: give --gpus-per-node "
            f"{job.slots} or more, or leave out --gpus-per-node to train on the CPU"
        )
    # With multi_worker, a single process in a pod uses all GPUs of the pod.
    shared = job.runtime == "multi_worker" and job.slots == 1
    if job.launched and job.slots < job.gpus and not shared:
        raise SettingsError(
            f"--gpus-per-node {job.gpus} reserves {job.gpus - job.slots} GPUs that no process would"
            f" use: --processes-per-node {job.slots} uses one GPU for each process. Give "
            f"--gpus-per-node {job.slots}, or leave out --processes-per-node"
        )
    if job.min_nodes is not None:
        _check_elastic(job, job.min_nodes)
    if job.verb != "train" and (job.nodes > 1 or job.backend != "job"):
        raise SettingsError(f"--verb {job.verb} runs in one pod: leave out --nodes and --backend")
    if job.runtime == "mirrored" and job.nodes > 1:
        raise SettingsError(
            "--runtime mirrored runs one process in one pod: give --nodes 1, or --runtime horovod"
        )
    if job.runtime == "mirrored" and job.verb == "train" and job.gpus < 2:
        raise SettingsError(
            "--runtime mirrored divides a batch among the GPUs of one pod: give --gpus-per-node 2 "
            "or more, or --runtime horovod"
        )
    if job.backend == "mpijob" and job.runtime != "horovod":
        raise SettingsError(
            f"--backend mpijob starts horovodrun, and cannot start --runtime {job.runtime}: "
            "give --backend job"
        )


def _check_elastic(job: ClusterJob, min_nodes: int) -> None:
    if not 1 <= min_nodes <= job.nodes:
        raise SettingsError(
            f"--min-nodes must be 1 to {job.nodes}, which is --nodes. Received: {min_nodes}"
        )
    if not job.launched or job.runtime != "horovod":
        raise SettingsError(
            "--min-nodes makes a training with --runtime horovod elastic, and nothing else: leave "
            "it out"
        )


def quantity(text: str, option: str) -> float:
    """Parses a Kubernetes quantity; raises SettingsError if it is not one."""
    from kubernetes.utils.quantity import parse_quantity

    try:
        return float(parse_quantity(text))
    except ValueError:
        raise SettingsError(
            f"{option} must be a quantity such as 500m, 4 or 16Gi. Received: {text!r}"
        ) from None

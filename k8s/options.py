"""The options of `vit submit`, checked as far as possible without a cluster."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from pipeline.errors import SettingsError

Backend = Literal["job", "mpijob"]
Runtime = Literal["horovod", "multi_worker", "mirrored"]

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LONGEST_LABEL = 63  # RFC 1123
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
# Verbs that can be submitted, besides train. They run in one pod.
ONE_POD_VERBS = ("prepare", "evaluate", "predict", "report", "export", "doctor")


@dataclass(frozen=True)
class ClusterJob:
    """A job on a cluster.

    Attributes:
      name: Name of the Job and of everything that belongs to it.
      verb: Verb of `vit`; all verbs but train run in one pod.
      nodes: Number of pods, one per node.
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


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that describe a job, apart from the command that it runs."""
    add = parser.add_argument
    add(
        "--name",
        help="name of the job and its run folder runs/NAME on the claim (default: the recipe's)",
    )
    add("--image", required=True, help="image built with `make image`, in the registry")
    add("--claim", required=True, metavar="PVC", help="ReadWriteMany claim, mounted at /shared")
    add("--data-claim", metavar="PVC", help="claim with data, mounted read-only at /data")
    add("--nodes", type=int, default=1, help="number of pods, one per node (default: 1)")
    add("--gpus-per-node", type=int, default=0, metavar="G", help="GPUs (default: 0, use the CPU)")
    add(
        "--processes-per-node",
        type=int,
        metavar="N",
        help="processes in each pod (default: one per GPU, or 1)",
    )
    add("--backend", choices=("job", "mpijob"), default="job", help="(default: job)")
    add(
        "--runtime",
        choices=("horovod", "multi_worker", "mirrored"),
        default="horovod",
        help="mirrored: one pod, whose GPUs are used by one process (default: horovod)",
    )
    add("--namespace", "-n", help="namespace (default: that of the kubectl context)")
    add("--queue", metavar="NAME", help="LocalQueue of Kueue: either all pods start, or none")
    add("--cpu", default="4", help="CPUs of each pod (default: 4)")
    add("--memory", default="16Gi", help="memory of each pod, including --shm (default: 16Gi)")
    add("--shm", default="2Gi", help="size of /dev/shm (default: 2Gi)")
    add("--node-selector", action="append", default=[], metavar="KEY=VALUE", help="can be repeated")
    add(
        "--toleration",
        action="append",
        default=[],
        metavar="KEY[=VALUE][:EFFECT]",
        help="can be repeated",
    )
    add("--priority-class", metavar="NAME")
    add(
        "--max-restarts",
        type=int,
        default=3,
        metavar="N",
        help="restarts after failures; preemption, stops and lost nodes do not count (default: 3)",
    )
    add(
        "--deadline",
        default="7d",
        metavar="TIME",
        help="time limit of the job, such as 90m, 12h or 7d (default: 7d)",
    )
    add(
        "--rdma",
        nargs="?",
        const="rdma/hca",
        metavar="RESOURCE",
        help="request one of this resource per pod (default: rdma/hca), and IPC_LOCK, which "
        "restricted Pod Security does not allow",
    )
    add("--tensorboard", action="store_true", help="also start a TensorBoard for the run")


def read_job(arguments: argparse.Namespace, verb: str) -> ClusterJob:
    """Checks the arguments of `add_job_arguments`.

    Raises:
      SettingsError: An argument is wrong on every cluster.
    """
    job = ClusterJob(
        name=default_name(arguments, verb) if arguments.name is None else arguments.name,
        image=arguments.image,
        claim=arguments.claim,
        verb=verb,
        nodes=arguments.nodes,
        gpus=arguments.gpus_per_node,
        processes=arguments.processes_per_node,
        backend=arguments.backend,
        runtime=arguments.runtime,
        namespace=arguments.namespace,
        queue=arguments.queue,
        cpu=arguments.cpu,
        memory=arguments.memory,
        shm=arguments.shm,
        data_claim=arguments.data_claim,
        node_selector=tuple(map(_read_selector, arguments.node_selector)),
        tolerations=tuple(map(_read_toleration, arguments.toleration)),
        priority_class=arguments.priority_class,
        max_restarts=arguments.max_restarts,
        deadline_s=_read_seconds(arguments.deadline),
        rdma=arguments.rdma,
        tensorboard=arguments.tensorboard,
    )
    _check_numbers(job)
    _check_names(job)
    _check_together(job)
    return job


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


def default_name(arguments: argparse.Namespace, verb: str) -> str:
    """Returns the default name of a job as a DNS label: the recipe's, or verb and run.

    Args:
      arguments: Those of `add_job_arguments`, and the `words` of the verb.
      verb: The verb of `vit`.
    """
    first = PurePath(arguments.words[0])
    words = {"train": [first.stem], "prepare": [verb], "doctor": [verb, first.stem]}
    text = "-".join(words.get(verb, [verb, first.name])).lower()
    label = re.sub(r"[^a-z0-9]+", "-", text).strip("-")
    if not label[:1].isalpha():
        label = f"vit-{label}"
    room = _room_for_name(arguments.backend, arguments.nodes, arguments.tensorboard)
    return label[:room].strip("-")


def _room_for_name(backend: Backend, nodes: int, tensorboard: bool) -> int:
    """Returns the maximum length of a name: the name of the last pod must be a DNS label."""
    last = {"job": f"-{nodes - 1}", "mpijob": f"-worker-{nodes - 1}"}[backend]
    return _LONGEST_LABEL - max(len(last), len("-board") if tensorboard else 0)


def _check_names(job: ClusterJob) -> None:
    room = _room_for_name(job.backend, job.nodes, job.tensorboard)
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


def quantity(text: str, option: str) -> float:
    """Parses a Kubernetes quantity; raises SettingsError if it is not one."""
    from kubernetes.utils.quantity import parse_quantity

    try:
        return float(parse_quantity(text))
    except ValueError:
        raise SettingsError(
            f"{option} must be a quantity such as 500m, 4 or 16Gi. Received: {text!r}"
        ) from None


def _read_seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if not found or int(found[1]) == 0:
        raise SettingsError(f"--deadline must be a time such as 90m, 12h or 7d. Received: {text!r}")
    return int(found[1]) * _SECONDS[found[2]]


def _read_selector(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise SettingsError(f"--node-selector must be KEY=VALUE. Received: {text!r}")
    return key, value


def _read_toleration(text: str) -> tuple[tuple[str, str], ...]:
    taint, colon, effect = text.partition(":")
    key, equals, value = taint.partition("=")
    if not key or (colon and effect not in _EFFECTS):
        raise SettingsError(
            "--toleration must be KEY, KEY=VALUE, or either with "
            f"{' or '.join(':' + e for e in _EFFECTS)} appended. Received: {text!r}"
        )
    found = {"key": key, "operator": "Equal" if equals else "Exists"}
    found |= {"value": value} if equals else {}
    found |= {"effect": effect} if colon else {}
    return tuple(found.items())

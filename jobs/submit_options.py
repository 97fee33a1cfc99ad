"""The options of `vit submit` that describe a job."""

from __future__ import annotations

import argparse
import re
from pathlib import PurePath

from k8s.cluster_job import ClusterJob, check_job, max_name_length
from pipeline.errors import SettingsError

# Verbs that can be submitted, besides train. They run in one pod.
ONE_POD_VERBS = ("prepare", "evaluate", "predict", "report", "export", "doctor")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


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
    add(
        "--min-nodes",
        type=int,
        metavar="N",
        help="let nodes fail and join during training, and pause with fewer than this (--backend "
        "job: Kubernetes 1.31 or later; default: all nodes are needed)",
    )
    add("--gpus-per-node", type=int, default=0, metavar="G", help="GPUs per pod (default: 0)")
    add(
        "--processes-per-node",
        type=int,
        metavar="N",
        help="processes in each pod (default: one per GPU, or 1)",
    )
    add(
        "--backend",
        choices=("job", "mpijob"),
        default="job",
        help="job: an Indexed Job; mpijob: an MPIJob of the MPI operator (default: job)",
    )
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
    add(
        "--node-selector",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="label that nodes must have; can be repeated",
    )
    add(
        "--toleration",
        action="append",
        default=[],
        metavar="KEY[=VALUE][:EFFECT]",
        help="taint that the pods tolerate; can be repeated",
    )
    add("--priority-class", metavar="NAME", help="PriorityClass of the pods")
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


def parse_job(arguments: argparse.Namespace, verb: str) -> ClusterJob:
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
        min_nodes=arguments.min_nodes,
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
    check_job(job)
    return job


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
    room = max_name_length(arguments.backend, arguments.nodes, arguments.tensorboard)
    return label[:room].strip("-")


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

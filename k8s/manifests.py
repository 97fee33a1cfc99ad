"""The parts that manifests of all kinds have in common, from the bases in this folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

import yaml

from k8s.cluster_job import ClusterJob
from pipeline.config import Config, dump_config

SHARED, DATA, RECIPE = "/shared", "/data", "/etc/vit/recipe.yaml"
# Annotations of a job: a hash of its manifests, its run folder on the claim, processes per pod.
CONTENT = "vit-pipeline/content"
RUN = "vit-pipeline/run"
SLOTS = "vit-pipeline/slots"
MIN_NODES = "vit-pipeline/min-nodes"  # of an elastic job
GPU = "nvidia.com/gpu"

# The processes exit by themselves within checkpoint.grace_s. The launcher kills them this many
# seconds later, and Kubernetes kills the pod this many seconds after that.
_LAUNCHER_LATER_S, _POD_LATER_S = 15, 30

Manifest = dict[str, Any]


def manifests_of_kind(manifests: Sequence[Manifest], *kinds: str) -> Manifest:
    """Returns the first manifest of one of these kinds."""
    return next(manifest for manifest in manifests if manifest["kind"] in kinds)


def base(name: str) -> dict[str, Manifest]:
    """Returns the resources of a base by their kind."""
    folder = files("k8s").joinpath(name)
    listed = yaml.safe_load(folder.joinpath("kustomization.yaml").read_text())["resources"]
    found = [yaml.safe_load(folder.joinpath(file).read_text()) for file in listed]
    return {manifest["kind"]: manifest for manifest in found}


def config_map(job: ClusterJob, config: Config) -> Manifest:
    """Returns the ConfigMap with the settings. Its name changes with its content."""
    text = dump_config(config)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{job.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}",
            "labels": labels(job.name),
        },
        "immutable": True,
        "data": {PurePosixPath(RECIPE).name: text},
    }


def labels(instance: str) -> dict[str, str]:
    """Returns the labels that all objects of a job have."""
    return {
        "app.kubernetes.io/name": "vit-pipeline",
        "app.kubernetes.io/instance": instance,
        "app.kubernetes.io/managed-by": "vit",
    }


def launcher_grace_s(config: Config | None) -> int:
    """Returns the time after a signal at which a launcher kills remaining processes."""
    own_s = 0.0 if config is None else config.checkpoint.grace_s
    return round(own_s) + _LAUNCHER_LATER_S


def select_pods(policy: Manifest, selector: dict[str, str]) -> None:
    """Applies a NetworkPolicy to these pods. If it admits any pods, it admits only these."""
    spec = policy["spec"]
    rules = [rule for ingress in spec["ingress"] for rule in ingress["from"]]
    for place in (spec, *rules):
        place["podSelector"] = {"matchLabels": dict(selector)}


def queue_labels(job: ClusterJob) -> dict[str, str]:
    """Returns the labels of the Job or MPIJob itself."""
    return labels(job.name) | ({"kueue.x-k8s.io/queue-name": job.queue} if job.queue else {})


def set_pod(template: Manifest, job: ClusterJob, config: Config | None) -> None:
    """Fills in the pod of a base for a job: image, resources, scheduling, volumes."""
    template["metadata"]["labels"] = labels(job.name)
    pod = template["spec"]
    pod["terminationGracePeriodSeconds"] = launcher_grace_s(config) + _POD_LATER_S
    _set_scheduling(pod, job)
    container = pod["containers"][0]
    container["image"] = job.image
    requests = {"cpu": job.cpu, "memory": job.memory}
    limits: dict[str, Any] = {"memory": job.memory}
    if job.gpus:
        limits[GPU] = job.gpus
    if job.rdma is not None:
        limits[job.rdma] = 1
        # Allows pinning the memory that the network card reads.
        container["securityContext"]["capabilities"]["add"] = ["IPC_LOCK"]
    container["resources"] = {"requests": requests, "limits": limits}
    set_volume(template, "shared", {"persistentVolumeClaim": {"claimName": job.claim}})
    set_volume(template, "shm", {"emptyDir": {"medium": "Memory", "sizeLimit": job.shm}})
    if job.data_claim is not None:
        claim = {"claimName": job.data_claim, "readOnly": True}
        pod["volumes"].append({"name": "data", "persistentVolumeClaim": claim})
        container["volumeMounts"].append({"name": "data", "mountPath": DATA, "readOnly": True})


def _set_scheduling(pod: Manifest, job: ClusterJob) -> None:
    if job.node_selector:
        pod["nodeSelector"] = dict(job.node_selector)
    if job.tolerations:
        pod["tolerations"] = [dict(toleration) for toleration in job.tolerations]
    if job.priority_class is not None:
        pod["priorityClassName"] = job.priority_class


def set_volume(template: Manifest, name: str, source: Manifest) -> None:
    """Sets the source of the volume of this name, if the base has it."""
    for volume in template["spec"]["volumes"]:
        if volume["name"] == name:
            volume.clear()
            volume.update({"name": name, **source})


def drop_volume(template: Manifest, name: str) -> None:
    """Removes a volume and its mounts."""
    pod = template["spec"]
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != name]
    for container in pod["containers"]:
        mounts = container["volumeMounts"]
        container["volumeMounts"] = [mount for mount in mounts if mount["name"] != name]

"""The pieces that manifests of all kinds are made of, from the bases in this folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

import yaml

from k8s.options import ClusterJob
from pipeline.config import Config, dump_config

SHARED, DATA, RECIPE = "/shared", "/data", "/etc/vit/recipe.yaml"
CONTENT = "vit-pipeline/content"  # the annotation that says which content a name stands for
RUN = "vit-pipeline/run"  # which run folder on the claim
SLOTS = "vit-pipeline/slots"  # and how many processes a pod has
GPU = "nvidia.com/gpu"

# After checkpoint.grace_s the processes end by themselves: so much later they are killed, and
# still later the pod.
_LAUNCHER_LATER_S, _POD_LATER_S = 15, 30

Manifest = dict[str, Any]


def manifests_of_kind(manifests: Sequence[Manifest], *kinds: str) -> Manifest:
    """The first of these kinds."""
    return next(manifest for manifest in manifests if manifest["kind"] in kinds)


def base(name: str) -> dict[str, Manifest]:
    """The resources of a base by their kind."""
    folder = files("k8s").joinpath(name)
    listed = yaml.safe_load(folder.joinpath("kustomization.yaml").read_text())["resources"]
    found = [yaml.safe_load(folder.joinpath(file).read_text()) for file in listed]
    return {manifest["kind"]: manifest for manifest in found}


def config_map(job: ClusterJob, config: Config) -> Manifest:
    """The settings, under a name that changes with them."""
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
    """What all objects of a job carry."""
    return {
        "app.kubernetes.io/name": "vit-pipeline",
        "app.kubernetes.io/instance": instance,
        "app.kubernetes.io/managed-by": "vit",
    }


def launcher_grace_s(config: Config | None) -> int:
    """How long after a signal a launcher kills what has not ended."""
    own_s = 0.0 if config is None else config.checkpoint.grace_s
    return round(own_s) + _LAUNCHER_LATER_S


def select_pods(policy: Manifest, selector: dict[str, str]) -> None:
    """Makes a NetworkPolicy that of these pods, and lets in these alone where it lets in any."""
    spec = policy["spec"]
    rules = [rule for ingress in spec["ingress"] for rule in ingress["from"]]
    for place in (spec, *rules):
        place["podSelector"] = {"matchLabels": dict(selector)}


def queue_labels(job: ClusterJob) -> dict[str, str]:
    """Those of the job itself."""
    return labels(job.name) | ({"kueue.x-k8s.io/queue-name": job.queue} if job.queue else {})


def set_pod(template: Manifest, job: ClusterJob, config: Config | None) -> None:
    """Makes a base's pod that of a job: image, resources, places, volumes."""
    template["metadata"]["labels"] = labels(job.name)
    pod = template["spec"]
    pod["terminationGracePeriodSeconds"] = launcher_grace_s(config) + _POD_LATER_S
    _set_places(pod, job)
    container = pod["containers"][0]
    container["image"] = job.image
    requests = {"cpu": job.cpu, "memory": job.memory}
    limits: dict[str, Any] = {"memory": job.memory}
    if job.gpus:
        limits[GPU] = job.gpus
    if job.rdma is not None:
        limits[job.rdma] = 1
        # To pin the memory that the network card reads.
        container["securityContext"]["capabilities"]["add"] = ["IPC_LOCK"]
    container["resources"] = {"requests": requests, "limits": limits}
    set_volume(template, "shared", {"persistentVolumeClaim": {"claimName": job.claim}})
    set_volume(template, "shm", {"emptyDir": {"medium": "Memory", "sizeLimit": job.shm}})
    if job.data_claim is not None:
        claim = {"claimName": job.data_claim, "readOnly": True}
        pod["volumes"].append({"name": "data", "persistentVolumeClaim": claim})
        container["volumeMounts"].append({"name": "data", "mountPath": DATA, "readOnly": True})


def _set_places(pod: Manifest, job: ClusterJob) -> None:
    if job.node_selector:
        pod["nodeSelector"] = dict(job.node_selector)
    if job.tolerations:
        pod["tolerations"] = [dict(toleration) for toleration in job.tolerations]
    if job.priority_class is not None:
        pod["priorityClassName"] = job.priority_class


def set_volume(template: Manifest, name: str, source: Manifest) -> None:
    """Fills the volume of this name, where the base has it."""
    for volume in template["spec"]["volumes"]:
        if volume["name"] == name:
            volume.clear()
            volume.update({"name": name, **source})


def drop_volume(template: Manifest, name: str) -> None:
    """Takes a volume away, and where it was mounted."""
    pod = template["spec"]
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != name]
    for container in pod["containers"]:
        mounts = container["volumeMounts"]
        container["volumeMounts"] = [mount for mount in mounts if mount["name"] != name]

"""The manifests of a job, from the bases in k8s/."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from k8s.cluster_job import ClusterJob
from k8s.manifests import (
    CONTENT,
    DATA,
    MIN_NODES,
    RECIPE,
    RUN,
    SHARED,
    SLOTS,
    Manifest,
    base,
    config_map,
    drop_volume,
    labels,
    launcher_grace_s,
    manifests_of_kind,
    queue_labels,
    select_pods,
    set_pod,
    set_volume,
)
from k8s.mpijob_manifests import render_mpijob
from pipeline.config import Config, value_of
from pipeline.errors import SettingsError
from pipeline.launch.signatures import TOKEN


def settings_for_cluster(config: Config, job: ClusterJob) -> Config:
    """Returns the settings for the pods: the run folder on the claim, and the job's runtime.

    Raises:
      SettingsError: A path does not exist in the pods, or the recipe asks for another runtime.
    """
    if config.distribute.runtime not in ("auto", job.runtime):
        raise SettingsError(
            f"distribute.runtime={config.distribute.runtime} and --runtime {job.runtime} differ: "
            "give one of them"
        )
    for key in ("run.dir", "data.path", "model.pretrained"):
        _check_path(key, value_of(config, key), job)
    # If a pod finds no GPU although it requested some, training must fail: otherwise it would hold
    # the GPUs without using them.
    device = "gpu" if job.gpus else config.distribute.device
    distribute = config.distribute.model_copy(update={"runtime": job.runtime, "device": device})
    return config.model_copy(update={"distribute": distribute})


def _check_path(key: str, path: Any, job: ClusterJob) -> None:
    if path is None:
        return
    roots = [SHARED, *([DATA] if job.data_claim and key != "run.dir" else [])]
    inside = PurePosixPath(SHARED, str(path))
    if ".." in inside.parts or not any(inside.is_relative_to(root) for root in roots):
        raise SettingsError(
            f"{key}={path} does not exist in the pods: there, the claim {job.claim} is mounted at "
            f"{SHARED}, and relative paths start there"
            + (f"; {job.data_claim} is mounted at {DATA}" if job.data_claim else "")
            + f". Give {key}={SHARED}/... or, for data on a separate claim, --data-claim"
        )


def render(
    job: ClusterJob, token: str, config: Config | None = None, arguments: Sequence[str] = ()
) -> list[Manifest]:
    """Returns all manifests of a job, in the order in which they must be created.

    Args:
      job: The job.
      token: The secret with which the launchers in its pods authenticate each other.
      config: The result of `settings_for_cluster`, for training.
      arguments: The arguments of another verb.
    """
    if job.backend == "mpijob":
        manifests = render_mpijob(job, config)
    else:
        manifests = list(_render_job(job, token, config, arguments))
    if job.tensorboard:
        manifests += _render_board(job, run_folder(job, config, arguments))
    for manifest in manifests:
        if job.namespace is not None:
            manifest["metadata"]["namespace"] = job.namespace
    main = manifests_of_kind(manifests, "Job", "MPIJob")
    # Each call has a new token. Two jobs that differ only in their token are the same job.
    content = [manifest for manifest in manifests if manifest["kind"] != "Secret"]
    main["metadata"]["annotations"] = {
        CONTENT: hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16],
        RUN: run_folder(job, config, arguments),
        SLOTS: str(job.slots if job.launched else 1),
    }
    if job.min_nodes is not None:
        main["metadata"]["annotations"][MIN_NODES] = str(job.min_nodes)
    return manifests


def run_folder(job: ClusterJob, config: Config | None, arguments: Sequence[str]) -> str:
    """Returns the run folder on the claim; empty for a verb without a run."""
    if config is not None:
        return str(config.run.dir)
    has_run = job.verb in ("evaluate", "predict", "report", "export")
    return arguments[0] if has_run and arguments else ""


def _token_secret(job: ClusterJob, token: str) -> Manifest:
    """Returns the Secret with the launchers' token.

    It is immutable, because a pod that replaces another must have the same token.
    """
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{job.name}-launch", "labels": labels(job.name)},
        "immutable": True,
        "data": {"token": base64.b64encode(token.encode()).decode()},
    }


def _render_job(
    job: ClusterJob, token: str, config: Config | None, arguments: Sequence[str]
) -> Iterator[Manifest]:
    resources = base("job")
    if config is not None:
        recipe = config_map(job, config)
        yield recipe
    secret = _token_secret(job, token) if job.nodes > 1 else None
    if secret is not None:
        yield secret
    if job.launched:
        selector = {"batch.kubernetes.io/job-name": job.name}
        service, policy = resources["Service"], resources["NetworkPolicy"]
        service["spec"]["selector"] = selector
        select_pods(policy, selector)
        for manifest in (service, policy):
            manifest["metadata"] = {"name": job.name, "labels": labels(job.name)}
            yield manifest
    manifest = resources["Job"]
    manifest["metadata"] = {"name": job.name, "labels": queue_labels(job)}
    spec = manifest["spec"]
    spec["completions"] = spec["parallelism"] = job.nodes
    spec["backoffLimit"] = job.max_restarts * job.nodes
    spec["activeDeadlineSeconds"] = job.deadline_s
    spec["suspend"] = job.queue is not None  # Kueue resumes it when there is room.
    template = spec["template"]
    set_pod(template, job, config)
    container = template["spec"]["containers"][0]
    _set_token(container, secret)
    if job.launched:
        template["spec"]["subdomain"] = job.name
        launcher = [
            "vit",
            "launch",
            "--hosts",
            ",".join(job.hosts),
            "--processes-per-node",
            str(job.slots),
        ]
        if job.min_nodes is not None:
            launcher += ["--min-workers", str(job.min_nodes * job.slots)]
            # A pod ends with 0 only if the run is complete. Another that returns at the very end
            # would wait for those that have ended.
            spec["successPolicy"] = {"rules": [{"succeededCount": 1}]}
        if job.runtime == "multi_worker":
            # A restricted pod cannot create a private network. The NetworkPolicy takes its place.
            launcher += ["--runtime", job.runtime, "--trust-network"]
        container["command"] = [*launcher, "--grace-s", str(launcher_grace_s(config)), "--"]
        container["args"] = ["vit", "train", RECIPE]
    else:
        del template["spec"]["subdomain"]
        container["command"] = ["vit", job.verb]
        container["args"] = [RECIPE] if config is not None else list(arguments)
    if config is not None:
        set_volume(template, "recipe", {"configMap": {"name": recipe["metadata"]["name"]}})
    else:
        drop_volume(template, "recipe")
    yield manifest


def _set_token(container: Manifest, secret: Manifest | None) -> None:
    """Points the variable of the base to the job's Secret; a single pod needs neither."""
    token = next(entry for entry in container["env"] if entry["name"] == TOKEN)
    if secret is None:
        container["env"].remove(token)
    else:
        token["valueFrom"]["secretKeyRef"]["name"] = secret["metadata"]["name"]


def _render_board(job: ClusterJob, run: str) -> list[Manifest]:
    resources, name = base("tensorboard"), f"{job.name}-board"
    service, deployment = resources["Service"], resources["Deployment"]
    selector = {"app.kubernetes.io/instance": name}
    policy = resources["NetworkPolicy"]
    for manifest in (service, policy, deployment):
        manifest["metadata"] = {"name": name, "labels": labels(name)}
    select_pods(policy, selector)
    service["spec"]["selector"] = selector
    deployment["spec"]["selector"] = {"matchLabels": selector}
    template = deployment["spec"]["template"]
    template["metadata"]["labels"] = labels(name)
    container = template["spec"]["containers"][0]
    container["image"] = job.image
    container["args"][0] = run
    claim = {"claimName": job.claim, "readOnly": True}
    set_volume(template, "shared", {"persistentVolumeClaim": claim})
    return [service, policy, deployment]

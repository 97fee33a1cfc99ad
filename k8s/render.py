"""The manifests of a job, from the bases in k8s/."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from k8s.manifests import (
    CONTENT,
    DATA,
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
from k8s.options import ClusterJob
from pipeline.config import Config, value_of
from pipeline.errors import SettingsError
from pipeline.launch.signatures import TOKEN


def settings_for_cluster(config: Config, job: ClusterJob) -> Config:
    """The settings as the pods get them: run folder on the claim, and the job's runtime.

    Raises:
      SettingsError: A path is not one the pods have, or the recipe asks for another runtime.
    """
    if config.distribute.runtime not in ("auto", job.runtime):
        raise SettingsError(
            f"distribute.runtime={config.distribute.runtime} and --runtime {job.runtime} differ: "
            "give one of them"
        )
    for key in ("run.dir", "data.path", "model.pretrained"):
        _check_path(key, value_of(config, key), job)
    # Without a GPU where one was asked for, all would be held and none used.
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
            f"{key}={path} is no path that the pods have: there the claim {job.claim} is at "
            f"{SHARED}, where relative paths begin"
            + (f", and {job.data_claim} at {DATA}" if job.data_claim else "")
            + f". Give {key}={SHARED}/... or, for data on a claim of its own, --data-claim"
        )


def render(
    job: ClusterJob, token: str, config: Config | None = None, arguments: Sequence[str] = ()
) -> list[Manifest]:
    """All manifests of a job, in the order they are to be created.

    Args:
      job: What is asked for.
      token: The secret by which the launchers in its pods know each other.
      config: Of `settings_for_cluster`, for training.
      arguments: Of another verb.
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
    # The token is another one each time, and the job is the same.
    content = [manifest for manifest in manifests if manifest["kind"] != "Secret"]
    main["metadata"]["annotations"] = {
        CONTENT: hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16],
        RUN: run_folder(job, config, arguments),
        SLOTS: str(job.slots if job.launched else 1),
    }
    return manifests


def run_folder(job: ClusterJob, config: Config | None, arguments: Sequence[str]) -> str:
    """Where on the claim the job's run is; empty for a verb that has none."""
    if config is not None:
        return str(config.run.dir)
    of_a_run = job.verb in ("evaluate", "predict", "report", "export")
    return arguments[0] if of_a_run and arguments else ""


def _token_secret(job: ClusterJob, token: str) -> Manifest:
    """The launchers' token. It cannot be changed: a pod that is replaced must have the same."""
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
    spec["suspend"] = job.queue is not None  # Kueue lets it go when there is room
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
        if job.runtime == "multi_worker":
            # The NetworkPolicy stands for the private network, which a restricted pod cannot make.
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
    """Leads the base's variable to the job's Secret; one pod needs neither."""
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

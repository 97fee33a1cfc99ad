"""The manifests of a job, from the bases in k8s/."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

import yaml

from jobs.cluster.options import ClusterJob
from pipeline.config import Config, dump_config, value_of
from pipeline.distribute.signatures import TOKEN
from pipeline.errors import SettingsError

SHARED, DATA, RECIPE = "/shared", "/data", "/etc/vit/recipe.yaml"
CONTENT = "vit-pipeline/content"  # the annotation that says which content a name stands for
RUN = "vit-pipeline/run"  # which run folder on the claim
SLOTS = "vit-pipeline/slots"  # and how many processes a pod has
GPU = "nvidia.com/gpu"

# After checkpoint.grace_s the processes end by themselves: so much later they are killed, and
# still later the pod.
_LAUNCHER_LATER_S, _POD_LATER_S = 15, 30

Manifest = dict[str, Any]


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
        from jobs.cluster.mpijob import render_mpijob

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


def manifests_of_kind(manifests: Sequence[Manifest], *kinds: str) -> Manifest:
    """The first of these kinds."""
    return next(manifest for manifest in manifests if manifest["kind"] in kinds)


def to_yaml(manifests: Sequence[Manifest]) -> str:
    """One text, the same for the same job."""
    return "---\n".join(
        yaml.dump(m, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
        for m in manifests
    )


# Parsers differ in what they take for a number, a boolean or a date (1e3, 0o7, 012, off, 12:30). So
# all that is no plain word is quoted, and each word that one of them takes for something else.
_PLAIN = re.compile(r"(--)?/?[A-Za-z][A-Za-z0-9_./-]*")
_NO_TEXT = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "nan", "inf"}
_BREAKS_OF_YAML_1_1 = "\x85\u2028\u2029"  # which are no line breaks in YAML 1.2


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style: str | None = '"'
    if _PLAIN.fullmatch(text) and text.lower() not in _NO_TEXT:
        style = None
    elif "\n" in text and not set(text) & set(_BREAKS_OF_YAML_1_1):
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


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


def _token_secret(job: ClusterJob, token: str) -> Manifest:
    """The launchers' token. It cannot be changed: a pod that is replaced must have the same."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{job.name}-launch", "labels": labels(job.name)},
        "immutable": True,
        "data": {"token": base64.b64encode(token.encode()).decode()},
    }


def labels(instance: str) -> dict[str, str]:
    """What all objects of a job carry."""
    return {
        "app.kubernetes.io/name": "vit-pipeline",
        "app.kubernetes.io/instance": instance,
        "app.kubernetes.io/managed-by": "vit",
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

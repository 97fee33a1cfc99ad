"""Creates a job with all of its objects, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from k8s.api import ClusterApi, Manifest
from k8s.api_errors import Forbidden, KindMissing
from k8s.cluster_job import ClusterJob
from k8s.manifests import CONTENT, manifests_of_kind
from pipeline.errors import PipelineError, SettingsError

OURS = ("app.kubernetes.io/name", "vit-pipeline")
INSTANCE = "app.kubernetes.io/instance"


def create(
    cluster: ClusterApi, job: ClusterJob, manifests: Sequence[Manifest], dry_run: bool
) -> str:
    """Checks with the server that it accepts all objects, and then creates them.

    Args:
      job: The job.
      manifests: The result of `render`.
      dry_run: Whether to check only.

    Returns:
      The text to print.

    Raises:
      SettingsError: The name is taken, or the cluster would not accept or not run the job.
    """
    main = manifests_of_kind(manifests, "Job", "MPIJob")
    cluster.check_namespace()
    if _is_there(cluster, main):
        return f"{_title(main)} already exists, with the same settings{_next(job)}"
    for manifest in manifests:
        if manifest is not main:
            _check_free(cluster, manifest, job.name)
    _check_claims(cluster, job)
    _ask(cluster, job, manifests)
    if dry_run:
        kinds = ", ".join(f"{m['kind']} {m['metadata']['name']}" for m in manifests)
        return f"the cluster would accept {_title(main)} in namespace {cluster.namespace}: {kinds}"
    _apply(cluster, manifests, main)
    processes = job.nodes * job.slots if job.launched else 1
    pods = "1 pod" if job.nodes == 1 else f"{job.nodes} pods"
    return (
        f"created {_title(main)} in namespace {cluster.namespace}: {pods}, "
        f"{processes} process{'es' if processes > 1 else ''}{_next(job)}"
    )


def _title(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def _next(job: ClusterJob) -> str:
    """Returns the commands that the user needs next."""
    where = "" if job.namespace is None else f" -n {job.namespace}"
    lines = [f"jobs {job.name}{where}", f"logs {job.name} -f{where}"]
    lines += [f"board --kubernetes {job.name}{where}"] if job.tensorboard else []
    return "".join(f"\n  vit {line}" for line in lines)


def _is_there(cluster: ClusterApi, main: Manifest) -> bool:
    """Returns whether the same job exists; raises an error if another job has the name."""
    kind, name = main["kind"], main["metadata"]["name"]
    found = cluster.get(kind, name)
    if found is None:
        other = "Job" if kind == "MPIJob" else "MPIJob"
        try:
            found = cluster.get(other, name)
        except (KindMissing, Forbidden):
            found = None
    if found is None:
        return False
    taken, metadata = f"there is already a {found.get('kind', kind)} {name}", found["metadata"]
    if metadata.get("labels", {}).get(OURS[0]) != OURS[1]:
        raise SettingsError(f"{taken}, which `vit submit` did not create: give another --name")
    if "deletionTimestamp" in metadata:
        raise SettingsError(
            f"{taken}, which is being deleted: try again after its pods have ended (`vit jobs "
            f"{name}`), or give another --name"
        )
    if metadata.get("annotations", {}).get(CONTENT) != main["metadata"]["annotations"][CONTENT]:
        raise SettingsError(
            f"{taken}, with other settings or options: give another --name, or delete it first "
            f"with `vit delete {name}`, which keeps the files on the claim"
        )
    return True


def _check_free(cluster: ClusterApi, manifest: Manifest, name: str) -> None:
    """Refuses an object that belongs to somebody else, which applying would take over."""
    found = cluster.get(manifest["kind"], manifest["metadata"]["name"])
    if found is None:
        return
    if "deletionTimestamp" in found["metadata"]:
        raise SettingsError(
            f"the {_title(manifest)} of an earlier job is being deleted: try again in a moment, or "
            "give another --name"
        )
    owners = found["metadata"].get("ownerReferences", [])
    ours = found["metadata"].get("labels", {}).get(OURS[0]) == OURS[1]
    if not ours or any(owner["name"] != name for owner in owners):
        raise SettingsError(
            f"there is already a {_title(manifest)}, which does not belong to job {name}: give "
            "another --name"
        )
    if manifest["kind"] == "Secret":  # It contains another token, and cannot be changed.
        raise SettingsError(
            f"the {_title(manifest)} of an earlier job {name} still exists: `vit delete {name}` "
            "removes it"
        )


def _check_claims(cluster: ClusterApi, job: ClusterJob) -> None:
    """Checks that the claims exist, and can be mounted by all pods."""
    try:
        claims = cluster.list("PersistentVolumeClaim")
    except Forbidden as error:
        print(f"vit submit: the claims are not checked: {error}", file=sys.stderr)
        return
    found = {claim["metadata"]["name"]: claim for claim in claims}
    for option, name in (("--claim", job.claim), ("--data-claim", job.data_claim)):
        if name is None:
            continue
        if name not in found:
            there = ", ".join(sorted(found)) or "none"
            raise SettingsError(
                f"there is no PersistentVolumeClaim {name} in namespace {cluster.namespace}: give "
                f"{option} an existing one ({there}), or create it"
            )
        modes = found[name]["spec"].get("accessModes", [])
        shared = {"ReadWriteMany"} if option == "--claim" else {"ReadWriteMany", "ReadOnlyMany"}
        if (job.nodes > 1 or (option == "--claim" and job.tensorboard)) and not shared & set(modes):
            why = f"--nodes {job.nodes}" if job.nodes > 1 else "--tensorboard"
            raise SettingsError(
                f"the claim {name} is {', '.join(modes)}, but with {why} pods on several nodes "
                f"mount it: give {option} a ReadWriteMany claim, or run one pod without "
                "TensorBoard"
            )


def _ask(cluster: ClusterApi, job: ClusterJob, manifests: Sequence[Manifest]) -> None:
    """Applies all manifests as a dry run, so that a job is never created in part."""
    for manifest in manifests:
        for warning in cluster.apply(manifest, dry_run=True).warnings:
            if "would violate PodSecurity" in warning and job.rdma is None:
                raise SettingsError(
                    f"namespace {cluster.namespace} would accept {_title(manifest)} but reject its "
                    f"pods: {warning}. Give another --namespace, or have its label "
                    "pod-security.kubernetes.io/enforce changed"
                )
            print(f"vit submit: the cluster warns: {warning}", file=sys.stderr)


def _apply(cluster: ClusterApi, manifests: Sequence[Manifest], main: Manifest) -> None:
    """Creates all objects, and makes the job their owner, so that they are deleted with it."""
    created: list[Manifest] = []
    try:
        for manifest in manifests:
            applied = cluster.apply(manifest)
            if applied.created:
                created.append(manifest)
            if manifest is main:
                uid = applied.object["metadata"]["uid"]
    except PipelineError:
        for manifest in reversed(created):
            cluster.delete(manifest["kind"], manifest["metadata"]["name"])
        raise
    owner = {
        "apiVersion": main["apiVersion"],
        "kind": main["kind"],
        "name": main["metadata"]["name"],
        "uid": uid,
    }
    for manifest in manifests:
        if manifest is not main:
            change = {"metadata": {"ownerReferences": [owner]}}
            cluster.patch(manifest["kind"], manifest["metadata"]["name"], change)

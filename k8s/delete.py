"""Finds and deletes the objects of a job."""

from __future__ import annotations

from collections.abc import Iterator

from k8s.api import ClusterApi, Manifest
from k8s.api_errors import Forbidden, KindMissing
from k8s.create import INSTANCE, OURS
from k8s.manifests import RUN
from pipeline.errors import SettingsError

# Kinds of the objects that belong to a job. Not the claim: the files on it are kept.
_KINDS = ("Deployment", "Service", "NetworkPolicy", "Secret", "ConfigMap")


def delete(cluster: ClusterApi, name: str) -> str:
    """Deletes a job and everything that belongs to it; returns the text to print.

    Raises:
      SettingsError: Nothing belongs to a job of this name.
    """
    found = [*_jobs(cluster, name), *_other_objects(cluster, name)]
    if not found:
        cluster.check_namespace()
        raise SettingsError(
            f"there is no job {name} in namespace {cluster.namespace}: `vit jobs` lists the "
            "existing jobs"
        )
    run = ""
    for item in found:
        # In the foreground: a new job of the same name must not start while the pods of this one,
        # which have the same host names, are still saving.
        cluster.delete(item["kind"], item["metadata"]["name"])
        run = run or item["metadata"].get("annotations", {}).get(RUN, "")
    kept = f"{run} is kept on the claim" if run else "the files on the claim are kept"
    titles = ", ".join(f"{item['kind']} {item['metadata']['name']}" for item in found)
    return f"deleted {titles}; {kept}"


def _jobs(cluster: ClusterApi, name: str) -> Iterator[Manifest]:
    for kind in ("Job", "MPIJob"):
        try:
            found = cluster.get(kind, name)
        except (KindMissing, Forbidden):
            if kind == "Job":
                raise
            continue
        if found is not None and found["metadata"].get("labels", {}).get(OURS[0]) == OURS[1]:
            yield {"kind": kind, **found}


def _other_objects(cluster: ClusterApi, name: str) -> Iterator[Manifest]:
    """Yields the objects of the job and its TensorBoard, but not of another job NAME-board."""
    labels = f"{'='.join(OURS)},{INSTANCE} in ({name},{name}-board)"
    for kind in _KINDS:
        for item in cluster.list(kind, labels=labels):
            owners = item["metadata"].get("ownerReferences", [])
            if all(owner["name"] == name for owner in owners):
                yield item

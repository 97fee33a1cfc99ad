"""`vit delete NAME`"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from k8s.api import ClusterApi, Manifest
from k8s.api_errors import Forbidden, KindMissing
from k8s.create import INSTANCE, OURS
from k8s.manifests import RUN
from pipeline.errors import SettingsError

# What a job consists of beside itself. Not the claim: what was written there stays.
_KINDS = ("Deployment", "Service", "NetworkPolicy", "Secret", "ConfigMap")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("name", metavar="NAME", help="of the job")
    parser.add_argument("--namespace", "-n", help="default: that of the kubectl context")
    parser.epilog = (
        "A job that runs is asked to save and end. Until its pods have ended, its name is taken."
    )


def run(arguments: argparse.Namespace) -> int:
    """Deletes the job and all that belongs to it."""
    cluster, name = ClusterApi(arguments.namespace), arguments.name
    found = [*_mains(cluster, name), *_others(cluster, name)]
    if not found:
        cluster.check_namespace()
        raise SettingsError(
            f"there is nothing of a job {name} in namespace {cluster.namespace}: `vit jobs` shows "
            "those there are"
        )
    run = ""
    for item in found:
        # In the foreground: a job of the same name must not begin while pods of this one, which
        # answer to the same host names, still save.
        cluster.delete(item["kind"], item["metadata"]["name"])
        run = run or item["metadata"].get("annotations", {}).get(RUN, "")
    stays = f"; {run} stays on the claim" if run else "; what it wrote stays on the claim"
    print(f"deleted {', '.join(_title(item) for item in found)}{stays}")
    return 0


def _title(item: Manifest) -> str:
    return f"{item['kind']} {item['metadata']['name']}"


def _mains(cluster: ClusterApi, name: str) -> Iterator[Manifest]:
    for kind in ("Job", "MPIJob"):
        try:
            found = cluster.get(kind, name)
        except (KindMissing, Forbidden):
            if kind == "Job":
                raise
            continue
        if found is not None and found["metadata"].get("labels", {}).get(OURS[0]) == OURS[1]:
            yield {"kind": kind, **found}


def _others(cluster: ClusterApi, name: str) -> Iterator[Manifest]:
    """Those of the job and its TensorBoard, but not those of a job that is called NAME-board."""
    labels = f"{'='.join(OURS)},{INSTANCE} in ({name},{name}-board)"
    for kind in _KINDS:
        for item in cluster.list(kind, labels=labels):
            owners = item["metadata"].get("ownerReferences", [])
            if all(owner["name"] == name for owner in owners):
                yield item

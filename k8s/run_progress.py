"""The progress of a run, read from its folder on the claim through a pod that mounts it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from k8s.api import ClusterApi, Manifest
from k8s.manifests import SHARED
from k8s.state import JobView

# Prints the end of metrics.jsonl, which may start within a line, and the names of checkpoints.
_SCRIPT = 'cd "$0" 2>/dev/null || exit 0; tail -n 100 metrics.jsonl; echo; ls checkpoints'
_CHECKPOINT = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class RunProgress:
    """The last row of training metrics, and the last complete checkpoint; None if unknown."""

    step: int | None = None
    loss: float | None = None
    images_per_second: float | None = None
    checkpoint_step: int | None = None


def read_progress(cluster: ClusterApi, job: JobView) -> RunProgress:
    """Reads the progress, if a pod of the job or of its TensorBoard is running.

    Raises:
      PipelineError: The command cannot be executed in the pod.
    """
    if not job.run or (place := _find_pod(cluster, job)) is None:
        return RunProgress()
    pod, container = place
    folder = f"{SHARED}/{job.run}"
    return parse(cluster.execute(pod, container, ["sh", "-c", _SCRIPT, folder]))


def parse(text: str) -> RunProgress:
    """Parses the output of the script."""
    row: dict[str, Any] = {}
    steps = []
    for line in text.splitlines():
        if found_checkpoint := _CHECKPOINT.fullmatch(
            line
        ):  # All other names are incomplete checkpoints, or set aside.
            steps.append(int(found_checkpoint[1]))
        elif line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            row = found if found.get("split") == "train" else row
    return RunProgress(
        row.get("step"),
        row.get("loss"),
        row.get("examples_per_second"),
        max(steps, default=None),
    )


def _find_pod(cluster: ClusterApi, job: JobView) -> tuple[str, str] | None:
    first = job.newest("launcher" if job.is_mpi else "0")
    if first is not None and _runs(first):
        return first["metadata"]["name"], "vit"
    boards = cluster.list("Pod", labels=f"app.kubernetes.io/instance={job.name}-board")
    for pod in boards:
        if _runs(pod) and pod["spec"]["containers"][0]["name"] == "board":
            return pod["metadata"]["name"], "board"
    return None


def _runs(pod: Manifest) -> bool:
    return bool(pod["status"].get("phase") == "Running") and (
        "deletionTimestamp" not in pod["metadata"]
    )

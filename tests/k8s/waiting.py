"""Waiting for what a job on a cluster does.

That a job is running says that its pods are, and not that training has begun in them. After a
failure the cluster waits 10 s, then 20 s, until it starts new pods. So what a restart must show is
read only after the run has recorded the new start.
"""

import json
import time

from k8s.api import ClusterApi
from pipeline.errors import PipelineError

START_S = 600  # two failures, their pauses, and the start itself


def row(vit, name):
    """What `vit jobs NAME --json` says."""
    done = vit("jobs", name, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def wait_until(condition, problem, timeout_s=300, pause_s=2):
    """The condition's value once it is true; `problem()` is shown where it does not come."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, problem()
        time.sleep(pause_s)
    return value


def wait_for(vit, name, is_so, **how):
    """The job's row, once it is as wished."""

    def found():
        seen = row(vit, name)
        return seen if is_so(seen) else None

    return wait_until(found, lambda: (row(vit, name), vit("logs", name)), **how)


def starts(namespace, vit, name):
    """Checkpoint steps that the run has started from, None on a new run.

    Empty while there is no pod to ask. A line that is still being written does not count.
    """
    file = f"/shared/runs/{name}/starts.jsonl"
    pods = [pod["name"] for pod in row(vit, name)["pods"] if pod["index"] == "0"]
    try:
        text = ClusterApi(namespace).execute(pods[-1], "vit", ["cat", file]) if pods else ""
    except PipelineError:  # the pod is not running yet, or not any more
        return []
    *lines, _ = text.split("\n")
    return [json.loads(line)["checkpoint_step"] for line in lines]


def wait_for_start(namespace, vit, name, count, timeout_s=START_S, pause_s=2):
    """The checkpoint step of start number `count`, from 0, once it is recorded."""

    def found():
        seen = starts(namespace, vit, name)
        return seen if len(seen) > count else None

    def problem():
        return row(vit, name), starts(namespace, vit, name), vit("logs", name)

    return wait_until(found, problem, timeout_s, pause_s)[count]

"""End to end on a real cluster: `make test-cluster IMAGE=... [STORAGE_CLASS=...]`.

It makes a namespace with restricted Pod Security and a ReadWriteMany claim in it, and deletes both.
The image is one that `make image` built, and the nodes can pull it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
import uuid

import pytest

from k8s.api import ClusterApi
from tests.k8s.conftest import ROOT, vit_process
from tests.k8s.waiting import starts, wait_for, wait_for_start, wait_until

IMAGE = os.environ.get("VIT_TEST_IMAGE")
STORAGE_CLASS = os.environ.get("VIT_TEST_STORAGE_CLASS")

pytestmark = [
    pytest.mark.skipif(
        not (IMAGE and os.environ.get("KUBECONFIG")),
        reason="needs a cluster: set KUBECONFIG and VIT_TEST_IMAGE (`make test-cluster IMAGE=...`)",
    ),
    pytest.mark.timeout(1200),
]

SMALL = ["--cpu", "500m", "--memory", "3Gi", "--shm", "256Mi", "--deadline", "30m"]
# Long enough that something can happen to it, with a checkpoint every few seconds.
LONG = ["train.epochs=2000", "train.log_every_steps=10", "checkpoint.every_steps=50"]
SHORT = ["train.max_steps=100", "train.log_every_steps=10"]


@pytest.fixture(scope="module")
def core():
    from kubernetes import client, config

    config.load_kube_config(os.environ["KUBECONFIG"])
    return client.CoreV1Api()


@pytest.fixture(scope="module")
def namespace(core):
    """A namespace with a claim `shared`."""
    name = f"vit-test-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    core.create_namespace({"metadata": {"name": name, "labels": labels}})
    resources = {"requests": {"storage": "2Gi"}}
    spec = {"accessModes": ["ReadWriteMany"], "resources": resources}
    spec |= {"storageClassName": STORAGE_CLASS} if STORAGE_CLASS else {}
    claim = {"metadata": {"name": "shared"}, "spec": spec}
    core.create_namespaced_persistent_volume_claim(name, claim)
    yield name
    core.delete_namespace(name)


@pytest.fixture
def vit(namespace):
    """Runs a verb in the namespace."""
    return lambda *arguments: vit_process(*arguments, "-n", namespace)


@pytest.fixture
def submit(vit):
    """Submits digits in two pods, and deletes it afterwards."""
    submitted = []

    def run(name, *arguments, nodes=2):
        submitted.append(name)
        where = ["--name", name, "--image", IMAGE, "--claim", "shared", "--nodes", nodes]
        return vit("submit", "digits", *arguments, *where, *SMALL)

    yield run
    for name in submitted:
        vit("delete", name)


def trains(found):
    return found["state"] == "running" and (found["checkpoint_step"] or 0) > 0


def board_runs(core, namespace, name):
    selector = f"app.kubernetes.io/instance={name}-board"
    pods = core.list_namespaced_pod(namespace, label_selector=selector).items
    return any(pod.status.phase == "Running" for pod in pods)


def trains_past(before):
    """Goes on, and did not begin again."""
    return lambda found: trains(found) and found["step"] > before["step"]


def pod_of(found, index):
    """The newest one."""
    return [pod["name"] for pod in found["pods"] if pod["index"] == str(index)][-1]


@pytest.mark.processes
def test_a_job_runs_to_its_end_and_its_name_is_free_again(vit, submit, core, namespace):
    done = submit("short", *SHORT)
    assert (done.code, done.err) == (0, "")
    wait_for(vit, "short", lambda found: found["state"] == "done")
    assert "test accuracy" in vit("logs", "short").out
    assert "rank 1 of 2 on short-1" in (said := vit("logs", "short", "--rank", 1).out)
    assert "ended: done (exit code 0)" in said
    assert vit("delete", "short").code == 0
    assert core.read_namespaced_persistent_volume_claim("shared", namespace).status.phase == "Bound"


@pytest.mark.processes
def test_an_evicted_pod_is_replaced_and_the_run_goes_on(vit, submit, core, namespace):
    assert submit("evicted", *LONG).code == 0
    before = wait_for(vit, "evicted", trains)
    count = len(starts(namespace, vit, "evicted"))
    pod = pod_of(before, 1)
    core.create_namespaced_pod_eviction(pod, namespace, {"metadata": {"name": pod}})
    wait_for(vit, "evicted", lambda found: pod not in [p["name"] for p in found["pods"]])
    assert wait_for_start(namespace, vit, "evicted", count) > 0
    wait_for(vit, "evicted", trains_past(before))


@pytest.mark.processes
def test_a_killed_rank_starts_all_again_from_the_checkpoint(vit, submit, namespace):
    assert submit("killed", *LONG).code == 0
    before = wait_for(vit, "killed", trains)
    count = len(starts(namespace, vit, "killed"))
    # Not PID 1, `vit launch`, which names the command too; nor the shell that looks for it.
    script = """for p in /proc/[0-9]*; do
        n=${p#/proc/}
        [ $n != 1 ] && tr '\\0' ' ' < $p/cmdline | grep -q 'vi[t] train' && kill -9 $n
    done"""
    ClusterApi(namespace).execute(pod_of(before, 1), "vit", ["sh", "-c", script])
    assert wait_for_start(namespace, vit, "killed", count) > 0
    found = wait_for(vit, "killed", trains_past(before))
    assert found["restarts"] >= 1


@pytest.mark.processes
def test_a_stopped_job_goes_on_where_it_was(vit, submit, core, namespace):
    assert submit("stopped", *LONG, "--tensorboard").code == 0
    before = wait_for(vit, "stopped", trains)
    count = len(starts(namespace, vit, "stopped"))
    # `vit stop` reads the saved step in the pod of TensorBoard.
    wait_until(lambda: board_runs(core, namespace, "stopped"), lambda: "TensorBoard does not run")
    done = vit("stop", "stopped")
    assert done.code == 0, done.err
    step = int(re.search(r"saved at step (\d+)", done.out)[1])
    assert step >= before["checkpoint_step"]
    wait_for(vit, "stopped", lambda found: found["state"] == "stopped")
    assert vit("resume", "stopped").code == 0
    assert wait_for_start(namespace, vit, "stopped", count) == step
    wait_for(vit, "stopped", lambda found: trains(found) and found["step"] > step)


@pytest.mark.processes
def test_suspending_the_job_itself_does_the_same(vit, submit, namespace):
    from kubernetes import client

    assert submit("suspended", *LONG).code == 0
    before = wait_for(vit, "suspended", trains)
    count = len(starts(namespace, vit, "suspended"))
    batch = client.BatchV1Api()
    batch.patch_namespaced_job("suspended", namespace, {"spec": {"suspend": True}})
    wait_for(vit, "suspended", lambda found: found["state"] == "stopped")
    batch.patch_namespaced_job("suspended", namespace, {"spec": {"suspend": False}})
    assert wait_for_start(namespace, vit, "suspended", count) > 0
    wait_for(vit, "suspended", trains_past(before))


@pytest.mark.processes
def test_data_that_is_not_there_fails_at_once(vit, submit):
    assert submit("missing", "data.source=records", "data.path=nowhere", nodes=1).code == 0
    found = wait_for(vit, "missing", lambda found: found["state"].startswith("failed"))
    assert "exit code 3" in found["state"]
    assert found["restarts"] == 0


@pytest.mark.processes
def test_settings_that_the_run_folder_refuses_fail_at_once(vit, submit):
    assert submit("first", *SHORT, nodes=1).code == 0
    wait_for(vit, "first", lambda found: found["state"] == "done")
    other = ["run.dir=runs/first", "optim.weight_decay=0.4"]
    assert submit("second", *SHORT, *other, nodes=1).code == 0
    found = wait_for(vit, "second", lambda found: found["state"].startswith("failed"))
    assert "settings are wrong (exit code 2)" in found["state"]
    assert found["restarts"] == 0


@pytest.mark.processes
def test_tensorboard_answers_through_a_tunnel(vit, submit, namespace):
    assert submit("curves", *LONG, "--tensorboard", nodes=1).code == 0
    wait_for(vit, "curves", trains)
    command = [sys.executable, "-m", "jobs.cli", "board", "--kubernetes", "curves", "-n", namespace]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().split()[1]

            def runs():
                with urllib.request.urlopen(f"{address}data/runs", timeout=60) as answer:  # noqa: S310
                    return json.loads(answer.read())

            # It answers before it has read the run for the first time.
            wait_until(lambda: "train" in runs(), runs, timeout_s=120)
        finally:
            process.send_signal(signal.SIGINT)


@pytest.mark.processes
def test_what_the_namespace_does_not_allow_is_said_before(vit, submit):
    done = submit("pinned", *SHORT, "--rdma")
    assert (done.code, "IPC_LOCK" in done.err) == (0, True)
    found = wait_for(vit, "pinned", lambda found: found["state"].startswith("waiting"))
    assert "violates PodSecurity" in found["state"] or "rdma/hca" in found["state"]


@pytest.mark.processes
def test_a_name_that_runs_with_other_settings_is_refused(vit, submit):
    assert submit("named", *LONG).code == 0
    assert "already exists" in submit("named", *LONG).out
    done = submit("named", *SHORT)
    assert (done.code, "with other settings" in done.err) == (2, True)

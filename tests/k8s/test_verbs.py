"""`vit logs`, `stop`, `resume`, `delete` and `board --kubernetes`."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import pytest

from tests.k8s.conftest import ROOT, cluster_job, submit
from tests.k8s.test_jobs import write_run


def run_job(server, **changes):
    """A job whose pods run and print."""
    job = cluster_job(**changes)
    submit(job)
    for index in range(job.nodes):
        pod = server.add_pod("digits", index)["metadata"]["name"]
        ranks = range(index * job.slots, (index + 1) * job.slots)
        server.logs[pod] = [
            *(["a line of rank 0", "vit launch: of the launcher"] if index == 0 else []),
            *(f"[rank {r} digits-{index}] a line of rank {r}" for r in ranks if r),
        ]


def test_logs_are_those_of_the_first_pod_or_of_a_rank(server, vit):
    run_job(server, gpus=2)
    assert vit("logs", "digits").out.splitlines() == [
        "a line of rank 0",
        "vit launch: of the launcher",
        "[rank 1 digits-0] a line of rank 1",
    ]
    assert "rank 1" not in vit("logs", "digits", "--rank", 0).out
    assert vit("logs", "digits", "--rank", 1).out == "[rank 1 digits-0] a line of rank 1\n"
    assert vit("logs", "digits", "--rank", 3).out == "[rank 3 digits-1] a line of rank 3\n"
    silent = server.add_pod("digits", 0)["metadata"]
    silent["creationTimestamp"] = "2099-01-01T00:00:00Z"
    server.logs[silent["name"]] = ["a line of rank 0"]
    done = vit("logs", "digits", "--rank", 1)
    assert (done.code, done.out) == (0, "")
    assert done.err == f"vit logs: no line of rank 1 in the log of pod {silent['name']} yet\n"
    done = vit("logs", "digits", "--rank", 4)
    assert (done.code, "--rank must be in 0..3 for job digits" in done.err) == (2, True)


def test_logs_are_those_of_the_newest_pod(server, vit):
    run_job(server)
    again = server.add_pod("digits", 0)["metadata"]
    again["creationTimestamp"] = "2099-01-01T00:00:00Z"
    server.logs[again["name"]] = ["the second time"]
    assert vit("logs", "digits").out == "the second time\n"


def test_an_mpijobs_logs_are_the_launchers(server, vit):
    server.mpi_operator = True
    submit(cluster_job(backend="mpijob", gpus=2))
    assert "no pod of digits runs that rank at present: starting" in vit("logs", "digits").err
    pod = server.add_pod("digits", "launcher")["metadata"]["name"]
    server.logs[pod] = ["[0]<stdout>:first", "[3]<stderr>:last"]
    assert vit("logs", "digits", "--rank", 3).out == "[3]<stderr>:last\n"
    assert len(vit("logs", "digits").out.splitlines()) == 2


@pytest.mark.processes
def test_logs_follow_until_the_pod_ends(server):
    submit()
    pod = server.add_pod("digits", 0)
    lines = server.logs[pod["metadata"]["name"]] = ["first"]
    command = [sys.executable, "-m", "jobs.cli", "logs", "digits", "-f"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "first\n"
            lines.append("second, with an é")
            assert process.stdout.readline() == "second, with an é\n"
            lines.append("last")
            pod["status"]["phase"] = "Succeeded"
            assert process.communicate(timeout=30)[0] == "last\n"
        finally:
            process.kill()
    assert process.returncode == 0


@pytest.mark.processes
def test_stop_waits_for_the_pods_and_says_where_it_goes_on(server, vit):
    run_job(server)
    write_run(server)
    started = time.monotonic()
    done = vit("stop", "digits")
    assert done.code == 0, done.err
    assert time.monotonic() - started >= server.pods_end_after_s
    assert "stopped digits; it saves a checkpoint at step 60 or later" in done.out
    assert server.find("Job", "digits")["spec"]["suspend"] is True
    assert vit("jobs").out.splitlines()[1].split()[:2] == ["digits", "stopped"]
    assert "continues from its last checkpoint" in vit("resume", "digits").out
    assert server.find("Job", "digits")["spec"]["suspend"] is False
    assert vit("resume", "digits").out == "digits is not stopped\n"


@pytest.mark.processes
def test_stop_reads_the_checkpoint_that_was_saved_where_tensorboard_runs(server, vit):
    run_job(server, tensorboard=True)
    write_run(server)
    board = {"app.kubernetes.io/instance": "digits-board"}
    spec = {"containers": [{"name": "board"}]}
    server.put("Pod", "b", labels=board, spec=spec, status={"phase": "Running"})
    timer = threading.Timer(0.1, (server.claim / "runs/digits/checkpoints/step-00000070").mkdir)
    timer.start()
    assert "stopped digits; saved at step 70" in vit("stop", "digits").out
    timer.join()


@pytest.mark.processes
def test_stop_gives_up_where_pods_do_not_end(server, vit):
    run_job(server)
    server.pods_end_after_s = 60
    done = vit("stop", "digits", "--wait-s", "0.2")
    assert (done.code, "have not ended after 0.2 s" in done.err) == (1, True)


def test_an_mpijob_has_its_own_switch(server, vit):
    server.mpi_operator = True
    submit(cluster_job(backend="mpijob"))
    assert vit("stop", "digits").code == 0
    assert server.find("MPIJob", "digits")["spec"]["runPolicy"]["suspend"] is True
    vit("resume", "digits")
    assert server.find("MPIJob", "digits")["spec"]["runPolicy"]["suspend"] is False


@pytest.mark.parametrize(("verb", "active"), [("stop", "false"), ("resume", "true")])
def test_a_queued_job_is_left_to_kueue(server, vit, verb, active):
    submit(cluster_job(queue="team"))
    before = server.find("Job", "digits")["metadata"]["resourceVersion"]
    done = vit(verb, "digits")
    assert done.code == 2
    assert f'--type merge -p \'{{"spec":{{"active":{active}}}}}\'' in done.err
    assert server.find("Job", "digits")["metadata"]["resourceVersion"] == before


def test_a_job_that_has_ended_is_neither_stopped_nor_resumed(server, vit):
    submit()
    done = {"conditions": [{"type": "Complete", "status": "True"}]}
    server.find("Job", "digits")["status"] = done
    assert vit("stop", "digits") == (0, "digits has already ended: done\n", "")
    again = vit("resume", "digits")
    assert (again.code, "the `vit submit` command again" in again.err) == (2, True)


def test_delete_takes_all_but_the_claim(server, vit):
    submit(cluster_job(name="digits-board"))
    others = server.names()
    submit(cluster_job(tensorboard=False))
    server.pods_end_after_s = 0
    done = vit("delete", "digits")
    assert done.code == 0, done.err
    assert done.out.startswith("deleted Job digits, ")
    assert done.out.endswith("; runs/digits is kept on the claim\n")
    time.sleep(0.1)
    assert server.names() == others
    assert server.find("PersistentVolumeClaim", "shared")


def test_delete_takes_what_was_left_without_a_job(server, vit):
    submit(cluster_job(tensorboard=True))
    del server.objects["jobs", "default", "digits"]
    done = vit("delete", "digits")
    assert "Deployment digits-board, Service digits, Service digits-board" in done.out
    assert server.names() == []


def test_somebody_elses_job_is_not_deleted(server, vit):
    server.put("Job", "digits", spec={})
    assert vit("delete", "digits").code == 2
    assert server.find("Job", "digits")


@pytest.mark.processes
def test_who_may_not_gets_the_verb_and_the_kind(server, vit):
    run_job(server)
    server.forbidden |= {("patch", "jobs"), ("delete", "jobs"), ("get", "pods/log")}
    for verb, may in (
        ("stop", "patch jobs.batch"),
        ("delete", "delete jobs.batch"),
        ("logs", "get pods/log"),
    ):
        done = vit(verb, "digits")
        assert (done.code, f"you are not allowed to {may} in namespace default" in done.err) == (
            2,
            True,
        )
    server.forbidden = {("list", "jobs")}
    assert "you are not allowed to list jobs.batch" in vit("jobs").err


KUBECTL = """#!{python}
import sys
from http.server import HTTPServer, SimpleHTTPRequestHandler
expected = ["port-forward", "-n", "default", "--address", "127.0.0.1", "service/digits-board"]
assert sys.argv[1:-1] == expected, sys.argv
here, _, there = sys.argv[-1].partition(":")
assert there == "6006"
HTTPServer(("127.0.0.1", int(here)), SimpleHTTPRequestHandler).serve_forever()
"""


def answers(address):
    with socket.socket() as client:
        where = urlsplit(address)
        return client.connect_ex((where.hostname, where.port)) == 0


@pytest.fixture
def board(server, tmp_path, monkeypatch):
    """A job with a TensorBoard that is ready."""
    monkeypatch.chdir(tmp_path)
    submit(cluster_job(tensorboard=True))
    return server.put(
        "Pod",
        "digits-board-x",
        labels={
            "app.kubernetes.io/name": "vit-pipeline",
            "app.kubernetes.io/instance": "digits-board",
        },
        spec={"containers": [{"name": "board"}]},
        status={"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    )


@pytest.mark.processes
def test_board_says_where_once_it_answers_and_ends_with_kubectl(board, tmp_path, monkeypatch):
    # kubectl's tunnel needs a kubelet. What is tried here is what is asked of kubectl.
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL.format(python=sys.executable))
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    command = [sys.executable, "-m", "jobs.cli", "board", "--kubernetes", "digits"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        line = process.stdout.readline()
        assert line.startswith("TensorBoard  http://127.0.0.1:60"), process.communicate()
        assert answers(line.split()[1])
        assert process.stdout.readline() == "Press Ctrl-C to stop it\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0
    assert not answers(line.split()[1])


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not there")
def test_what_kubectl_complains_of_is_shown(board, vit):
    done = vit("board", "--kubernetes", "digits")
    assert done.code == 1
    assert "vit board: kubectl port-forward has exited: error: " in done.err.lower()


def test_board_without_kubectl_or_tensorboard_says_so(server, vit, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "--kubernetes needs kubectl on the PATH" in vit("board", "--kubernetes", "digits").err
    (tmp_path / "kubectl").write_text("")
    (tmp_path / "kubectl").chmod(0o755)
    assert "there is no job digits" in vit("board", "--kubernetes", "digits").err
    submit()
    done = vit("board", "--kubernetes", "digits")
    assert done.code == 2
    assert "job digits was submitted without --tensorboard" in done.err
    both = vit("board", "runs/digits", "--kubernetes", "digits")
    assert (both.code, "not both" in both.err) == (2, True)
    assert vit("board", "-n", "default").code == 2


def test_a_board_that_does_not_start_says_why(board, vit, monkeypatch, tmp_path):
    from k8s import forward

    monkeypatch.setattr(forward, "_READY_WITHIN_S", 0.0)
    monkeypatch.setattr(forward.shutil, "which", lambda name: name)
    waiting = {"reason": "ErrImagePull", "message": "no such image"}
    board["status"] = {
        "phase": "Pending",
        "containerStatuses": [{"name": "board", "state": {"waiting": waiting}}],
    }
    done = vit("board", "--kubernetes", "digits")
    assert done.code == 1
    assert "TensorBoard of digits does not start: ErrImagePull: no such image" in done.err

"""`vit jobs`: what it says of jobs in each state."""

import json

import pytest

from k8s.run_progress import RunProgress, parse
from tests.k8s.conftest import cluster_job, submit, words

BACK_OFF = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image vit:2"}}


def write_run(server, name="digits", rows=3):
    """A run folder on the claim, as a training leaves it."""
    folder = server.claim / "runs" / name
    for step in ("step-00000020", "step-00000040", "step-00000060.partial"):
        (folder / "checkpoints" / step).mkdir(parents=True)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(20, 20 * rows + 1, 20):
            row = {"step": step, "split": "train", "loss": 10 / step, "examples_per_second": 1234.5}
            file.write(json.dumps(row) + "\n")
            file.write(json.dumps(row | {"split": "validation", "loss": 9.0}) + "\n")
        file.write('{"step": 80, "spl')  # being written


def state(vit, name="digits"):
    done = vit("jobs", name, "--json")
    assert done.code == 0
    return json.loads(done.out)["state"]


def end(server, kind, **condition):
    server.find("Job", "digits")["status"] = {
        "conditions": [{"type": kind, "status": "True", **condition}]
    }


@pytest.mark.processes
def test_a_running_job_shows_how_far_it_is(server, vit):
    submit()
    write_run(server)
    for index in range(2):
        server.add_pod("digits", index)
    header, row = words(vit("jobs").out)
    assert header[:3] == ["NAME", "STATE", "RESTARTS"]
    assert row[:-1] == ["digits", "running", "0", "2", "60", "0.1667", "1,234", "40"]


@pytest.mark.processes
def test_the_json_has_the_same_with_full_precision(server, vit):
    submit()
    write_run(server)
    server.add_pod("digits", 0)
    (line,) = vit("jobs", "--json").out.splitlines()
    row = json.loads(line)
    assert row["age_s"] < 60
    assert {k: row[k] for k in ("step", "loss", "images_per_second", "checkpoint_step")} == {
        "step": 60, "loss": 10 / 60, "images_per_second": 1234.5, "checkpoint_step": 40,
    }  # fmt: skip
    assert row["state"] == "starting"  # the second pod is not there
    assert "pods" not in row


@pytest.mark.processes
def test_the_board_reads_the_run_where_no_pod_of_the_job_runs(server, vit):
    submit(cluster_job(tensorboard=True))
    write_run(server)
    board = {"app.kubernetes.io/name": "vit-pipeline", "app.kubernetes.io/instance": "digits-board"}
    spec = {"containers": [{"name": "board"}]}
    server.put("Pod", "b", labels=board, spec=spec, status={"phase": "Running"})
    row = json.loads(vit("jobs", "--json").out)
    assert (row["step"], row["checkpoint_step"]) == (60, 40)


@pytest.mark.processes
def test_a_run_that_has_not_begun_leaves_its_columns_empty(server, vit):
    submit()
    server.add_pod("digits", 0)
    row = json.loads(vit("jobs", "--json").out)
    assert row["step"] is row["loss"] is row["checkpoint_step"] is None


def test_who_may_not_exec_gets_a_note_and_the_rest(server, vit):
    submit()
    server.add_pod("digits", 0)
    server.forbidden.add(("create", "pods/exec"))
    done = vit("jobs")
    assert words(done.out)[1][:2] == ["digits", "starting"]
    assert "cannot read the progress: you are not allowed to create pods/exec" in done.err


@pytest.mark.processes
def test_a_name_shows_its_pods(server, vit):
    submit()
    server.add_pod("digits", 0, "digits-0-abcde")
    ended = {
        "name": "vit",
        "restartCount": 0,
        "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
    }
    server.add_pod("digits", 1, "digits-1-fghij", "Failed", containerStatuses=[ended])
    server.add_pod("digits", 1, "digits-1-klmno")
    lines = words(vit("jobs", "digits").out)
    assert lines[1][:3] == ["digits", "running", "1"]
    assert [line[:-1] for line in lines[4:]] == [
        ["digits-0-abcde", "node-0", "Running", "0"],
        ["digits-1-fghij", "node-1", "Failed", "0", "137", "OOMKilled"],
        ["digits-1-klmno", "node-1", "Running", "0"],
    ]


def test_only_our_jobs_are_shown_and_an_empty_namespace_says_so(server, vit):
    server.put("Job", "another", spec={})
    assert vit("jobs") == (0, "no jobs in namespace default\n", "")
    done = vit("jobs", "-n", "nowhere")
    assert (done.code, "no namespace nowhere" in done.err) == (2, True)


def test_an_unknown_name_is_an_error_with_those_there_are(server, vit):
    submit()
    for verb in ("jobs", "logs", "stop", "resume"):
        done = vit(verb, "cifar")
        assert (done.code, done.out) == (2, "")
        assert "no job cifar in namespace default: give an existing one (digits)" in done.err
    assert "there is no job cifar in namespace" in vit("delete", "cifar").err


@pytest.mark.processes
def test_states_of_the_whole_job(server, vit):
    submit()
    assert state(vit) == "starting"
    job = server.find("Job", "digits")
    job["spec"]["suspend"] = True
    pod = server.add_pod("digits", 0)
    assert state(vit) == "stopping"
    del server.objects["pods", "default", pod["metadata"]["name"]]
    assert state(vit) == "stopped"
    job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team"
    assert state(vit) == "queued"
    end(server, "Complete")
    assert state(vit) == "done"
    job["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert state(vit) == "being deleted"


@pytest.mark.processes
def test_an_elastic_job_runs_while_nodes_are_missing(server, vit):
    submit(cluster_job(nodes=8, min_nodes=4))
    for index in range(4):
        assert state(vit) == "starting"
        server.add_pod("digits", index)
    assert state(vit) == "running, 4 of 8 nodes"
    server.add_pod("digits", 4, phase="Pending")
    assert state(vit) == "running, 4 of 8 nodes"
    for index in range(5, 9):
        server.add_pod("digits", index)
    assert state(vit) == "running"


@pytest.mark.processes
def test_an_elastic_mpijob_runs_when_its_launcher_and_enough_workers_do(server, vit):
    server.mpi_operator = True
    submit(cluster_job(nodes=3, min_nodes=2, backend="mpijob"))
    server.add_pod("digits", "worker")
    server.add_pod("digits", "worker")
    assert state(vit) == "starting"
    server.add_pod("digits", "launcher")
    assert state(vit) == "running, 2 of 3 nodes"
    server.add_pod("digits", "worker")
    assert state(vit) == "running"


@pytest.mark.parametrize(
    ("condition", "code", "said"),
    [
        ({"reason": "BackoffLimitExceeded"}, 1, "failed: it failed more often than --max-restarts"),
        ({"reason": "DeadlineExceeded"}, 0, "failed: its --deadline has passed"),
        ({"reason": "PodFailurePolicy", "message": "code 2"}, 2, "settings are wrong (exit"),
        ({"reason": "PodFailurePolicy", "message": "code 3"}, 3, "the data is missing or wrong"),
        ({"reason": "Other", "message": "as it says"}, 1, "failed: as it says"),
    ],
)  # fmt: skip
def test_a_failed_job_says_why(server, vit, condition, code, said):
    submit()
    ended = {"name": "vit", "state": {"terminated": {"exitCode": code, "reason": "Error"}}}
    server.add_pod("digits", 0, phase="Failed", containerStatuses=[ended])
    end(server, "Failed", **condition)
    assert said in state(vit)


def unschedulable(message):
    return [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    ]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"conditions": unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")},
         "waiting: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
        ({"conditions": unschedulable('persistentvolumeclaim "shared" not found')},
         'waiting: persistentvolumeclaim "shared" not found'),
        ({"containerStatuses": [{"name": "vit", "state": BACK_OFF}]},
         "waiting: ImagePullBackOff: Back-off pulling image vit:2"),
        ({}, "starting"),
    ],
)  # fmt: skip
def test_a_pod_that_waits_says_why(server, vit, status, said):
    submit()
    server.add_pod("digits", 0, phase="Pending", **status)
    assert state(vit) == said
    done = vit("logs", "digits")
    assert (done.code, done.out) == (1, "")
    assert (said.removeprefix("waiting: ") if status else "try again soon") in done.err


def event(server, name, reason, message, at="2099-01-01T00:00:00Z"):
    server.put(
        "Event", f"{name}.{reason}.{at}", involvedObject={"name": name}, type="Warning",
        reason=reason, message=message, lastTimestamp=at,
    )  # fmt: skip


def test_a_pod_whose_volume_cannot_be_mounted_says_so(server, vit):
    submit()
    pod = server.add_pod("digits", 0, phase="Pending")["metadata"]["name"]
    event(server, pod, "FailedScheduling", "no node, at first")
    assert state(vit) == "starting"
    event(server, pod, "FailedMount", "mount failed:\nconnection timed out")
    assert state(vit) == "waiting: FailedMount: mount failed: connection timed out"


@pytest.mark.parametrize(
    "message",
    [
        'pods "digits-0-x" is forbidden: exceeded quota: team, requested: pods=1',
        'pods "digits-0-x" is forbidden: violates PodSecurity "restricted:latest"',
    ],
)
def test_pods_that_may_not_be_made_say_why(server, vit, message):
    submit()
    event(server, "digits", "FailedCreate", message)
    assert state(vit) == f"waiting: FailedCreate: {message}"
    assert message in vit("logs", "digits").err
    # That was before the last pod, and is over.
    event(server, "digits", "FailedCreate", message, at="2020-01-01T00:00:00Z")
    del server.objects["events", "default", "digits.FailedCreate.2099-01-01T00:00:00Z"]
    server.add_pod("digits", 0, phase="Failed", containerStatuses=[])
    assert state(vit) == "starting"


@pytest.mark.processes
def test_an_mpijob_is_read_through_its_launcher(server, vit):
    server.mpi_operator = True
    submit(cluster_job(backend="mpijob"))
    write_run(server)
    worker = server.add_pod("digits", "worker")
    assert state(vit) == "starting"
    server.add_pod("digits", "launcher")
    second = server.add_pod("digits", "worker")
    second["metadata"]["labels"]["training.kubeflow.org/replica-index"] = "1"
    row = json.loads(vit("jobs", "digits", "--json").out)
    assert (row["kind"], row["state"], row["restarts"], row["step"]) == ("MPIJob", "running", 0, 60)
    assert {pod["index"] for pod in row["pods"]} == {"launcher", "worker-0", "worker-1"}
    assert worker["metadata"]["name"] in {pod["name"] for pod in row["pods"]}


def test_the_last_whole_row_of_training_counts():
    text = (
        '"half": 1}\n{"step": 1, "split": "train", "loss": 2}\n{"step": 2, "split": "test"}\n{"st'
    )
    assert parse(text) == RunProgress(1, 2, None, None)
    assert parse("\nstep-00000007\nstep-00000012.broken") == RunProgress(checkpoint_step=7)
    assert parse("") == RunProgress()

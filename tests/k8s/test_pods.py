"""The rendered pods are run: real processes with the manifest's commands, variables and limits."""

import json
import subprocess
import sys
import time

import pytest

from tests.k8s.asked import rendered
from tests.k8s.operator import MPIJob
from tests.k8s.pods import ROOT, Cluster, IndexedJob, why_not
from tests.parallel.hosts import SSHD
from tests.parallel.launches import needs_horovod
from tests.parallel.trainings import different_tensors, newest

pytestmark = pytest.mark.skipif(bool(reason := why_not()), reason=reason or "all there")

SHORT = ["train.epochs=40", "distribute.intra_op_threads=1", "monitor.pictures=false",
         "monitor.report=false", "model.depth=1"]  # fmt: skip
SMALL = "--shm 64Mi --memory 4Gi"
END = 540


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The test row of one process that adds up the same two halves."""
    run = tmp_path_factory.mktemp("single") / "run"
    command = [sys.executable, "-m", "jobs.cli", "train", "digits", f"run.dir={run}"]
    settings = [*SHORT, "optim.accumulate_steps=2"]
    subprocess.run([*command, *settings], cwd=ROOT, check=True, capture_output=True, timeout=300)
    return rows(run)[-1]


def rows(run):
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def assert_same_result(run, single):
    row = rows(run)[-1]
    assert (row["split"], row["step"]) == ("test", END)
    assert row["accuracy"] == pytest.approx(single["accuracy"], abs=1.5 / 367)
    assert row["loss"] == pytest.approx(single["loss"], rel=1e-3)
    assert row["accuracy"] > 0.85


@pytest.mark.processes
@needs_horovod
def test_two_pods_train_what_one_trains_through_a_kill_and_a_stop(cluster, single):
    settings = [*SHORT, "checkpoint.every_steps=50", "train.log_every_steps=10"]
    job = IndexedJob(cluster, cluster.apply(rendered(f"--nodes 2 {SMALL}", *settings))["Job"])
    run = cluster.claim / "runs/digits"

    def newest():
        return max((row["step"] for row in rows(run)), default=0)

    job.resume()
    job.run_until(lambda: newest() >= 100, 150)
    assert job.pods[1].kill_processes(["/etc/vit/recipe.yaml", "train"])
    job.run_until(lambda: {index for index, _, _ in job.ended} == {0, 1}, 60)
    # A pod that comes back before its peer has gone meets the old one, and is sent away with 76.
    assert set(job.ended) - {(1, 76, "Ignore")} == {(0, 76, "Ignore"), (1, 1, "Count")}
    job.run_until(lambda: newest() >= 250, 150)

    # A node is drained: one pod gets SIGTERM, and both save at one step.
    job.ended.clear()
    job.pods[1].terminate()
    job.run_until(lambda: {index for index, _, _ in job.ended} == {0, 1}, 60)
    assert {(0, 75, "Ignore"), (1, 75, "Ignore")} <= set(job.ended)
    stopped = [log for log in read_logs(cluster) if "stopped by SIGTERM at step" in log]
    assert len(stopped) == 1  # the chief says it
    assert job.failures == 1
    job.run_until(lambda: job.state == "complete", 200)
    assert_same_result(run, single)
    starts = [json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines()]
    assert len(starts) == 3
    assert starts[1]["checkpoint_step"] >= 50
    assert starts[2]["checkpoint_step"] >= 250


def read_logs(cluster):
    return [file.read_text(errors="replace") for file in cluster.folder.glob("*/log")]


@pytest.mark.processes
@needs_horovod
@pytest.mark.parametrize(
    ("setting", "code", "said"),
    [
        ("model.patch_size=3", 2, "patch size 3"),
        ("data.source=image_folder data.path=photos", 3, "photos"),
    ],
)
def test_what_is_wrong_with_settings_or_data_fails_the_job_at_once(cluster, setting, code, said):
    manifests = rendered(f"--nodes 2 {SMALL}", *setting.split())
    job = IndexedJob(cluster, cluster.apply(manifests)["Job"])
    job.resume()
    job.run_until(lambda: job.state != "running", 120)
    assert job.state == "failed"
    assert (job.ended[0][1], job.ended[0][2]) == (code, "FailJob")
    assert any(said in log for log in read_logs(cluster))


@pytest.mark.processes
def test_multi_worker_pods_train_together(cluster, single):
    manifests = rendered(f"--nodes 2 --runtime multi_worker {SMALL}", *SHORT)
    job = IndexedJob(cluster, cluster.apply(manifests)["Job"])
    job.resume()
    job.run_until(lambda: job.state != "running", 250)
    assert (job.state, job.failures) == ("complete", 0)
    assert_same_result(cluster.claim / "runs/digits", single)


@pytest.mark.processes
@needs_horovod
@pytest.mark.skipif(SSHD is None, reason="apt-get install openssh-server")
def test_an_mpijob_trains_over_ssh_and_saves_when_it_is_suspended(cluster, single):
    settings = [*SHORT, "train.log_every_steps=10"]
    manifests = rendered(f"--nodes 2 --backend mpijob {SMALL}", *settings)
    job = MPIJob(cluster, cluster.apply(manifests)["MPIJob"])
    run = cluster.claim / "runs/digits"
    job.resume()
    limit = time.monotonic() + 150
    while not any(row["step"] >= 100 for row in rows(run)):
        assert job.launcher.code is None, job.launcher.log
        assert time.monotonic() < limit, job.launcher.log
        time.sleep(0.2)
    job.suspend()
    assert job.wait(60) == 75, job.launcher.log
    assert "stopped by" in job.launcher.log
    saved = max(int(p.name.removeprefix("step-")) for p in (run / "checkpoints").glob("step-*"))
    assert saved >= 100
    job.resume()
    assert job.wait(200) == 0, job.launcher.log
    assert_same_result(run, single)
    starts = [json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines()]
    assert [start["checkpoint_step"] for start in starts] == [None, saved]


@pytest.mark.processes
@needs_horovod
@pytest.mark.skipif(SSHD is None, reason="apt-get install openssh-server")
def test_an_mpijobs_launcher_ends_with_the_outcome_of_the_run(cluster):
    poison = ["train.max_rollbacks=0", "train.max_bad_steps=1", "optim.base_lr=1e38"]
    manifests = rendered(f"--nodes 2 --backend mpijob {SMALL}", *SHORT, *poison)
    job = MPIJob(cluster, cluster.apply(manifests)["MPIJob"])
    job.resume()
    assert job.wait(150) == 1
    assert "vit mpi-launch: " in job.launcher.log
    assert "were not finite" in job.launcher.log


@pytest.mark.processes
@needs_horovod
@pytest.mark.skipif(SSHD is None, reason="apt-get install openssh-server")
def test_an_elastic_mpijob_continues_without_a_lost_worker_or_launcher(cluster, tmp_path):
    settings = [*SHORT, "train.deterministic=true", "train.log_every_steps=10",
                "train.max_steps=2500"]  # fmt: skip
    alone = tmp_path / "alone"
    command = [sys.executable, "-m", "jobs.cli", "train", "digits", f"run.dir={alone}", *settings]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=400)
    options = f"--nodes 2 --min-nodes 1 --backend mpijob {SMALL}"
    job = MPIJob(cluster, cluster.apply(rendered(options, *settings))["MPIJob"])
    run = cluster.claim / "runs/digits"

    def wait_for(condition):
        limit = time.monotonic() + 200
        while not condition():
            assert job.launcher.code is None, job.launcher.log
            assert time.monotonic() < limit, job.launcher.log
            time.sleep(0.2)

    job.resume()
    wait_for(lambda: any(row["step"] >= 100 for row in rows(run)))
    job.lose_worker(1)
    wait_for(lambda: "1 worker continues from step" in job.launcher.log)
    job.replace_worker(1)
    wait_for(lambda: "2 workers continue from step" in job.launcher.log)
    # The processes train on without the launcher, until the next one asks them to stop.
    job.launcher.destroy()
    before = rows(run)[-1]["step"]
    job.start_launcher()
    assert job.wait(300) == 0, job.launcher.log
    assert before < 2500
    starts = [json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines()]
    assert starts[-1]["checkpoint_step"] >= before
    assert different_tensors(newest(run), newest(alone)) == []

"""Workers are killed, leave and join while they train; the run ends as one that was left alone."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from pipeline.runs.folder import RunFolder
from tests.parallel.launches import TOKEN, TWO, Launches, needs_horovod, wait_until
from tests.parallel.trainings import (
    Training,
    assert_same_end,
    read_rows,
    train_command,
    write_recipe,
)

pytestmark = [needs_horovod, pytest.mark.processes]

SETTINGS = (
    "train.max_steps=800", "train.log_every_steps=50", "train.evaluate_every_steps=200",
    "checkpoint.every_steps=100", "monitor.report=false", "monitor.pictures=false",
)  # fmt: skip


def pids(text):
    """Process ids of the workers by slot, the newest of each, from what they print."""
    return {
        int(slot or 0): int(pid)
        for slot, pid in re.findall(
            r"^(?:\[localhost:(\d)\] )?vit train: rank \d of \d on \S+ joined: pid (\d+)",
            text,
            re.MULTILINE,
        )
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run folder of one process that nothing disturbs, and the recipe."""
    launches, folder = Launches(), tmp_path_factory.mktemp("alone")
    recipe = write_recipe(folder)
    train = train_command(recipe, f"run.dir={folder / 'run'}", *SETTINGS)
    Training(launches, folder / "log", train).succeed()
    launches.clean_up()
    return folder / "run", recipe


def test_a_run_whose_workers_are_killed_leave_and_join_ends_as_one_left_alone(vit, tmp_path, alone):
    undisturbed, recipe = alone
    run = tmp_path / "run"
    words = [sys.executable, "-m", "jobs.cli", "launch", "--slots", 3, "--min-workers", 1, "--"]
    train = train_command(recipe, f"run.dir={run}", *SETTINGS)
    job = Training(vit, tmp_path / "run.log", [*words, *train])
    job.wait_for(lambda: len(read_rows(run)) >= 1)
    os.kill(pids(job.text)[0], signal.SIGKILL)  # the chief
    job.wait_for("2 workers continue from step")
    os.kill(pids(job.text)[2], signal.SIGTERM)
    job.wait_for("1 worker continues from step")
    job.wait_for(lambda: job.text.count("2 workers continue from step") == 2)  # it has joined
    job.succeed()
    assert_same_end(run, undisturbed)
    sizes = [change["workers"] for change in RunFolder(run).worker_changes()]
    assert sizes[:4] == [3, 2, 1, 2]
    wait_until(lambda: not vit.left())


@pytest.fixture
def two_nodes(vit, tmp_path, alone, monkeypatch):
    """A job that trains on two nodes with one worker each: its launchers and the run folder."""
    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
    run = tmp_path / "run"
    train = train_command(alone[1], f"run.dir={run}", *SETTINGS)
    jobs = [
        Training(vit, tmp_path / f"{index}.log", [
            sys.executable, "-m", "jobs.cli", "launch", "--hosts", TWO, "--port", vit.port,
            "--index", index, "--slots", 1, "--min-workers", 1, "--heartbeat-timeout-s", 3,
            "--", *train,
        ])
        for index in (0, 1)
    ]  # fmt: skip
    jobs[1].wait_for(lambda: len(read_rows(run)) >= 1)
    return jobs, run


def test_a_run_whose_first_launcher_is_killed_ends_as_one_left_alone(two_nodes, alone):
    jobs, run = two_nodes
    jobs[0].process.kill()  # and with it the chief
    jobs[1].wait_for("the launchers meet at node 1 (127.0.0.2)")
    jobs[1].wait_for("1 worker continues from step")
    jobs[1].succeed()
    assert_same_end(run, alone[0])


def test_of_a_divided_job_only_the_part_with_the_lock_continues(two_nodes, alone):
    jobs, run = two_nodes
    jobs[0].process.send_signal(signal.SIGSTOP)  # the chief is alive and keeps the lock
    code, text = jobs[1].end()
    assert code == 76
    assert "another part of the job holds the run folder" in text
    jobs[0].process.send_signal(signal.SIGCONT)
    jobs[0].succeed()
    assert_same_end(run, alone[0])


def test_an_elastic_job_of_horovodrun_ends_as_a_run_left_alone(vit, tmp_path, alone):
    undisturbed, recipe = alone
    run = tmp_path / "run"
    # Horovod excludes the host on which a process failed, so there must be two.
    hosts = tmp_path / "hosts.sh"
    hosts.write_text("#!/bin/sh\necho localhost:1\necho 127.0.0.1:1\n")
    hosts.chmod(0o755)
    words = [
        Path(sys.executable).with_name("horovodrun"), "--gloo", "-np", 2, "--min-np", 1,
        "--max-np", 2, "--host-discovery-script", hosts, "--network-interfaces", "lo",
    ]  # fmt: skip
    train = train_command(recipe, f"run.dir={run}", *SETTINGS)
    job = Training(vit, tmp_path / "run.log", [*words, *train])
    job.wait_for(lambda: len(read_rows(run)) >= 1)
    pid = re.search(r"rank 0 of 2 on \S+ joined: pid (\d+)", job.text)[1]
    os.kill(int(pid), signal.SIGKILL)
    job.wait_for("1 worker continues from step")
    job.end()  # with 1, because a process has failed
    assert_same_end(run, undisturbed)

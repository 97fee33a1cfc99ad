"""What `python -m benchmarks elastic` reads of a job."""

import argparse

import pytest

from benchmarks import elastic
from benchmarks.command import main
from benchmarks.elastic_job import Job, horovodrun_command
from tests.jobs.commands import vit


@pytest.fixture
def job(tmp_path):
    made = object.__new__(Job)
    made._metrics, made._log = tmp_path / "metrics.jsonl", tmp_path / "log.txt"
    return made


def test_the_newest_whole_row_is_the_step(job):
    assert job.step() == 0
    job._metrics.write_text('{"step":7,"split":"train"}\n{"step":12,"split":"train"}\n{"st')
    assert job.step() == 12
    assert [row["step"] for row in job.rows()] == [7, 12]


def test_the_step_of_the_first_continuation_is_read(job):
    job._log.write_text(
        "worker localhost:1 was killed by SIGKILL; 3 workers continue from step 31 after 0.2 s\n"
        "localhost:1 joined; 4 workers continue from step 77 after 0.1 s\n"
    )
    assert job.step_of_continuation() == 31


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--workers=1", "--workers must be at least 2"),
        ("--kinds=elastic,none", "--kinds must be some of elastic,restart,horovod. Received: none"),
        ("--commit-every=0", "--commit-every must be at least 1"),
    ],
)
def test_wrong_arguments_are_explained(argument, message):
    done = vit("elastic", argument, command=main)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_median_and_the_worst_are_printed(capsys):
    losses = [elastic.Loss(seconds, steps) for seconds, steps in ((0.2, 0), (0.4, 2), (3.0, 4))]
    elastic._print(argparse.Namespace(workers=3, json=False), "elastic", losses)
    assert "lost 0.40 s (median), 3.00 s (worst); 2 steps repeated" in capsys.readouterr().out


def test_a_job_that_does_not_continue_is_counted(capsys):
    facts = argparse.Namespace(workers=3, json=False, commit_every=10)
    elastic._print(facts, "horovod", [None, elastic.Loss(2.0, 4, 5, 3)])
    out = capsys.readouterr().out
    assert "2 kills: 1 of them ended the job; lost 2.00 s" in out
    assert "5 examples repeated in the epoch, 3 without a kill" in out


def row(entered, step, *examples):
    return {"entered": entered, "step": step, "of": 4, "examples": list(examples)}


def test_steps_and_examples_are_counted_by_their_last_computation():
    rows = [
        row(1, 1, 0), row(1, 1, 1), row(1, 2, 2), row(1, 2, 2),  # the first epoch
        row(1, 3, 0), row(1, 3, 1), row(1, 4, 2),  # the second process was killed in step 4
        row(2, 3, 0), row(2, 4, 3), row(2, 5, 0), row(2, 6, 3),
    ]  # fmt: skip
    assert elastic.count_repeated(rows) == (2, 2, 1)


def test_a_restored_step_that_nobody_had_completed_is_not_repeated():
    rows = [row(1, 1, 0), row(1, 1, 1), row(2, 2, 2), row(2, 3, 3)]
    assert elastic.count_repeated(rows) == (0, 0, 0)


def test_each_process_of_horovodrun_has_a_host_of_its_own_on_this_machine(tmp_path):
    arguments = argparse.Namespace(workers=4, commit_every=10, recipe="digits", settings=[])
    horovodrun_command(arguments, tmp_path)
    lines = (tmp_path / "hosts.sh").read_text().split("\n")
    hosts = [line.removeprefix("echo ") for line in lines if line.startswith("echo")]
    assert len(set(hosts)) == 4
    assert {host.lower() for host in hosts} == {"localhost:1"}

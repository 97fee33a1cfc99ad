"""The workers of an elastic job in the report, against answers known in advance."""

from dataclasses import replace

from pipeline.report.run_page import report_page
from pipeline.report.worker_timeline import worker_timeline
from pipeline.runs.folder import RunFolder
from tests.report.invented import invented_run
from tests.report.parsed import parse


def change(step, workers, *changes, pause_s=0.25):
    return {"time": 1.8e9 + step, "step": step, "workers": workers, "pause_s": pause_s,
            "changes": list(changes)}  # fmt: skip


def run_with(*changes):
    rows = [
        {"step": step, "epoch": 1.0, "split": "train", "loss": 1.0, "accuracy": 0.5,
         "examples_per_second": rate, "checkpoint_s": 0.0}
        for step, rate in ((10, 400.0), (20, 380.0), (30, 150.0), (40, 200.0), (50, 210.0))
    ]  # fmt: skip
    return replace(invented_run(["cat", "dog"]), rows=rows, workers=list(changes))


def test_the_speed_of_each_number_of_workers_leaves_out_rows_with_a_change():
    run = run_with(change(0, 4), change(23, 2, "worker a:1 was killed by SIGKILL"))
    found = worker_timeline(run)
    # The row of step 30 has steps with four and with two workers.
    assert found.speeds == [("2", "2", "205"), ("4", "2", "390")]
    assert found.changes[1] == (
        "2027-01-15 08:00:23", "23", "2", "0.2 s", "worker a:1 was killed by SIGKILL"
    )  # fmt: skip
    assert found.num_changes == 2


def test_a_run_that_was_not_elastic_has_no_timeline():
    assert worker_timeline(run_with()) is None
    assert "Workers" not in report_page(run_with())


def test_the_page_has_the_changes_and_the_speeds():
    page = report_page(run_with(change(0, 3), change(12, 2, "worker <b>:0 left")))
    assert "worker &lt;b&gt;:0 left" in page
    assert "Speed by number of workers" in page
    assert parse(page).find("svg")


def test_lines_of_another_user_that_are_no_changes_are_left_out(tmp_path):
    folder = RunFolder(tmp_path)
    folder.record_workers(change(3, 2, "joined"))
    with folder.workers.open("a") as stream:
        stream.write('{"step": -1}\nnull\n{"time": 1e300, "step": 1, "workers": 1, ')
    folder.record_workers(change(4, 1) | {"pause_s": "long"})
    assert [one["step"] for one in folder.worker_changes()] == [3]

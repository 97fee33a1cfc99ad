"""The helper that end-to-end tests wait with, on the stand-in for a cluster."""

import json
import threading

import pytest

from tests.k8s.conftest import submit
from tests.k8s.test_jobs import write_run
from tests.k8s.waiting import starts, wait_for, wait_for_start

pytestmark = pytest.mark.processes


@pytest.fixture
def begin(server):
    """Records a start of the run, whole or as far as it is written."""
    write_run(server)
    file = server.claim / "runs/digits/starts.jsonl"

    def record(checkpoint_step, end="\n"):
        with file.open("a") as lines:
            lines.write(json.dumps({"checkpoint_step": checkpoint_step}) + end)

    return record


def test_there_is_no_start_while_there_is_no_pod_to_ask(server, vit, begin):
    submit()
    begin(None)
    assert starts("default", vit, "digits") == []
    server.add_pod("digits", 0)
    assert starts("default", vit, "digits") == [None]


def test_a_line_that_is_being_written_is_waited_for(server, vit, begin):
    submit()
    for index in (0, 1):
        server.add_pod("digits", index)
    begin(None)
    begin(40, end="")
    assert starts("default", vit, "digits") == [None]
    # The job is running all the time: that says nothing of the second start.
    assert wait_for(vit, "digits", lambda found: found["state"] == "running", pause_s=0)
    finish = threading.Timer(0.3, append_newline, [server])
    finish.start()
    assert wait_for_start("default", vit, "digits", 1, timeout_s=30, pause_s=0.05) == 40
    finish.join()


def test_a_start_that_does_not_come_is_an_error_that_shows_the_job(server, vit, begin):
    submit()
    server.logs[server.add_pod("digits", 0)["metadata"]["name"]] = ["the last words"]
    begin(None)
    with pytest.raises(AssertionError, match="the last words"):
        wait_for_start("default", vit, "digits", 1, timeout_s=0.1, pause_s=0.05)


def append_newline(server):
    with (server.claim / "runs/digits/starts.jsonl").open("a") as lines:
        lines.write("\n")

"""A rank that fails takes the job down, soon, with its name, and leaves nothing behind."""

import re
import sys
import time
from socket import gethostname

import pytest

from tests.parallel.launches import HERE, end, needs_horovod

pytestmark = pytest.mark.processes

HOST = gethostname()


def train_with_fault(vit, starter, tmp_path, *fault):
    """Two ranks, one of which breaks down; the code, all output, and seconds from fault to end."""
    settings = f"run.dir={tmp_path}", "model.depth=1"
    command = [sys.executable, HERE / "faulty_train.py", *fault, "digits", *settings]
    if starter == "horovodrun":
        process = vit.horovodrun(2, *command)
    else:
        options = f"--hosts localhost --processes-per-node 2 --runtime {starter} --"
        process = vit.start(options, command=[str(word) for word in command])
    code, out, err = end(process, 300)
    output = out + (err or "")
    began_s = float(re.search(r"fault at ([\d.]+)", output)[1])
    return code, output, time.time() - began_s


@pytest.mark.parametrize(
    ("starter", "where"),
    [
        pytest.param("horovodrun", "train", marks=needs_horovod),
        pytest.param("horovod", "build", marks=needs_horovod),
        ("multi_worker", "train"),
    ],
)
def test_a_rank_that_raises_ends_the_job_with_its_name_and_traceback(vit, tmp_path, starter, where):
    code, output, seconds = train_with_fault(vit, starter, tmp_path, "1", "raise", where)
    assert code == 1
    assert seconds < 30
    last = "\n".join(output.splitlines()[-45:])
    assert "RuntimeError: this rank is on fire" in last
    assert f"rank 1 on {HOST}: failed, see the traceback above" in last
    if starter == "horovodrun":
        of_rank = rf"vit train: rank {{}} of 2 on {HOST} "
        for rank in (0, 1):
            joined = of_rank.format(rank) + r"joined: pid \d+, CPU:0, horovod$"
            assert len(re.findall(joined, output, re.MULTILINE)) == 1
        ended = of_rank.format(1) + r"ended: failed \(exit code 1\)$"
        assert len(re.findall(ended, output, re.MULTILINE)) == 1
    else:
        assert "rank 1 on localhost ended with exit code 1" in output.splitlines()[-2]


@pytest.mark.parametrize(
    ("starter", "victim"),
    [
        pytest.param("horovodrun", 0, marks=needs_horovod),
        pytest.param("horovod", 1, marks=needs_horovod),
        ("multi_worker", 0),
    ],
)
def test_when_a_rank_is_killed_the_others_say_so(vit, tmp_path, starter, victim):
    fault = (str(victim), "kill", "train")
    code, output, seconds = train_with_fault(vit, starter, tmp_path, *fault)
    assert seconds < 30
    last = "\n".join(output.splitlines()[-45:])
    if starter == "horovodrun":
        assert code == 1
        assert f"Process name: {victim}\nExit code: 137" in last
    else:
        assert code == 137
        assert f"rank {victim} on localhost was killed by SIGKILL" in last
        assert f"rank {1 - victim} ended with exit code 76" in last
    assert f"rank {1 - victim} on {HOST}: another" in last
    assert "was lost. Start all of them again" in last

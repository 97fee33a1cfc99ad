"""Every rank says when it joins the others and when it ends, however it was started."""

import re
import sys

import pytest

from tests.parallel.launches import end, needs_horovod


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "starter",
    [
        pytest.param("horovod", marks=needs_horovod),
        "multi_worker",
        pytest.param("horovodrun", marks=needs_horovod),
    ],
)
def test_each_rank_prints_a_line_when_it_joins_and_one_when_it_ends(vit, tmp_path, starter):
    train = [sys.executable, "-m", "jobs.cli", "train", "digits", f"run.dir={tmp_path / 'run'}"]
    train += ["train.max_steps=1", "monitor.report=false"]
    if starter == "horovodrun":
        code, text, _ = end(vit.horovodrun(2, *train), 200)
    else:
        options = f"--hosts localhost --processes-per-node 2 --runtime {starter} --"
        code, _, text = vit.run(options, command=train, timeout_s=200)
    assert code == 0, text
    runtime = "multi_worker" if starter == "multi_worker" else "horovod"
    for rank in (0, 1):
        of_rank = rf"vit train: rank {rank} of 2 on \S+ "
        assert len(re.findall(rf"{of_rank}joined: pid \d+, CPU:0, {runtime}$", text, re.M)) == 1
        assert len(re.findall(rf"{of_rank}ended: done \(exit code 0\)$", text, re.M)) == 1

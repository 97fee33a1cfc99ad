"""Horovod's own timeline shows what it did."""

import json
import sys
from collections import Counter

import pytest
from safetensors.numpy import load_file

from tests.parallel.launches import end, needs_horovod

pytestmark = pytest.mark.processes

STEPS = 3


@needs_horovod
def test_the_gradient_of_every_tensor_is_reduced_once_a_step(vit, tmp_path):
    timeline, run = tmp_path / "timeline.json", tmp_path / "run"
    command = [
        sys.executable, "-m", "jobs.cli", "train", "digits", f"run.dir={run}",
        f"train.max_steps={STEPS}", "train.log_every_steps=1", "optim.accumulate_steps=2",
        "model.depth=1", "monitor.pictures=false", "monitor.report=false",
    ]  # fmt: skip
    launcher = vit.start(
        "--hosts localhost --processes-per-node 2 --",
        command=command,
        HOROVOD_TIMELINE=str(timeline),
    )
    code, _, err = end(launcher, 200)
    assert code == 0, err
    tensors = len(load_file(run / f"checkpoints/step-0000000{STEPS}/model.safetensors"))
    reduced = count_reductions(timeline.read_text())
    assert reduced == {f"gradient_{i}": STEPS for i in range(tensors)}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    # The first step compiles, and is not timed.
    for row in [row for row in rows if row["split"] == "train"][1:]:
        assert 0 < row["all_reduce_wait_s"] < row["step_p95_s"]


def count_reductions(text):
    """How often each gradient went through an all-reduce."""
    # Horovod does not close the list.
    events = json.loads(text.strip().rstrip(",").removesuffix("]") + "]")
    names, counts = {}, Counter()
    for event in events:
        if event.get("name") == "process_name":
            names[event["pid"]] = event["args"].get("name", "")
        elif event.get("name") == "GLOO_ALLREDUCE":
            counts[names[event["pid"]].rpartition("/")[2]] += 1
    return dict(counts)

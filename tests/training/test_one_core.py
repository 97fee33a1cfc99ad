"""What the clock says where one thread does everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent.parent
SETTINGS = ["train.max_steps=60", "train.log_every_steps=20", "monitor.report=false",
            "monitor.pictures=false", "model.depth=8", "data.augment={}"]  # fmt: skip


def test_a_step_does_not_count_as_waiting_for_input(tmp_path):
    # Batches of 96 digits that lie in memory are ready long before the step that wants them.
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{core}]); from jobs.cli import main; main()"
    one = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-c", code, "train", "digits", *SETTINGS, f"run.dir={tmp_path / 'run'}"],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | one,
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    rows = [json.loads(row) for row in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    waits = [row["input_wait_fraction"] for row in rows if row["split"] == "train"]
    assert len(waits) == 3
    assert max(waits[1:]) < 0.3

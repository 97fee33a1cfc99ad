"""A step that needs more memory than there is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.training.memory import estimate_memory, out_of_memory

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent.parent
# The first tensor of attention between 1,025 tokens takes 4 GiB, more than the limit leaves. One
# that just fitted would end the process: TensorFlow's allocator then takes nearly all that is left,
# and its own lists, which do not expect to find none, throw.
SETTINGS = [
    "data.source=synthetic", "data.resize=none", "data.num_examples=256", "data.eval_batch_size=8",
    "data.global_batch_size=256", "train.max_steps=1", "distribute.runtime=single",
    "distribute.intra_op_threads=2", "model.variant=Ti/1", "model.width=16", "model.depth=2",
    "model.num_heads=4", "model.mlp_dim=16", "monitor.pictures=false", "monitor.report=false",
]  # fmt: skip


def train(folder, *settings, limit_gib=None):
    limit = f"ulimit -v {int(limit_gib * 2**20)}; " if limit_gib else ""
    command = [sys.executable, "-m", "jobs.cli", "train", "cifar10", f"run.dir={folder}"]
    return subprocess.run(
        ["bash", "-c", f'{limit}exec "$@"', "bash", *command, *SETTINGS, *settings],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True, capture_output=True, timeout=300, check=False,
    )  # fmt: skip


def test_the_error_names_settings_that_need_less_and_the_run_goes_on_with_one(tmp_path):
    done = train(tmp_path / "run", limit_gib=5.5)
    assert done.returncode == 1, done.stderr
    assert "vit train: out of memory: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "Graph execution error" not in done.stderr
    assert "optim.accumulate_steps=16 train.recompute=true" in done.stderr
    smaller = train(
        tmp_path / "run", "optim.accumulate_steps=16", "train.recompute=true", limit_gib=5.5
    )
    assert smaller.returncode == 0, smaller.stderr
    assert "resuming from" in smaller.stdout


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_only_settings_that_need_less_are_named_each_with_its_size(precision):
    config = Config.model_validate(
        {"data": {"global_batch_size": 120, "image_size": 224}, "model": {"variant": "S/16"},
         "train": {"precision": precision, "recompute": True}}
    )  # fmt: skip

    def need_of(config):
        return sum(estimate_memory(config, 22_000_000, 1).values())

    text = str(out_of_memory(config, need_of, 1, "the device said so"))
    assert ("mixed_bfloat16" in text) == (precision == "float32")
    lines = [line for line in text.splitlines() if line.endswith("GiB")]
    assert not any(line.strip().startswith("train.recompute") for line in lines)
    assert "optim.accumulate_steps=8 " in text
    assert "optim.accumulate_steps=16" not in text  # 120 images are not 16 equal parts
    sizes = [float(line.split()[-2]) for line in lines if "accumulate_steps" in line]
    assert sizes == sorted(sizes, reverse=True)

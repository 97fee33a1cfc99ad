"""Deterministic training reads files ahead of time, like any other."""

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorflow.python.framework.config import is_op_determinism_enabled

from pipeline.data.split import Split
from pipeline.training.input_ahead import reading_ahead
from tests.training.experiments import tiny

_LIMIT_S = 60


@pytest.mark.parametrize("deterministic", ["true", "false"])
def test_files_of_the_next_batches_are_read_while_no_one_asks(tmp_path, monkeypatch, deterministic):
    write_images(tmp_path / "images")
    read, contents = [], Split.contents

    def counting(split, places, parallel):
        read.extend(places)
        return contents(split, places, parallel)

    monkeypatch.setattr(Split, "contents", counting)
    experiment = tiny(
        tmp_path, "data.source=image_folder", f"data.path={tmp_path / 'images'}",
        "data.global_batch_size=4", f"train.deterministic={deterministic}",
    )  # fmt: skip
    iterator = experiment.train_iterator(0)
    next(iterator)
    limit = time.monotonic() + _LIMIT_S
    while len(read) < 3 * 4:
        assert time.monotonic() < limit, f"only {len(read)} images were read"
        time.sleep(0.01)
    assert is_op_determinism_enabled() == (deterministic == "true")


def test_an_error_leaves_operations_deterministic(tmp_path):
    def fail():
        with reading_ahead():
            assert not is_op_determinism_enabled()
            raise OSError("no disk")

    tiny(tmp_path, "train.deterministic=true")
    with pytest.raises(OSError, match="no disk"):
        fail()
    assert is_op_determinism_enabled()


def write_images(folder: Path):
    for number in range(40):
        path = folder / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full([8, 8, 3], 6 * number, np.uint8)
        Image.fromarray(pixels).save(path)

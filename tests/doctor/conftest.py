"""Fixtures of the doctor's tests."""

import numpy as np
import pytest
from PIL import Image

from jobs.cli import main
from tests.doctor.doctors import read_report


@pytest.fixture
def doctor_here(tmp_path, monkeypatch, capfd):
    """Runs `vit doctor` in this process, which has imported TensorFlow: one second, not six."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main(["doctor", *map(str, arguments)])
        return read_report(code, *capfd.readouterr())

    return run


@pytest.fixture
def photographs(tmp_path):
    """An image folder with three classes of noise and distinct images, and matching settings."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 4)):
        for name in ("cat", "dog", "eel"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (12, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return tmp_path / "photos"

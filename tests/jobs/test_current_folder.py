"""Files in the current folder that have the names of modules break no command."""

import sys

import numpy as np
import pytest
from PIL import Image

from tests.jobs.commands import AS_INSTALLED, shadow_modules, vit


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "current"
    made.mkdir()
    shadow_modules(made)
    return made


def test_the_processes_of_vit_prepare_are_not_led_astray(folder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    for index, image in enumerate(pixels):
        file = tmp_path / f"images/train/class{index % 2}/{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    options = ["--shard-size", 3, "--processes", 2]
    words = ["prepare", tmp_path / "images", tmp_path / "out", *options]
    done = vit(*words, start=AS_INSTALLED, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "of the current folder" not in done.stderr


def test_what_vit_launch_starts_finds_the_modules_beside_it(folder):
    (folder / "helper.py").write_text("NUMBER = 42\n")
    (folder / "script.py").write_text("import helper; print('found', helper.NUMBER)\n")
    for name in ("random", "json", "threading"):
        (folder / f"{name}.py").unlink()
    launch = ["launch", "--hosts", "localhost", "--runtime", "multi_worker"]
    done = vit(*launch, "--", sys.executable, "script.py", start=AS_INSTALLED, cwd=folder)
    assert (done.returncode, done.stdout) == (0, "found 42\n"), done.stderr

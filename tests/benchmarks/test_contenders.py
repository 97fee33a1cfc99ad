"""Processes that time other libraries, with the Pillow of this environment as the library."""

import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks.contenders.pillow_input import load
from benchmarks.contenders.process import Contender, python_of
from pipeline.errors import PipelineError


@pytest.fixture
def photographs(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    for number in range(3):
        Image.fromarray(noise).save(tmp_path / f"{number}.jpg")
    return tmp_path


@pytest.mark.processes
def test_a_contender_answers_each_question_with_a_rate(photographs):
    arguments = [str(photographs), "16", "4", "0.3", "1"]
    with Contender(sys.executable, "pillow_input", arguments) as contender:
        rates = [contender.time(0.05, 0.1) for _ in range(2)]
        process = contender.process
        assert process.poll() is None
    # A small image takes some 100 microseconds.
    assert all(10 < rate < 1e6 for rate in rates)
    assert process.poll() is not None


@pytest.mark.processes
def test_a_contender_that_ends_is_an_error(tmp_path):
    with pytest.raises(PipelineError, match="pillow_input ended with exit code 1"):
        Contender(
            sys.executable, "pillow_input", [str(tmp_path / "nothing"), "16", "4", "0.3", "1"]
        )


def test_an_environment_that_is_not_installed_has_no_python():
    assert python_of("nothing") is None


def test_pillow_does_the_work_that_is_compared(photographs):
    content = (photographs / "0.jpg").read_bytes()
    with Image.open(photographs / "0.jpg") as image:
        whole = np.asarray(image.convert("RGB"), np.float32) / 127.5 - 1
    np.testing.assert_allclose(load(content, 16, None, np.random.default_rng(0)), whole, atol=1e-6)
    result = load(content, 16, 0.3, np.random.default_rng(0))
    assert (result.shape, result.dtype) == ((16, 16, 3), np.float32)
    assert -1 <= result.min() < result.max() <= 1

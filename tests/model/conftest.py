"""Fixtures of the model's tests."""

import pytest

from pipeline.model import backend


@pytest.fixture(params=["plain", "fused"])
def plain_and_compiled(request, monkeypatch):
    """Runs a test with operations compiled by XLA, as in training, and without."""
    if request.param == "plain":
        yield request.param
        return
    monkeypatch.setattr(backend, "MIN_COMPILED_SIZE", 1)
    with backend.fusing():
        assert backend._compiles((1,))
        yield request.param

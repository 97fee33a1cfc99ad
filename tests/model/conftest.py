"""What several of the model's tests need."""

import pytest

from pipeline.model import backend


@pytest.fixture(params=["plain", "fused"])
def plain_and_compiled(request, monkeypatch):
    """As in training, where chains of operations are compiled by XLA; and as everywhere else."""
    if request.param == "plain":
        yield request.param
        return
    monkeypatch.setattr(backend, "MIN_COMPILED_SIZE", 1)
    with backend.fusing():
        assert backend._compiles((1,))
        yield request.param

import numpy as np
import pytest

from pipeline.errors import SettingsError
from pipeline.runs.checkpoints.snapshot import restore_variables


class FakeVariable:
    def __init__(self, value):
        self.value = value
        self.shape = value.shape

    def assign(self, value):
        self.value = value


def test_restoring_another_model_lists_what_differs_and_assigns_nothing():
    variables = {"a": FakeVariable(np.zeros((2, 3))), "b": FakeVariable(np.zeros(1))}
    arrays = {"a": np.ones((3, 2)), "c": np.ones(1)}
    with pytest.raises(SettingsError) as error:
        restore_variables(variables, arrays, "model")
    for part in ("a: shape (3, 2) in the checkpoint, (2, 3) expected", "b: not in", "c: only in"):
        assert part in str(error.value)
    assert not variables["a"].value.any()


def test_what_is_optional_may_be_on_one_side_only():
    variables = {"a": FakeVariable(np.zeros(2)), "scale": FakeVariable(np.float32(4.0))}
    arrays = {"a": np.ones(2), "old_scale": np.ones(3)}
    restore_variables(variables, arrays, "optimizer", optional=lambda name: "scale" in name)
    assert variables["a"].value.tolist() == [1, 1]
    assert variables["scale"].value == 4.0

"""Runs that train a part of the network: what is frozen keeps its bits."""

import numpy as np
import pytest

from pipeline.errors import Stopped
from tests.training.runs import STEPS, StopAt, assert_same_end, store, train

PROBE = ("optim.linear_probe=true", "optim.ema_momentum=0.9")


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    train(folder, *PROBE, fresh=False)
    return folder


def test_a_linear_probe_changes_the_classifier_alone(probe, tmp_path):
    train(tmp_path, *PROBE, "train.max_steps=1", "optim.base_lr=1e-30")
    start, end = store(tmp_path).load(1).tensors, store(probe).load(STEPS).tensors
    changed = {n for n, a in end["model"].items() if not np.array_equal(a, start["model"][n])}
    assert changed == {"vit/head/kernel", "vit/head/bias"} == set(end["average"])


def test_it_goes_on_from_where_it_was_stopped(probe, tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, *PROBE, stop=StopAt(3), fresh=False)
    train(tmp_path, *PROBE)
    assert_same_end(tmp_path, probe)

"""A trace of some steps, in the place and form that TensorBoard's profile page reads."""

import pytest
from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

from pipeline.config import load_config
from pipeline.errors import SettingsError
from tests.training.experiments import tiny_config
from tests.training.runs import train


def test_the_steps_that_were_asked_for_are_recorded(tmp_path):
    train(tmp_path, "train.max_steps=9", "monitor.profile_steps=[4,7]")
    (file,) = (tmp_path / "run/tensorboard/train/plugins/profile").glob("*/*.xplane.pb")
    space = XSpace.FromString(file.read_bytes())
    counts = {}
    for plane in space.planes:
        names = {number: meta.name for number, meta in plane.event_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                name = names[event.metadata_id]
                counts[name] = counts.get(name, 0) + 1
    # One update of each variable a step: a kernel's name begins with the node's.
    updates = {n: c for n, c in counts.items() if "ResourceApplyAdam" in n.split(":")[0]}
    assert updates
    assert set(updates.values()) == {3}


def test_a_run_without_it_records_nothing(tmp_path):
    train(tmp_path, "train.max_steps=5")
    assert not (tmp_path / "run/tensorboard/train/plugins").exists()


@pytest.mark.parametrize("steps", ["[7,4]", "[4,4]", "[-1,4]", "[4]"])
def test_steps_that_make_no_sense_are_refused(tmp_path, steps):
    with pytest.raises(SettingsError, match=r"monitor\.profile_steps"):
        tiny_config(tmp_path, f"monitor.profile_steps={steps}")
    assert load_config(tmp_path / "tiny.yaml", ["monitor.profile_steps=[0,4]"])

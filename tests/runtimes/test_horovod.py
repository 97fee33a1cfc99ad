"""Horovod's runtime where no second process is needed; there is no GPU here, so two are made up."""

import pytest
import tensorflow as tf

from pipeline.errors import SettingsError

horovod = pytest.importorskip("pipeline.runtimes.horovod")


@pytest.fixture
def two_gpus(monkeypatch):
    """What was made visible to the process, by the name of its GPU."""
    visible = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["first", "second"])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda gpu, kind: visible.append(gpu))
    return visible


def test_a_process_sees_the_gpu_of_its_local_rank_alone(two_gpus):
    assert horovod.pin_device(1, 2) == "/device:GPU:0"
    assert two_gpus == ["second"]


def test_more_processes_than_gpus_are_told_how_many_would_work(two_gpus):
    with pytest.raises(SettingsError, match=r"3 processes .* 2 GPU.*start at most 2 .*-np 2"):
        horovod.pin_device(0, 3)
    assert two_gpus == []


@pytest.mark.parametrize(
    ("error", "is_loss"),
    [
        (tf.errors.UnknownError(None, None, "Horovod has been shut down. This was caused"), True),
        (
            tf.errors.UnknownError(
                None, None, "[/x/gloo/transport/tcp/pair.cc:1] Connection reset"
            ),
            True,
        ),
        (tf.errors.InvalidArgumentError(None, None, "shapes do not match"), False),
        (ValueError("wrong"), False),
    ],
)
def test_a_lost_peer_is_told_from_other_errors(error, is_loss):
    found = horovod.HorovodRuntime.peer_error(None, error)
    assert (found is not None) == is_loss

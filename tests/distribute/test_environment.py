"""What is read from the variables that launchers set."""

import json

import pytest

from pipeline.distribute.environment import Place, find_place
from pipeline.errors import SettingsError


def tf_config(index, *workers, kind="worker"):
    cluster = {"cluster": {"worker": list(workers)}, "task": {"type": kind, "index": index}}
    return {"TF_CONFIG": json.dumps(cluster)}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place("alone", 0, 1, 1)),
        (
            {"HOROVOD_RANK": "3", "HOROVOD_SIZE": "8", "HOROVOD_LOCAL_SIZE": "4"},
            Place("horovod", 3, 8, 4),
        ),
        (
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2",
             "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
            Place("horovod", 1, 2, 2),
        ),
        ({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2"}, Place("horovod", 0, 2, 1)),
        (tf_config(1, "a:1", "b:1", "b:2"), Place("multi_worker", 1, 3, 2)),
        (tf_config(0, "[::1]:1", "[::1]:2"), Place("multi_worker", 0, 2, 2)),
    ],
)  # fmt: skip
def test_the_place_is_read_with_how_many_share_the_host(environment, place):
    assert find_place(environment) == place


@pytest.mark.parametrize(
    "environment",
    [tf_config(2, "a:1", "b:1"), tf_config(0, "a:1", kind="ps"), tf_config(0, 5),
     {"TF_CONFIG": "{"}],
)  # fmt: skip
def test_a_wrong_tf_config_is_one_error(environment):
    with pytest.raises(SettingsError, match="TF_CONFIG cannot be used"):
        find_place(environment)

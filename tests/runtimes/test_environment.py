"""What is read from the variables that launchers set."""

import json

import pytest

from pipeline.errors import SettingsError
from pipeline.runtimes.environment import Place, find_place


def tf_config(index, *workers, kind="worker"):
    cluster = {"cluster": {"worker": list(workers)}, "task": {"type": kind, "index": index}}
    return {"TF_CONFIG": json.dumps(cluster)}


def with_chief(kind, index, **others):
    cluster = {"chief": ["c:1"], "worker": ["w:1", "w:2"], **others}
    task = {"type": kind, "index": index}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task, "environment": "cloud"})}


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
        (
            tf_config(1, "a:1", "b:1", "b:2"),
            Place("multi_worker", 1, 3, 2, ("a:1", "b:1", "b:2")),
        ),
        (
            tf_config(0, "[::1]:1", "[::1]:2"),
            Place("multi_worker", 0, 2, 2, ("[::1]:1", "[::1]:2")),
        ),
        # As Vertex AI and Kubeflow's TFJob have it; their evaluator is no part of the training.
        (with_chief("chief", 0), Place("multi_worker", 0, 3, 1, ("c:1", "w:1", "w:2"))),
        (with_chief("worker", "1"), Place("multi_worker", 2, 3, 2, ("c:1", "w:1", "w:2"))),
        (with_chief("worker", 0, evaluator=["e:1"]),
         Place("multi_worker", 1, 3, 2, ("c:1", "w:1", "w:2"))),
        ({"TF_CONFIG": ""}, Place("alone")),
        ({"TF_CONFIG": "{}"}, Place("alone")),
        ({"TF_CONFIG": '{"environment": "cloud"}'}, Place("alone")),
        ({"TF_CONFIG": '{"cluster": {}, "task": {"type": "worker", "index": 0}}'}, Place("alone")),
    ],
)  # fmt: skip
def test_the_place_is_read_with_how_many_share_the_host(environment, place):
    assert find_place(environment) == place


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (tf_config(2, "a:1", "b:1"), "there is no worker 2 in the cluster"),
        (tf_config(-1, "a:1", "b:1"), "there is no worker -1 in the cluster"),
        (tf_config(0, "a:1", kind="master"), "the task type must be chief or worker, not 'master'"),
        (tf_config(0, "a:1", kind="ps"), "parameter servers are not supported"),
        (with_chief("worker", 0, ps=["p:1"]), "parameter servers are not supported"),
        (with_chief("worker", 0, gpu=["p:1"]), "the cluster has 'gpu'"),
        (with_chief("chief", 0, chief=["c:1", "c:2"]), "the cluster has 2 chiefs"),
        (with_chief("evaluator", 0), "an evaluator is not needed"),
        (tf_config(0, "a", "b:1"), "'a' is not HOST:PORT"),
        (tf_config("first", "a:1"), "invalid literal"),
        (tf_config(0, 5), "a part of it has the wrong type"),
        ({"TF_CONFIG": "[]"}, "a part of it has the wrong type"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}, "'task' is missing"),
        ({"TF_CONFIG": "{"}, "it is not valid JSON"),
    ],
)
def test_a_wrong_tf_config_is_one_error_that_says_how_to_remove_it(environment, said):
    with pytest.raises(SettingsError, match="TF_CONFIG is invalid") as wrong:
        find_place(environment)
    assert said in str(wrong.value)
    assert "`unset TF_CONFIG`, or `env -u TF_CONFIG vit ...`" in str(wrong.value)


def test_a_rank_that_is_no_number_is_an_error():
    with pytest.raises(SettingsError, match=r"HOROVOD_RANK, .* must be integers"):
        find_place({"HOROVOD_RANK": "one", "HOROVOD_SIZE": "2"})

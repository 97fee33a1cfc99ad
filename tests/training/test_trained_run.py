"""Several processes open the data set of a run to evaluate it."""

import numpy as np
import pytest

from pipeline.config import Config, DataConfig
from pipeline.data.sources import tfrecord_index
from pipeline.errors import DataError
from pipeline.runs.folder import RunFolder
from pipeline.training.trained_run import open_evaluation_data
from tests.data.prepared import write_tfrecord
from tests.runtimes.ranks import on_ranks


@pytest.fixture
def records(tmp_path):
    """TFRecord files of three classes in two splits."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("validation", 8)):
        images = [rng.bytes(int(n)) for n in rng.integers(50, 900, count)]
        write_tfrecord(
            tmp_path / f"records/{split}-00000-of-00001", images, [i % 3 for i in range(count)]
        )
    return tmp_path / "records"


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    facts = {"classes": ["0", "1", "2"], "examples": {"train": 30, "validation": 8}}
    folder.begin(facts | {"mean": [0.5] * 3, "std": [0.5] * 3}, {})
    return folder


@pytest.mark.parametrize("is_other", [False, True], ids=["the run's own", "another"])
def test_tfrecord_files_to_evaluate_are_scanned_by_the_chief_alone(
    tmp_path, records, run, monkeypatch, is_other
):
    scans = []
    real = tfrecord_index.scan
    monkeypatch.setattr(tfrecord_index, "scan", lambda *a: scans.append(a) or real(*a))
    (tmp_path / "file").touch()  # no place for the index: it is not kept
    path, other = ("/gone", str(records)) if is_other else (str(records), None)
    data = DataConfig(source="tfrecord", path=path, index_path=str(tmp_path / "file"))
    found = on_ranks(
        lambda runtime: open_evaluation_data(run, Config(data=data), runtime, other), 3
    )
    assert len(scans) == 2  # each file once
    for opened in found:
        split = opened.source.splits["validation"]
        assert split.labels.tolist() == [i % 3 for i in range(8)]


@pytest.mark.parametrize("first", [0, 1])
def test_labels_mean_in_another_set_what_they_meant_in_training(tmp_path, run, first):
    facts = run.dataset() | {"labels": {"lowest": first, "first": first}}
    run.begin(facts, {})
    write_tfrecord(tmp_path / "other/train.tfrecord", [b"image"] * 6, [1, 2] * 3)
    write_tfrecord(tmp_path / "other/test.tfrecord", [b"image"] * 2, [1, 2])
    config = Config(data=DataConfig(source="tfrecord", path="/gone"))
    (found,) = on_ranks(
        lambda one: open_evaluation_data(run, config, one, str(tmp_path / "other")), 1
    )
    assert found.source.splits["test"].labels.tolist() == [1 - first, 2 - first]


def test_a_data_set_that_has_gone_ends_all_processes_with_one_message(run, tmp_path):
    data = DataConfig(source="tfrecord", path=str(tmp_path / "gone"))
    found = on_ranks(lambda runtime: open_evaluation_data(run, Config(data=data), runtime), 2)
    assert [one.exit_code for one in found] == [DataError.exit_code] * 2
    assert "Set its path with --data PATH" in str(found[0])

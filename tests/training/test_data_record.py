"""A run compares its data set with what it recorded, on resume and as pretrained weights."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.config import DataConfig
from pipeline.data.sources.source import open_source
from pipeline.data.split import DataSource, Split
from pipeline.errors import DataError
from pipeline.runs.checkpoints.snapshot import Snapshot
from pipeline.runs.checkpoints.store import CheckpointStore
from pipeline.runs.folder import RunFolder
from pipeline.training.data_record import (
    changed_length,
    check_classes,
    compare_data,
    data_record,
    record_start,
)
from tests.data.prepared import write_tfrecord


def source(classes=("cat", "dog", "eel"), train=6, level=0):
    def split(count):
        pixels = np.full((count, 2, 2, 3), level, np.uint8)
        return Split(np.arange(count, dtype=np.int32) % len(classes), pixels)

    return DataSource(tuple(classes), {"train": split(train), "validation": split(3)})


def begin(folder, data, allow=False):
    """What the chief does at each start."""
    experiment = SimpleNamespace(
        source=data,
        checkpoint_bytes=1000,
        dataset_facts={"mean": [0.5] * 3, "std": [0.5] * 3},
        config=SimpleNamespace(data=SimpleNamespace(allow_changes=allow)),
    )
    return record_start(folder, experiment, {"time": "now"})


@pytest.fixture
def run(tmp_path):
    """A run that was stopped at step 7."""
    folder = RunFolder(tmp_path)
    assert begin(folder, source()) == []
    CheckpointStore(folder.checkpoints).save(Snapshot(7, {}, {}))
    return folder


def recorded(folder):
    return json.loads((folder.path / "dataset.json").read_text())


def test_classes_counts_and_fingerprints_are_recorded(run):
    facts = recorded(run)
    assert facts["classes"] == ["cat", "dog", "eel"]
    assert facts["examples"] == {"train": 6, "validation": 3}
    assert set(facts["fingerprints"]) == {"train", "validation"}
    assert facts["mean"] == [0.5] * 3


def test_the_same_data_set_resumes(run):
    before = recorded(run)
    assert begin(run, source()) == []
    assert recorded(run) == before
    assert "data_changes" not in run.starts()[-1]


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize(
    ("names", "what", "first"),
    [
        (("zcat", "dog", "eel"), "names differ", "class 0 was 'cat' and is 'zcat'"),
        (("dog", "cat", "eel"), "same names are in another order", "class 0 was 'cat'"),
        (("cat", "dog", "eel", "fly"), "names differ", "class 3 was missing and is 'fly'"),
    ],
)
def test_other_classes_are_refused_with_both_lists_whatever_is_allowed(
    run, names, what, first, allow
):
    before = recorded(run)
    with pytest.raises(DataError) as refused:
        begin(run, source(names), allow)
    message = str(refused.value)
    assert what in message
    assert "recorded (3): cat, dog, eel" in message
    assert f"now      ({len(names)}): {', '.join(names)}" in message
    assert first in message
    assert recorded(run) == before
    assert len(run.starts()) == 1


def test_names_that_are_not_utf_8_or_have_line_breaks_are_shown_escaped():
    names = ["caf\udce9", "two\nlines"]
    text = compare_data({"classes": names, "examples": {}}, {"classes": ["a"], "examples": {}})
    assert r"recorded (2): caf\udce9, two\nlines" in text.classes
    assert text.classes.encode()


def test_a_long_list_of_classes_is_shortened_and_its_first_difference_shown():
    names = [f"class {i}" for i in range(1000)]
    other = [*names[:700], "new", *names[700:-1]]
    text = compare_data({"classes": names, "examples": {}}, {"classes": other, "examples": {}})
    assert "and 990 more" in text.classes
    assert "class 700 was 'class 700' and is 'new'" in text.classes
    assert len(text.classes) < 600


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (source(train=5), "train: 6 images -> 5 images"),
        (source(level=1), "train: 6 images as before, but with other"),
        (replace(source(), splits={"train": source().splits["train"]}), "3 images -> none"),
    ],
)
def test_a_changed_data_set_is_refused_until_the_change_is_allowed(run, data, line):
    before = recorded(run)
    with pytest.raises(DataError) as refused:
        begin(run, data)
    assert line in str(refused.value)
    assert "data.allow_changes=true" in str(refused.value)
    assert recorded(run) == before

    changes = begin(run, data, allow=True)
    assert any(line in change for change in changes)
    assert run.starts()[-1]["data_changes"] == changes
    (allowed,) = recorded(run)["allowed_changes"]
    assert allowed == {"time": "now", "checkpoint_step": 7, "changes": changes}
    # From now on this is the data set of the run.
    assert begin(run, data) == []
    assert len(recorded(run)["allowed_changes"]) == 1
    with pytest.raises(DataError):
        begin(run, source())


def test_a_run_that_was_stopped_at_step_0_accepts_other_images_but_not_other_classes(tmp_path):
    folder = RunFolder(tmp_path)
    begin(folder, source())
    CheckpointStore(folder.checkpoints).save(Snapshot(0, {}, {}))
    folder.write_outcome({"outcome": "stopped"})
    with pytest.raises(DataError, match="other classes") as refused:
        begin(folder, source(("a", "b")))
    assert "model.pretrained" not in str(refused.value)  # there is nothing trained to start from
    assert begin(folder, source(train=5)) == []
    assert recorded(folder)["examples"]["train"] == 5
    assert CheckpointStore(folder.checkpoints).steps() == [0]


@pytest.mark.parametrize("outcome", ["failed", None])
def test_a_run_that_failed_or_was_killed_at_step_0_accepts_other_classes(tmp_path, outcome):
    folder = RunFolder(tmp_path)
    begin(folder, source())
    CheckpointStore(folder.checkpoints).save(Snapshot(0, {}, {}))
    if outcome is not None:
        folder.write_outcome({"outcome": outcome})
    assert begin(folder, source(("a", "b"))) == []
    assert recorded(folder)["classes"] == ["a", "b"]
    # The initial classifier had three outputs.
    assert CheckpointStore(folder.checkpoints).steps() == []


def test_other_classes_are_told_to_start_from_the_weights_of_a_run_that_has_some(run):
    with pytest.raises(DataError, match=rf"model\.pretrained={run.path} to start from"):
        begin(run, source(("a", "b")))


def test_without_a_checkpoint_any_data_set_is_accepted(tmp_path):
    folder = RunFolder(tmp_path)
    begin(folder, source())
    assert begin(folder, source(("a", "b"))) == []
    assert recorded(folder)["classes"] == ["a", "b"]


def test_a_run_without_fingerprints_is_compared_by_classes_and_counts(run):
    facts = recorded(run)
    del facts["fingerprints"]
    (run.path / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match="6 images -> 5 images"):
        begin(run, source(train=5))
    assert begin(run, source(level=1)) == []
    assert "fingerprints" in recorded(run)


@pytest.fixture
def birds(tmp_path):
    """TFRecord files with the labels 1 to 4, and a file of names with a line for label 0."""
    for split in ("train", "validation"):
        write_tfrecord(tmp_path / "birds" / f"{split}.tfrecord", [b"image"] * 8, [1, 2, 3, 4] * 2)
    names = tmp_path / "birds" / "labels.txt"
    names.write_text("background\nwren\nrobin\nowl\nauk\n")
    return lambda: open_source(DataConfig(source="tfrecord", path=str(names.parent)), 0)


def write_record(folder, facts):
    (folder.path / "dataset.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("allow", [False, True])
def test_a_run_of_a_version_that_subtracted_1_from_the_labels_is_refused(run, birds, allow):
    facts = data_record(birds())
    del facts["labels"], facts["fingerprints"]  # as that version recorded it
    write_record(run, facts)
    with pytest.raises(DataError, match="subtracted 1") as refused:
        begin(run, birds(), allow)
    assert "cannot be resumed" in str(refused.value)
    assert "run.dir=FOLDER" in str(refused.value)
    assert refused.value.exit_code == 3
    assert recorded(run) == facts
    with pytest.raises(DataError, match=r"subtracted 1[\s\S]*Train a new run"):
        check_classes(run, birds())


def test_a_run_of_tfrecord_files_whose_labels_count_the_same_resumes(run, birds):
    write_record(run, data_record(birds()))
    assert recorded(run)["labels"] == {"lowest": 1, "first": 0}
    assert begin(run, birds()) == []
    check_classes(run, birds())
    # 1 is still subtracted without a line for label 0, so the older record is right.
    names = run.path / "birds" / "labels.txt"
    names.write_text(names.read_text().removeprefix("background\n"))
    facts = data_record(birds())
    assert facts.pop("labels") == {"lowest": 1, "first": 1}
    del facts["fingerprints"]
    write_record(run, facts)
    assert begin(run, birds()) == []
    check_classes(run, birds())


def test_inspecting_a_run_with_other_classes_is_refused(run):
    check_classes(run, source(level=1))
    with pytest.raises(DataError, match=r"class 2 was 'eel' and is 'fly'[\s\S]*--data"):
        check_classes(run, source(("cat", "dog", "fly")))


def test_only_the_splits_that_are_asked_for_are_looked_at():
    record = data_record(source(), ["validation"])
    assert record["examples"] == {"validation": 3}
    assert list(record["fingerprints"]) == ["validation"]


def test_a_run_whose_class_0_had_another_label_is_not_resumed(run):
    facts = json.loads((run.path / "dataset.json").read_text())
    other = compare_data(
        facts | {"labels": {"lowest": 1, "first": 1}}, facts | {"labels": {"lowest": 1, "first": 0}}
    )
    assert "data.first_label=1" in other.shifted


def test_another_number_of_updates_than_at_the_last_start_is_said(tmp_path):
    run = RunFolder(tmp_path)
    assert changed_length(run, 15_625) is None
    (tmp_path / "starts.jsonl").write_text('{"total_steps": 9}\n{"total_steps": 15626}\n')
    assert changed_length(run, 15_625) is None  # nothing is trained yet
    (run.checkpoints / "step-00000100").mkdir(parents=True)
    assert changed_length(run, 15_625) == (
        "the run has 15,625 updates. At its last start it had 15,626"
    )
    assert changed_length(run, 15_626) is None

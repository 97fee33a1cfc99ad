"""`vit evaluate` on other data, and its details."""

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score

from jobs.cli import main
from pipeline.data.sources.source import open_source
from pipeline.runs.checkpoints.snapshot import Snapshot
from pipeline.runs.checkpoints.store import CheckpointStore
from pipeline.runs.folder import RunFolder
from pipeline.training.data_record import data_record

pytestmark = pytest.mark.processes


def evaluate(capsys, *arguments):
    code = main(["evaluate", *map(str, arguments)])
    done = capsys.readouterr()
    return code, done.out, done.err


@pytest.fixture(scope="module")
def some_digits(tmp_path_factory):
    """Sevens, threes and ones as class folders, whose order is not that of the run's classes."""
    folder = tmp_path_factory.mktemp("other")
    data = load_digits()
    for i in np.flatnonzero(np.isin(data.target, [1, 3, 7]))[:90]:
        path = folder / str(data.target[i]) / f"{i:04d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.uint8(data.images[i] * 15)).save(path)
    return folder


def test_another_set_gives_what_vit_predict_says_of_its_files(digits_run, some_digits, capsys):
    code, out, _ = evaluate(capsys, digits_run, "--data", some_digits, "--json")
    assert code == 0
    row = json.loads(out)
    assert main(["predict", str(digits_run), str(some_digits), "--json", "--top", "10"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    labels = [one["image"].split("/")[-2] for one in said]
    assert (row["split"], row["examples"]) == ("all", 90)
    assert row["accuracy"] == accuracy_score(labels, [one["top"][0]["class"] for one in said])
    own = [{t["class"]: t["probability"] for t in one["top"]}[label]
           for one, label in zip(said, labels, strict=True)]  # fmt: skip
    assert row["loss"] == pytest.approx(-np.mean(np.log(own)), rel=1e-4)
    assert sum(b["examples"] for b in row["calibration"]) == 90
    assert {c["class"] for c in row["classes"] if c["examples"]} == {"1", "3", "7"}


@pytest.fixture
def class_folder_run(digits_run, tmp_path):
    """A run whose data set is class folders without train/, of which a part was held out."""
    photos = tmp_path / "photos"
    data = load_digits()
    for i in range(150):
        path = photos / str(data.target[i]) / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(data.images[i] * 15)).save(path)
    run = shutil.copytree(digits_run, tmp_path / "run")
    tree = yaml.safe_load((run / "config.yaml").read_text())
    tree["data"] |= {"source": "image_folder", "path": str(photos)}
    (run / "config.yaml").write_text(yaml.safe_dump(tree))
    facts = json.loads((run / "dataset.json").read_text())
    facts |= data_record(open_source(RunFolder(run).config().data, seed=0))
    (run / "dataset.json").write_text(json.dumps(facts))
    return run, photos


@pytest.mark.parametrize("fingerprints", [True, False])
def test_class_folders_that_moved_have_the_validation_split_of_the_run(
    class_folder_run, capsys, fingerprints
):
    run, photos = class_folder_run
    facts = json.loads((run / "dataset.json").read_text())
    held = facts["examples"]["validation"]
    assert 0 < held < 75
    if not fingerprints:  # as earlier versions recorded it
        del facts["fingerprints"]
        (run / "dataset.json").write_text(json.dumps(facts))
    moved = photos.rename(photos.parent / "moved")
    code, out, err = evaluate(capsys, run, "--json", "--data", f"{moved}/")
    (row,) = map(json.loads, out.splitlines())
    assert (code, row["split"], row["examples"]) == (0, "validation", held)
    assert row["same_images"] is (True if fingerprints else None)
    assert "not the images" not in err


def test_class_folders_with_other_images_than_those_of_the_run_are_one_split(
    class_folder_run, capsys
):
    run, photos = class_folder_run
    next((photos / "3").iterdir()).unlink()
    code, out, _ = evaluate(capsys, run, "--json", "--data", f"{photos}/")
    (row,) = map(json.loads, out.splitlines())
    assert (code, row["split"], row["examples"]) == (0, "all", 149)
    assert row["same_images"] is False


def test_details_of_the_run_s_own_data_agree_with_the_short_line(digits_run, tmp_path, capsys):
    code, short, _ = evaluate(capsys, digits_run)
    assert code == 0
    page = tmp_path / "new/page.html"
    code, out, err = evaluate(capsys, digits_run, "--html", page)
    assert code == 0
    assert [line for line in out.splitlines() if "images" in line] == short.splitlines()
    assert "calibration error" in out
    assert str(page) in err
    text = page.read_text()
    assert text.count('aria-label="Rows: true class.') == 2  # validation and test
    assert "http:" not in text
    assert "https:" not in text


def test_a_run_of_other_machines_is_evaluated_and_reported_on_this_one(
    digits_run, tmp_path, capsys
):
    """Its runtime, devices and paths are not there, and its batch does not divide."""
    run = shutil.copytree(digits_run, tmp_path / "run")
    tree = yaml.safe_load((run / "config.yaml").read_text())
    tree["distribute"] |= {"runtime": "multi_worker", "device": "gpu", "cpu_devices": 7}
    tree["data"] |= {"threads": 1, "index_path": "/not/here"}
    (run / "config.yaml").write_text(yaml.safe_dump(tree))
    outputs = []
    for folder in (digits_run, run):
        code, out, err = evaluate(capsys, folder, "--json")
        assert (code, err) == (0, "")
        outputs.append(out)
    assert outputs[0] == outputs[1]
    assert main(["report", str(run)]) == 0
    assert (run / "predictions.npz").is_file()


def test_evaluation_says_whether_the_images_are_those_of_the_run(
    digits_run, some_digits, tmp_path, capsys
):
    code, out, err = evaluate(capsys, digits_run, "--json", "--split", "test")
    assert (code, err, json.loads(out)["same_images"]) == (0, "", True)
    code, out, err = evaluate(capsys, digits_run, "--json", "--data", some_digits)
    assert (code, json.loads(out)["same_images"]) == (0, False)
    assert "all: not the images that the run recorded (none -> 90 images)" in err

    code, out, err = evaluate(capsys, digits_run, "--json", "--data", "digits")
    assert [json.loads(line)["same_images"] for line in out.splitlines()] == [True, True]
    assert err == ""

    run = shutil.copytree(digits_run, tmp_path / "run")
    facts = json.loads((run / "dataset.json").read_text())
    facts["fingerprints"]["test"] = "0" * 32
    (run / "dataset.json").write_text(json.dumps(facts))
    code, out, err = evaluate(capsys, run, "--json")
    assert [json.loads(line)["same_images"] for line in out.splitlines()] == [True, False]
    assert len(err.splitlines()) == 1
    assert "test: not the images that the run recorded (367 images as before, but" in err
    del facts["fingerprints"]  # as earlier versions recorded it
    (run / "dataset.json").write_text(json.dumps(facts))
    code, out, err = evaluate(capsys, run, "--json")
    assert [json.loads(line)["same_images"] for line in out.splitlines()] == [None, None]
    assert err == ""


def test_a_data_set_with_other_classes_is_not_taken_for_the_run_s(digits_run, tmp_path, capsys):
    run = shutil.copytree(digits_run, tmp_path / "run")
    facts = json.loads((run / "dataset.json").read_text())
    facts["classes"] = facts["classes"][::-1]
    (run / "dataset.json").write_text(json.dumps(facts))
    code, out, err = evaluate(capsys, run)
    assert (code, out) == (3, "")
    assert "recorded (10): 9, 8, 7" in err
    assert "now      (10): 0, 1, 2" in err


def test_a_run_that_is_not_trained_yet_is_not_evaluated(digits_run, tmp_path, capsys):
    run = shutil.copytree(digits_run, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    CheckpointStore(run / "checkpoints").save(Snapshot(0, {}, {"progress": {"best_step": None}}))
    code, _, err = evaluate(capsys, run)
    assert code == 2
    assert "is not trained yet" in err


def test_unknown_classes_and_splits_are_refused(digits_run, some_digits, tmp_path, capsys):
    (tmp_path / "twelve").mkdir()
    code, _, err = evaluate(capsys, digits_run, "--data", tmp_path)
    assert (code, "twelve" in err) == (3, True)
    code, _, err = evaluate(capsys, digits_run, "--data", some_digits, "--split", "test")
    assert code == 2
    assert "it has all" in err


def test_a_page_that_cannot_be_written_is_said(digits_run, tmp_path, capsys):
    (tmp_path / "file").touch()
    code, _, err = evaluate(capsys, digits_run, "--html", tmp_path / "file" / "page.html")
    assert code == 2
    assert "cannot write" in err


def test_an_unreadable_image_is_named(digits_run, tmp_path, capsys):
    (tmp_path / "7").mkdir()
    (tmp_path / "7/broken.png").write_text("no image")
    code, _, err = evaluate(capsys, digits_run, "--data", tmp_path)
    assert code == 3
    assert "broken.png" in err
    assert "Traceback" not in err

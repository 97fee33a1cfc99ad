"""`vit report` as people run it: on runs that `vit train` left, with their data and without."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from tests.jobs.commands import vit, vit_process
from tests.report.parsed import parse, section

pytestmark = pytest.mark.processes

SHORT = ["train.max_steps=30", "train.log_every_steps=10", "train.evaluate_every_steps=15",
         "model.depth=2"]  # fmt: skip
# A block of width 64: four matrices of attention, two of the MLP with its 128 units, two norms.
# Around two blocks: patches of 2 x 2 x 3, 16 positions, a norm, ten classes.
BLOCK = 4 * (64 * 64 + 64) + (64 * 128 + 128) + (128 * 64 + 64) + 2 * 128
PARAMETERS = 2 * BLOCK + (12 * 64 + 64) + 16 * 64 + 128 + (64 * 10 + 10)
# Fails where TensorFlow is imported, as it does where it is not installed.
WITHOUT_TENSORFLOW = (
    "import sys; sys.modules['tensorflow'] = None; sys.modules['keras'] = None;"
    "from jobs.cli import main; sys.exit(main())"
)


def without_tensorflow(*arguments):
    return vit_process(*arguments, start=("-c", WITHOUT_TENSORFLOW))


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def page(run):
    return parse((run / "report.html").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run of digits, as it was left; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    done = vit("train", "digits", *SHORT, f"run.dir={folder}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_training_ends_with_a_report_of_its_test_predictions(finished):
    test = next(row for row in rows(finished) if row["split"] == "test")
    with np.load(finished / "predictions.npz") as found:
        label, top, probability = found["label"], found["top"], found["probability"]
        assert str(found["split"]) == "test"
        assert int(found["step"]) == test["weights_of_step"]
        loss = found["loss"].astype(float)
        own = found["label_probability"].astype(float)
        index = found["index"]
    facts = json.loads((finished / "dataset.json").read_text())
    assert index.tolist() == list(range(facts["examples"]["test"]))
    assert np.mean(top[:, 0] == label) == pytest.approx(test["accuracy"], abs=1e-12)
    assert np.mean((top == label[:, None]).any(1)) == pytest.approx(
        test["top_5_accuracy"], abs=1e-12
    )
    assert loss.mean() == pytest.approx(test["loss"], rel=1e-5)
    np.testing.assert_allclose(loss, -np.log(own), rtol=1e-4)
    assert (np.diff(probability, axis=1) <= 0).all()
    matrix = section(page(finished), "Classes").find("table", "matrix")[0].cells()
    expected = confusion_matrix(label, top[:, 0], labels=range(10))
    got = [[0 if cell == "·" else int(cell) for cell in row[1:]] for row in matrix[1:]]
    np.testing.assert_array_equal(got, expected)


def test_predictions_are_what_keras_says_of_the_same_images(finished):
    """Another way to the same numbers: `vit predict`'s model, and scikit-learn's sums."""
    code = (
        "import sys, json; from pathlib import Path\n"
        "from pipeline.config import parse_config\n"
        "from pipeline.data.sources.source import open_source\n"
        "from pipeline.api.prediction import load_predictor as load\n"
        "from pipeline.runs.folder import RunFolder\n"
        "folder = RunFolder(Path(sys.argv[1])); model = load(folder.path)\n"
        "config = folder.config(); source = open_source(config.data, config.seed)\n"
        "test = source.splits['test']\n"
        "said = model.predict(test.images[:60]).tolist()\n"
        "print(json.dumps([test.labels.tolist(), said]))\n"
    )
    done = vit_process(finished, start=("-c", code))
    assert done.returncode == 0, done.stderr
    labels, said = map(np.array, json.loads(done.stdout))
    with np.load(finished / "predictions.npz") as found:
        np.testing.assert_array_equal(found["label"], labels)
        top, probability, loss = found["top"][:60], found["probability"][:60], found["loss"][:60]
    np.testing.assert_allclose(np.take_along_axis(said, top, 1), probability, atol=1e-5)
    labels = labels[:60]
    said = said / said.sum(axis=1, keepdims=True)
    assert log_loss(labels, said, labels=range(10)) == pytest.approx(loss.mean(), rel=1e-4)
    top_5 = top_k_accuracy_score(labels, said, k=5, labels=range(10))
    assert np.mean((top == labels[:, None]).any(1)) == pytest.approx(top_5)


def test_a_second_report_needs_no_tensorflow_and_is_the_same(run):
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    done = without_tensorflow("report", run)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"report       {run}/report.html\n"
    after = (run / "report.html").read_text()
    # The folder's name and path are not the first one's.
    assert parse(after).find("svg")[0].text == parse(before).find("svg")[0].text
    assert len(parse(after).find("img")) == len(parse(before).find("img"))


def test_without_predictions_the_files_alone_are_enough_and_what_lacks_is_said(run):
    for name in ("predictions.npz", "examples.npz"):
        (run / name).unlink()
    done = without_tensorflow("report", run, "--no-examples")
    assert done.returncode == 0, done.stderr
    root = page(run)
    assert "Left out: confusion matrix, accuracy per class and examples" in root.text
    assert not root.find("img")
    assert len(root.find("svg")) >= 6


def test_predictions_of_older_weights_are_made_anew(run):
    with np.load(run / "predictions.npz") as found:
        arrays = dict(found)
    np.savez(run / "predictions.npz", **arrays | {"step": 7, "label": arrays["label"] * 0})
    done = vit("report", run)
    assert done.returncode == 0, done.stderr
    with np.load(run / "predictions.npz") as found:
        np.testing.assert_array_equal(found["label"], arrays["label"])
        assert int(found["step"]) == int(arrays["step"])


def test_a_run_that_is_stopped_and_goes_on_has_both_starts(tmp_path):
    settings = [*SHORT, f"run.dir={tmp_path / 'run'}", "checkpoint.every_steps=5"]
    first = vit("train", "digits", *settings, "train.max_time_s=0.01")
    assert first.returncode == 75, first.stderr
    assert not (tmp_path / "run" / "report.html").exists()
    stopped = vit("report", tmp_path / "run", "--no-examples")
    assert stopped.returncode == 0, stopped.stderr
    assert "Training was stopped before its end" in page(tmp_path / "run").text
    last = vit("train", "digits", *settings)
    assert last.returncode == 0, last.stderr
    starts = [json.loads(s) for s in (tmp_path / "run/starts.jsonl").read_text().splitlines()]
    assert [s["checkpoint_step"] is None for s in starts] == [True, False]
    assert starts[0]["command"] == ["vit", "train", "digits", *settings, "train.max_time_s=0.01"]
    assert starts[1]["parameters"] == PARAMETERS
    shown = section(page(tmp_path / "run"), "Command and environment")
    assert len(shown.find("table")[0].cells()) == 3
    assert shown.find("pre")[0].text.startswith("vit train digits")


def test_several_devices_say_what_one_says(run, tmp_path):
    other = tmp_path / "two"
    done = vit_process("train", "digits", *SHORT, f"run.dir={other}", "distribute.cpu_devices=2")
    assert done.returncode == 0, done.stderr
    with np.load(run / "predictions.npz") as one, np.load(other / "predictions.npz") as two:
        np.testing.assert_array_equal(one["index"], two["index"])
        np.testing.assert_array_equal(one["label"], two["label"])
        np.testing.assert_allclose(one["label_probability"], two["label_probability"], atol=1e-3)


def test_a_report_that_cannot_be_written_does_not_spoil_the_training(tmp_path):
    folder = tmp_path / "run"
    (folder / "report.html").mkdir(parents=True)
    done = vit("train", "digits", *SHORT, f"run.dir={folder}")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("no report: ")]
    assert len(said) == 1
    assert "vit report" in said[0]
    assert json.loads((folder / "outcome.json").read_text())["outcome"] == "done"


def test_no_report_is_made_where_none_is_wanted(tmp_path):
    done = vit("train", "digits", *SHORT, f"run.dir={tmp_path / 'run'}", "monitor.report=false")
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "run").glob("*.npz"))
    assert not (tmp_path / "run" / "report.html").exists()
    assert "report " not in done.stdout


@pytest.fixture
def folder_run(tmp_path):
    """A run on photographs, one class with a name that is markup, and where they lie."""
    photos, draw = tmp_path / "photos", np.random.default_rng(0)
    for name, level in (("<script>alert(1)<&", 200), ("plain", 40)):
        folder = photos / "train" / name.replace("/", "")
        folder.mkdir(parents=True)
        for i in range(30):
            noise = draw.integers(-30, 30, (20 + i, 24, 3))
            Image.fromarray((level + noise).astype("uint8")).save(folder / f"<b>{i}.png")
    run = tmp_path / "run"
    settings = ["data.image_size=16", "data.global_batch_size=12", "model.variant=Ti/8"]
    settings += [*SHORT, "model.depth=1", f"run.dir={run}"]
    done = vit("train", "image_folder", f"data.path={photos}", *settings)
    assert done.returncode == 0, done.stderr
    return run, photos


def test_without_a_test_split_validation_is_looked_at_and_names_are_harmless(folder_run):
    run, _ = folder_run
    text = (run / "report.html").read_text()
    assert "<script" not in text
    assert "<b>" not in text
    root = parse(text)
    assert "validation examples" in section(root, "Classes").text
    header = section(root, "Classes").find("table", "matrix")[0].cells()[0]
    assert header[1:] == ["<script>alert(1)<&", "plain"]
    names = [div.attributes["title"] for div in section(root, "Examples").find("div", "soft")]
    assert all(Path(name).is_file() for name in names)


def test_data_that_have_gone_are_said_and_data_that_moved_are_found(folder_run, tmp_path):
    run, photos = folder_run
    before = (run / "predictions.npz").read_bytes()
    moved = photos.rename(tmp_path / "moved")
    (run / "predictions.npz").unlink()
    gone = vit("report", run)
    assert gone.returncode == 0
    assert str(photos) in gone.stderr
    assert "Traceback" not in gone.stderr
    assert "since the weights could not be applied to the data" in page(run).text
    whole = {path: path.read_bytes() for path in (moved / "train/plain").iterdir()}
    for path, content in whole.items():
        path.write_bytes(content[:100])
    damaged = vit("report", run, "--data", moved)
    assert damaged.returncode == 0
    assert "vit report: train: not the images that the run recorded (" in damaged.stderr
    for said in (damaged.stderr, page(run).text):
        assert str(moved / "train/plain") in said
        assert "set data.on_bad_image=skip" not in said  # vit report takes no settings
    for path, content in whole.items():
        path.write_bytes(content)
    found = vit("report", run, "--data", moved)
    assert found.returncode == 0, found.stderr
    assert "not the images" not in found.stderr
    with np.load(run / "predictions.npz") as new:
        (tmp_path / "old.npz").write_bytes(before)
        with np.load(tmp_path / "old.npz") as old:
            np.testing.assert_allclose(
                old["label_probability"], new["label_probability"], atol=1e-5
            )


def test_two_runs_are_compared(run, finished, tmp_path):
    text = (run / "config.yaml").read_text().replace("base_lr: 0.008", "base_lr: 0.25")
    (run / "config.yaml").write_text(text)
    out = tmp_path / "both.html"
    done = without_tensorflow("report", finished, run, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"report       {out}\n"
    root = parse(out.read_text())
    (differ,) = section(root, "Settings that differ").find("table")
    assert differ.cells() == [["setting", "run", "copy"], ["optim.base_lr", "0.008", "0.25"]]
    test = next(row for row in rows(run) if row["split"] == "test")
    results = {row[0]: row[1:] for row in section(root, "Results").find("table")[0].cells()}
    assert results["test top-1"] == [f"{test['accuracy']:.2%}"] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a run folder"),
        (["{run}", "--out", "nowhere/page.html"], "there is no folder nowhere"),
        (["{run}", "{run}"], "each run can be given once"),
    ],
)
def test_a_mistake_gets_one_clear_message(finished, arguments, message):
    done = vit("report", *(a.format(run=finished) for a in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_says_what_is_on_the_page():
    text = vit("report", "--help").stdout
    assert "vit report runs/digits runs/digits-2 --out both.html" in text
    assert "--no-examples" in text

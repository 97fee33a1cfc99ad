"""Every way to evaluate the same weights on the same images gives the same figures.

Training's own evaluation, `vit evaluate` with details and without, the report's predictions, and
`vit predict`: in two precisions, with and without averaged weights, with images that cannot be
read, on one process and on two.
"""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from tests.jobs.commands import vit as run_vit
from tests.parallel.launches import end, needs_horovod
from tests.parallel.trainings import Training

pytestmark = pytest.mark.processes

RECIPE = """
seed: 3
data: {source: image_folder, path: PHOTOS, image_size: 8, global_batch_size: 12,
       on_bad_image: skip}
model: {variant: Ti/4, width: 16, depth: 1, num_heads: 2, mlp_dim: 32}
optim: {base_lr: 2e-2}
train: {max_steps: 12, log_every_steps: 12, evaluate_every_steps: 12}
monitor: {pictures: false}
"""
# Six classes, so that top-5 accuracy says something, and neighbours that are easily confused.
COLORS = [(25 * i, 120, 200 - 25 * i) for i in range(6)]
EACH, DAMAGED = 5, 2
FIGURES = ("loss", "accuracy", "top_5_accuracy")
# Precision and averaged weights meet in no line of code, so each value of both occurs once.
CASES = [("float32", "0.9"), ("mixed_bfloat16", "null")]
# Logits of an image depend on its batch in their last bits, which are few in bfloat16: other
# batches are those of two processes and of vit predict.
ROUNDING = {"float32": 1e-5, "mixed_bfloat16": 3e-2}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Class folders of small noisy images; two images of the test split are damaged."""
    root = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        for number, color in enumerate(COLORS):
            folder = root / split / f"class {number}"
            folder.mkdir(parents=True)
            for i in range(EACH):
                pixels = np.clip(np.array(color) + draw.integers(-40, 40, (8, 8, 3)), 0, 255)
                Image.fromarray(pixels.astype("uint8")).save(folder / f"{i}.png")
    for i in range(DAMAGED):
        (root / "test" / "class 2" / f"{i}.png").write_bytes(b"no image")
    return root


def settings(precision, momentum, run):
    return [f"train.precision={precision}", f"optim.ema_momentum={momentum}", f"run.dir={run}"]


@pytest.fixture
def recipe(photos, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("PHOTOS", f'"{photos}"'))
    return path


def own_row(run):
    """What training itself measured at its end."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return next(row for row in map(json.loads, lines) if row["split"] == "test")


def run_all(*commands):
    """Exit code, standard output and standard error of each."""
    return [tuple(run_vit(*command)) for command in commands]


def check_one_process(run, photos, precision):
    """All verbs on one process; returns what evaluation says."""
    files = sorted((photos / "test").rglob("*.png"))
    with np.load(run / "predictions.npz") as found:
        label, top, loss = found["label"], found["top"], found["loss"].astype(np.float64)
        readable = [files[i] for i in found["index"].tolist()]
    evaluate = ["evaluate", run, "--split", "test", "--json"]
    done = run_all(
        evaluate, [*evaluate, "--details"], ["predict", run, *readable, "--json", "--top", 6]
    )
    assert [code for code, _, _ in done] == [0, 0, 0], done
    plain, details = (json.loads(out) for _, out, _ in done[:2])
    counts = {"examples": len(COLORS) * EACH - DAMAGED, "skipped_examples": DAMAGED}
    for row in (plain, details):
        assert {name: row[name] for name in counts} == counts
    # The order of a float64 sum is all that differs.
    for name in FIGURES:
        assert details[name] == pytest.approx(plain[name], rel=1e-12)
    assert len(label) == counts["examples"]
    assert np.mean(top[:, 0] == label) == plain["accuracy"]
    assert np.mean((top == label[:, None]).any(axis=1)) == plain["top_5_accuracy"]
    same_batches = "horovod" not in (run / "starts.jsonl").read_text()
    assert np.mean(loss) == pytest.approx(
        plain["loss"], rel=1e-12 if same_batches else ROUNDING[precision]
    )

    said = [json.loads(line)["top"] for line in done[2][1].splitlines()]
    assert [one[0]["class"] for one in said] == [f"class {k}" for k in top[:, 0].tolist()]
    own = [{t["class"]: t["probability"] for t in one}[f"class {k}"]
           for one, k in zip(said, label.tolist(), strict=True)]  # fmt: skip
    assert -np.mean(np.log(own)) == pytest.approx(plain["loss"], rel=ROUNDING[precision])
    return plain


@pytest.mark.parametrize(("precision", "momentum"), CASES)
def test_all_verbs_agree_with_training(recipe, photos, precision, momentum, tmp_path):
    run = tmp_path / "run"
    done = run_vit("train", recipe, *settings(precision, momentum, run))
    assert done.returncode == 0, done.stderr
    plain, row = check_one_process(run, photos, precision), own_row(run)
    for name in (*FIGURES, "examples", "skipped_examples"):
        assert plain[name] == row[name]
    if (precision, momentum) == CASES[0]:
        check_report_of_other_data(run, photos, tmp_path)


def check_report_of_other_data(run, photos, tmp_path):
    """A report of other data shows these, and a report without --data those of the run."""
    other = shutil.copytree(photos, tmp_path / "other")
    (other / "test" / "class 0" / "4.png").unlink()
    kept = (run / "predictions.npz").read_bytes()
    pages = [tmp_path / "other.html", tmp_path / "own.html"]
    (code, _, err), (own_code, _, own_err) = run_all(
        ["report", run, "--data", other, "--out", pages[0]], ["report", run, "--out", pages[1]]
    )
    assert (code, own_code) == (0, 0), err + own_err
    assert f"are those of {other}, not of the data that the run recorded" in err
    assert "27 test examples, weights" in pages[0].read_text()
    assert "28 test examples, weights" in pages[1].read_text()
    assert (run / "predictions.npz").read_bytes() == kept
    # A set without a readable image has no figures.
    for file in (other / "test").rglob("*.png"):
        file.write_bytes(b"no image")
    arguments = ["evaluate", run, "--data", other, "--split", "test"]
    for code, _, err in run_all(arguments, [*arguments, "--details"]):
        assert code == 3
        assert "test: none of its 29 images can be read" in err


def launch(vit, log, *command):
    own = [sys.executable, "-m", "jobs.cli"]
    where = ["--hosts", "localhost", "--processes-per-node", 2, "--runtime", "horovod", "--"]
    return Training(vit, log, [*own, "launch", *where, *own, *map(str, command)])


# In the precision whose rounding hides least: precision is a matter of one process.
@needs_horovod
def test_what_two_processes_measure_one_measures(recipe, photos, vit, tmp_path):
    precision, momentum = CASES[0]
    run = tmp_path / "run"
    launch(vit, tmp_path / "log", "train", recipe, *settings(precision, momentum, run)).succeed()
    plain, row = check_one_process(run, photos, precision), own_row(run)
    for name in ("accuracy", "top_5_accuracy", "examples", "skipped_examples"):
        assert plain[name] == row[name]
    assert plain["loss"] == pytest.approx(row["loss"], rel=ROUNDING[precision])

    command = [sys.executable, "-m", "jobs.cli", "evaluate", str(run), "--split", "test", "--json"]
    arguments = "--hosts localhost --processes-per-node 2 --runtime horovod"
    code, out, err = end(vit.start(arguments, command=[*command, "--details"]), 240)
    assert code == 0, err
    line = next(line for line in out.splitlines() if '"same_images"' in line)
    two = json.loads(line[line.index("{") :])
    for name in ("accuracy", "top_5_accuracy", "examples", "skipped_examples"):
        assert two[name] == plain[name]
    assert two["loss"] == pytest.approx(row["loss"], rel=1e-12)

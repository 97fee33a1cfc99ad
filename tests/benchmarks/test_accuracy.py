"""`python -m benchmarks accuracy`: its summary, table and plot. No test checks an accuracy."""

import json
import time

import numpy as np
import pytest
from PIL import Image

from benchmarks import keras_example, keras_example_fit
from benchmarks.accuracy import summarize, table
from benchmarks.accuracy_plot import draw
from benchmarks.command import main
from benchmarks.keras_example_fit import build, compile_example, evaluate, train
from pipeline.config import Config, dump_config
from tests.jobs.commands import vit, vit_process


def training(who, *points, final, curve=None):
    marks = [list(point) for point in points]
    return {"who": who, "minutes": 10, "marks": marks, "curve": curve or marks, "final": final}


OURS = training("ours", (1, 0.3), (5, 0.5), (10, 0.7), final=0.72,
                curve=[[0.9, 0.3], [1.5, 0.41], [5, 0.5], [10, 0.7]])  # fmt: skip
THEIRS = training("example", (1, 0.2), (5, 0.3), (10, 0.4), final=0.41)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two classes of noise, one of them dark: 40 images to train on; to test on 9 dark, 3 light."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for split, counts in (("train", (20, 20)), ("test", (9, 3))):
        for name, bright, count in zip(("dark", "light"), (80, 255), counts, strict=True):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, bright, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def test_a_pair_is_compared_by_its_final_accuracies_and_mark_by_mark():
    found = summarize([OURS, THEIRS])
    assert found == {"gap": pytest.approx(31), "ahead": True, "minutes_to_reach": 1.5}
    text = "\n".join(table([OURS, THEIRS]))
    assert "our final accuracy is 31.0 points higher than the example's" in text
    assert "after 1.5 of 10 minutes; ours is higher at every listed time" in text


def test_one_mark_behind_is_said_and_a_goal_that_is_never_reached():
    slow = training("ours", (1, 0.1), (5, 0.2), (10, 0.3), final=0.35)
    behind = training("ours", (5, 0.5), (10, 0.7), final=0.7)  # nothing yet at the first mark
    assert summarize([slow, THEIRS]) == {
        "gap": pytest.approx(-6), "ahead": False, "minutes_to_reach": None
    }  # fmt: skip
    assert not summarize([behind, THEIRS])["ahead"]
    text = "\n".join(table([slow, THEIRS]))
    assert "which we never reach; ours is NOT higher at every listed time" in text


def test_seeds_are_averaged_and_their_spread_is_shown():
    other = training("ours", (1, 0.4), (5, 0.5), (10, 0.6), final=0.62,
                     curve=[[2.5, 0.42], [10, 0.6]])  # fmt: skip
    runs = [OURS, THEIRS, other, THEIRS]
    assert summarize(runs) == {"gap": pytest.approx(26), "ahead": True, "minutes_to_reach": 2}
    assert "35.0% (30.0%..40.0%)" in "\n".join(table(runs))


def test_the_plot_is_a_picture(tmp_path):
    draw([OURS, THEIRS], tmp_path / "accuracy.png")
    with Image.open(tmp_path / "accuracy.png") as picture:
        assert len(picture.convert("RGB").getcolors(2**20)) > 20


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data=nowhere"], "nowhere/train does not exist"),
        (["--data={}", "--seeds=one"], "--seeds must be numbers such as 0,1,2"),
        (["--data={}", "--minutes=0"], "--minutes must be above 0"),
        (["--data={}/uneven"], "must contain images of one size. Found: 8 x 8"),
        (["--data={}/torn"], "torn/test/a/0.png is not an image that Pillow can read"),
    ],
)
def test_wrong_arguments_are_explained(arguments, said, photographs, tmp_path):
    for name, size in (("uneven", (8, 9)), ("torn", (8, 8))):
        for split in ("train", "test"):
            (tmp_path / name / split / "a").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name / "train" / "a" / "0.png")
        Image.new("RGB", size).save(tmp_path / name / "test" / "a" / "0.png")
    (tmp_path / "torn" / "test" / "a" / "0.png").write_bytes(b"no picture")
    filled = [a.replace("{}/", f"{tmp_path}/").format(photographs) for a in arguments]
    done = vit("accuracy", *filled, "--out", tmp_path / "out", command=main)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_example_keeps_its_weights_in_time_and_evaluates_them(
    photographs, tmp_path, capsys, monkeypatch
):
    """With a small network: its eight blocks would be compiled for half a minute."""
    monkeypatch.setattr(keras_example, "DEPTH", 1)
    monkeypatch.setattr(keras_example, "HEAD", (16, 8))
    monkeypatch.setattr(keras_example_fit, "IMAGE_SIZE", 12)
    train(photographs, tmp_path, [1e-4, 2e-4], 0, time.time())
    assert {file.name for file in tmp_path.iterdir()} == {
        "0.0001.weights.h5", "0.0002.weights.h5"
    }  # fmt: skip
    # Weights that see nothing but their own bias, for one class or the other.
    model = build(2, np.zeros((1, 8, 8, 3), np.uint8))
    compile_example(model)
    head = model.layers[-1].layers[-1]
    for name, bias in (("dark", [9.0, 0.0]), ("light", [0.0, 9.0])):
        head.set_weights([np.zeros(head.kernel.shape), np.array(bias)])
        model.save_weights(tmp_path / f"{name}.weights.h5")
    capsys.readouterr()
    evaluate(photographs, tmp_path)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {row["weights"]: row["accuracy"] for row in rows}
    assert set(found) == {"0.0001", "0.0002", "dark", "light"}
    assert (found["dark"], found["light"]) == (9 / 12, 3 / 12)


@pytest.mark.processes
def test_ours_is_trained_for_the_time_and_measured_on_the_way(photographs, tmp_path):
    """With the example's result in place, so that only ours is trained, and half of a start of ours
    that was cut off."""
    there = tmp_path / "example-0.4-minutes-seed-0" / "accuracy.json"
    there.parent.mkdir()
    origin = {"seed": 0, "data": str(photographs)}
    there.write_text(json.dumps(training("example", (0.4, 0.5), final=0.5) | origin))
    left = tmp_path / "ours-0.4-minutes-seed-0" / "run" / "config.yaml"
    left.parent.mkdir(parents=True)
    left.write_text(dump_config(Config(seed=7)))
    command = [
        "accuracy", "digits", "data.source=image_folder", "model.depth=1",
        "train.evaluate_every_epochs=10", "--data", photographs, "--minutes=0.4",
        "--out", tmp_path, "--json",
    ]  # fmt: skip
    done = vit_process(*command, start=("-m", "benchmarks"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    ours, theirs = found["runs"]
    assert theirs["final"] == 0.5
    assert all(0 < minutes <= 0.4 for minutes, _ in ours["curve"])
    assert ours["marks"][-1] == [0.4, ours["curve"][-1][1]]
    assert ours["final"] in [accuracy for _, accuracy in ours["curve"]]
    assert ours["steps"] > 1
    assert (tmp_path / "accuracy.png").is_file()

    other = vit(*command, "optim.base_lr=1e-4", command=main)
    assert other.returncode == 2
    assert "was measured with settings" in other.stderr
    assert "give another --out" in other.stderr

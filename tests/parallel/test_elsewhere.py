"""A run of two processes on another machine: its folder is enough, and its data set has gone."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from jobs.cli import main
from tests.parallel.launches import end, needs_horovod
from tests.parallel.trainings import Training

pytestmark = pytest.mark.processes

RECIPE = """
seed: 3
data: {source: image_folder, path: PHOTOS, image_size: 8, global_batch_size: 12}
model: {variant: Ti/4, width: 16, depth: 1, num_heads: 2, mlp_dim: 32}
optim: {base_lr: 2e-2}
train: {max_steps: 16, log_every_steps: 8, evaluate_every_steps: 16}
distribute: {runtime: RUNTIME, intra_op_threads: 1}
monitor: {report: false, pictures: false}
"""
COLORS = {"blue": (20, 20, 200), "green": (20, 200, 20), "red": (200, 20, 20)}


def draw_photos(root, seed, count):
    draw = np.random.default_rng(seed)
    for name, color in COLORS.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(np.array(color) + draw.integers(-15, 15, (8, 8, 3)), 0, 255)
            Image.fromarray(pixels.astype("uint8")).save(root / name / f"{i}.png")


@pytest.fixture(params=[pytest.param("horovod", marks=needs_horovod), "multi_worker"])
def moved(request, vit, tmp_path):
    """The run folder after it was moved; neither its data set nor its recipe is there."""
    place = tmp_path / "trained here"
    for split in ("train", "validation"):
        draw_photos(place / "photos" / split, 0, 8)
    recipe = place / "recipe.yaml"
    text = RECIPE.replace("PHOTOS", f'"{place}/photos"').replace("RUNTIME", request.param)
    recipe.write_text(text)
    launch = [
        "launch",
        "--hosts",
        "localhost",
        "--processes-per-node",
        2,
        "--runtime",
        request.param,
        "--",
    ]
    own = [sys.executable, "-m", "jobs.cli"]
    command = [*own, *launch, *own, "train", recipe, f"run.dir={place / 'run'}"]
    Training(vit, tmp_path / "log", command).succeed()
    shutil.move(place / "run", tmp_path / "run")
    shutil.rmtree(place)
    return tmp_path / "run"


def say(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_evaluate_report_and_predict_need_the_run_folder_only(moved, vit, tmp_path, capsys):
    other = tmp_path / "other"
    draw_photos(other, 1, 10)
    code, out, err = say(capsys, "evaluate", moved, "--data", other, "--json")
    assert code == 0, err
    alone = json.loads(out)
    assert (alone["examples"], alone["same_images"]) == (30, False)
    assert alone["accuracy"] > 0.9

    config = moved / "config.yaml"
    runtime = "multi_worker" if "multi_worker" in config.read_text() else "horovod"
    if runtime == "multi_worker":  # the run folder is the same, whichever runtime trained it
        check_other_verbs(moved, other, capsys)

    # Two processes evaluate it as well, though its batch does not divide over them.
    config.write_text(config.read_text().replace("batch_size: 12", "batch_size: 13"))
    command = [sys.executable, "-m", "jobs.cli", "evaluate", str(moved), "--data", str(other)]
    arguments = f"--hosts localhost --processes-per-node 2 --runtime {runtime}"
    code, out, err = end(vit.start(arguments, command=[*command, "--json"]), 240)
    assert code == 0, err
    row = next(line for line in out.splitlines() if '"same_images"' in line)
    two = json.loads(row[row.index("{") :])
    assert two["accuracy"] == alone["accuracy"]
    assert two["loss"] == pytest.approx(alone["loss"], rel=1e-5)


def check_other_verbs(moved, other, capsys):
    code, out, err = say(capsys, "evaluate", moved)
    assert (code, out) == (3, "")
    assert "--data PATH" in err

    code, out, err = say(capsys, "report", moved)
    assert code == 0, err
    assert "the data set of the run is not at" in err
    assert (moved / "report.html").is_file()

    code, out, err = say(capsys, "predict", moved, other / "red/3.png", "--json")
    assert code == 0, err
    assert json.loads(out)["top"][0]["class"] == "red"

    code, out, err = say(capsys, "export", moved, "--format", "safetensors")
    assert code == 0, err
    assert (moved / "export-safetensors").is_dir()

"""Commands on a run folder of somebody else: nothing it names is run, opened or overwritten."""

import json
import os
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.jobs.commands import ROOT, vit, vit_process

pytestmark = pytest.mark.processes

EVENTS = "events.out.tfevents.1700000000.0"


@pytest.fixture
def run(digits_run, tmp_path):
    return shutil.copytree(digits_run, tmp_path / "run")


@pytest.fixture
def home(tmp_path):
    """Files of the user, none of which may change."""
    home = tmp_path / "home"
    for name in ("bashrc", f"curves/train/{EVENTS}", f"curves/report/{EVENTS}"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("precious")
    yield home
    found = [path.read_text() for path in home.rglob("*") if path.is_file()]
    assert found == ["precious"] * 3


def one_message(done, verb):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "is a link out of the run folder" in line]
    assert len(lines) == 1
    return lines[0]


def train(run, *settings):
    # The settings of `digits_run`.
    settings = ("train.max_steps=60", "model.depth=2", "monitor.report=false")
    return ("train", "digits", *settings, f"run.dir={run}")


def commands(run):
    return {
        "train": train(run),
        "report": ("report", run, "--no-examples"),
        "export": ("export", run, "--format", "safetensors"),
        "board": ("board", run),
    }


@pytest.mark.parametrize("verb", ["train", "report", "export", "board"])
def test_linked_curves_are_refused_and_survive(run, home, verb):
    shutil.rmtree(run / "tensorboard")
    (run / "tensorboard").symlink_to(home / "curves")
    if verb == "train":
        (run / "outcome.json").unlink()  # it resumes
    message = one_message(vit(*commands(run)[verb]), verb)
    assert str(run / "tensorboard") in message
    assert str(home / "curves") in message


def test_a_linked_report_is_refused_and_what_it_leads_to_survives(run, home):
    (run / "report.html").symlink_to(home / "bashrc")
    one_message(vit("report", run, "--no-examples"), "report")


def test_names_of_earlier_versions_are_not_written_to(run, home):
    for number in range(os.getpid(), os.getpid() + 400):
        (run / f".new-{number}-report.html").symlink_to(home / "bashrc")
    done = vit("report", run, "--no-examples")
    assert done.returncode == 0, done.stderr


EVIL = """
import pathlib
pathlib.Path({marker!r}).touch()
def make():
    raise SystemExit("callbacks of a run were made")
"""


def test_code_that_a_run_names_is_not_imported_by_any_verb(run, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    marker = tmp_path / "marker"
    (work / "evil.py").write_text(EVIL.format(marker=str(marker)))
    tree = yaml.safe_load((run / "config.yaml").read_text())
    tree["train"]["callbacks"] = ["evil:make"]
    (run / "config.yaml").write_text(yaml.safe_dump(tree))
    image = tmp_path / "image.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    (run / "outcome.json").unlink()
    for command in (
        ("evaluate", run, "--json"),
        ("report", run),
        ("export", run, "--format", "safetensors"),
        ("predict", run, image),
        train(run),  # resumes, with a recipe that names no callbacks
    ):
        done = vit_process(
            *command, cwd=work, start=("-c", START.format(root=str(ROOT), work=str(work)))
        )
        assert done.returncode == 0, done.stderr
        assert not marker.exists(), command


# The current folder is searched for modules, as for `train.callbacks`.
START = """
import sys
sys.path[:0] = [{root!r}, {work!r}]
from jobs.cli import run_process
run_process()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_the_data_of_another_users_run_must_be_named(run, tmp_path):
    for label in range(10):
        (tmp_path / f"data/{label}").mkdir(parents=True)
        for i in range(3):
            image = np.full((8, 8, 3), label + i, np.uint8)
            Image.fromarray(image).save(tmp_path / f"data/{label}/{i}.png")
    tree = yaml.safe_load((run / "config.yaml").read_text())
    tree["data"] |= {"source": "image_folder", "path": str(tmp_path / "data")}
    (run / "config.yaml").write_text(yaml.safe_dump(tree))
    os.chown(run / "config.yaml", 12345, 12345)
    done = vit("evaluate", run)
    assert done.returncode == 2, done.stderr
    assert "belongs to another user" in done.stderr
    assert "--data PATH" in done.stderr
    done = vit("evaluate", run, "--data", tmp_path / "data", "--json")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("limit", [10, 100])
def test_limits_are_those_of_the_command_line(run, tmp_path, limit):
    tree = yaml.safe_load((run / "config.yaml").read_text())
    tree["data"]["max_pixels"] = 10**9
    (run / "config.yaml").write_text(yaml.safe_dump(tree))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "image.png")
    done = vit("predict", run, tmp_path / "image.png", "--set", f"data.max_pixels={limit}")
    assert done.returncode == (3 if limit < 64 else 0), done.stderr


def test_a_forged_best_step_is_one_error(run):
    (newest,) = sorted((run / "checkpoints").glob("step-*"))[-1:]
    state = json.loads((newest / "state.json").read_text())
    state["progress"]["best_step"] = -1
    from pipeline.runs.checkpoints.store import _manifest, _write_json

    _write_json(newest / "state.json", state)
    (newest / "manifest.json").unlink()
    _write_json(newest / "manifest.json", _manifest(newest))
    done = vit("evaluate", run)
    assert done.returncode == 1
    assert "the value of 'best_step' is invalid" in done.stderr
    assert "Traceback" not in done.stderr

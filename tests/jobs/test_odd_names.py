"""Names of files, classes and folders that are not UTF-8 are shown escaped everywhere."""

import csv
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.cli import main
from tests.jobs.commands import vit_process

pytestmark = pytest.mark.processes

TINY = (
    "train.max_steps=2", "train.evaluate_every_steps=2", "train.log_every_steps=1",
    "data.global_batch_size=8", "data.on_bad_image=skip", "data.source=image_folder",
    "model.width=16", "model.depth=1", "model.num_heads=2", "model.mlp_dim=32",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on a data set, both in folders whose names are not UTF-8, with such names inside."""
    place = os.fsencode(tmp_path_factory.mktemp("odd")) + b"/\xe9"
    rng = np.random.default_rng(0)
    for split, count in ((b"train", 10), (b"test", 3)):
        for number, name in enumerate((b"caf\xe9", b"dog")):
            folder = place + b"/set/" + split + b"/" + name
            os.makedirs(folder)
            for i in range(count):
                pixels = rng.integers(0, 128, (8, 8, 3)) + 100 * number
                Image.fromarray(pixels.astype(np.uint8)).save(os.fsdecode(folder) + f"/{i}.png")
            os.rename(folder + b"/0.png", folder + b"/\xff.png")
    with open(place + b"/set/train/dog/bad\xfe.png", "wb") as file:
        file.write(b"no image")
    name = os.fsdecode(place)
    done = vit_process("train", "digits", f"data.path={name}/set", f"run.dir={name}/run", *TINY)
    assert done.returncode == 0, done.stderr
    return name


@pytest.fixture
def here(monkeypatch):
    """Runs a command in this process, whose output is escaped as `vit` sets it up."""

    def run(*arguments):
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace") for _ in "12")
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        code = main([str(argument) for argument in arguments])
        monkeypatch.undo()
        texts = []
        for stream in (out, err):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode())
        return code, *texts

    return run


def test_a_run_records_the_escaped_names_as_utf_8(place):
    classes = json.loads(Path(f"{place}/run/dataset.json").read_text(encoding="utf-8"))["classes"]
    assert classes == ["caf\\udce9", "dog"]
    skipped = Path(f"{place}/run/skipped.txt").read_text(encoding="utf-8")
    assert "/set/train/dog/bad\\udcfe.png" in skipped
    page = Path(f"{place}/run/report.html").read_text(encoding="utf-8")
    assert "caf\\udce9" in page


def test_a_run_is_evaluated_by_the_names_it_recorded(place, here):
    code, out, err = here("evaluate", f"{place}/run", "--details", "--html", f"{place}/page.html")
    assert code == 0, err
    assert "caf\\udce9" in out
    assert "caf\\udce9" in Path(f"{place}/page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_predictions_name_the_files_and_classes_escaped(place, form, here):
    page = f"{place}/gallery{form}.html"
    command = "predict", f"{place}/run", f"{place}/set/test", form, "--gallery", page
    if form == "--json":
        done = vit_process(*command)  # a process of its own, which escapes what it prints
        assert done.returncode == 0, done.stderr
        rows = list(map(json.loads, done.stdout.splitlines()))
        images, classes = [r["image"] for r in rows], [t["class"] for r in rows for t in r["top"]]
    else:
        code, out, err = here(*command)
        assert code == 0, err
        rows = list(csv.DictReader(io.StringIO(out)))
        images, classes = [r["image"] for r in rows], [r["class_1"] for r in rows]
        classes += [r["class_2"] for r in rows]
    assert len([name for name in images if name.endswith("/caf\\udce9/\\udcff.png")]) == 1
    assert set(classes) == {"caf\\udce9", "dog"}
    assert "caf\\udce9/\\udcff.png" in Path(page).read_text(encoding="utf-8")


def test_a_set_is_prepared_into_a_folder_whose_name_is_utf_8(place, here):
    code, _, err = here("prepare", f"{place}/set", f"{place}/out", "data.on_bad_image=skip")
    assert code == 2
    assert "\\udce9/out is not UTF-8" in err
    assert "Traceback" not in err
    folder = Path(place).parent / "out"
    code, _, err = here("prepare", f"{place}/set", folder, "data.on_bad_image=skip")
    assert code == 0, err
    unreadable = (folder / "unreadable.txt").read_text(encoding="utf-8")
    assert "\\udce9/set/train/dog/bad\\udcfe.png\t" in unreadable

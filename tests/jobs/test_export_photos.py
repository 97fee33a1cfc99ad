"""Exports of a run on photographs, in every format, as docs/export.md shows: without its data."""

import contextlib
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from jobs.cli import main
from tests.jobs.commands import ROOT, vit

pytestmark = pytest.mark.processes

TINY = (
    "model.variant=digits", "model.width=16", "model.depth=1", "model.num_heads=2",
    "model.mlp_dim=32", "model.patch_size=8", "model.stem=patches", "data.image_size=32",
    "data.global_batch_size=8", "train.max_steps=40", "optim.base_lr=0.01",
    "train.precision=float32", "monitor.pictures=false", "monitor.report=false",
)  # fmt: skip
PLACES = {
    "saved_model": "export", "keras": "export.keras", "onnx": "export.onnx",
    "safetensors": "export-safetensors",
}  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with runs/photos, trained on 4:2:0 JPEGs that were deleted, and with photo.jpg."""
    work = tmp_path_factory.mktemp("photos")
    photos = [Image.fromarray(image) for image in load_sample_images().images]
    draw = np.random.default_rng(0)
    for split, count in (("train", 8), ("validation", 2)):
        for label, photo in zip(("temple", "flower"), photos, strict=True):
            folder = work / "set" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                left, top = draw.integers(0, 80, 2).tolist()
                part = photo.crop((left, top, left + 500, top + 340))
                part.save(folder / f"{i}.jpg", quality=90)
    done = vit("train", "image_folder", f"data.path={work}/set", f"run.dir={work}/runs/photos",
               *TINY)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "crop" in (work / "runs/photos/config.yaml").read_text()
    shutil.rmtree(work / "set")
    exif = Image.Exif()
    exif[0x0112] = 6
    photos[1].resize((900, 560)).save(work / "photo.jpg", quality=90, exif=exif)
    return work


@pytest.fixture(scope="module")
def exported(work):
    said = {}
    for form in PLACES:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main(["export", str(work / "runs/photos"), "--format", form]) == 0
        said[form] = out.getvalue()
    return said


def predicted(capsys, model, image):
    assert main(["predict", str(model), str(image), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return {one["class"]: one["probability"] for one in json.loads(line)["top"]}


@pytest.mark.parametrize("form", [*PLACES])
def test_every_format_is_exported_without_the_data(form, work, exported, capsys):
    assert re.search(r"2 classes.*loaded again, \d+ generated images within", exported[form])
    run = work / "runs/photos"
    own, other = (predicted(capsys, path, work / "photo.jpg") for path in (run, run / PLACES[form]))
    assert list(own) == list(other)
    assert max(abs(own[name] - other[name]) for name in own) < 1e-5


def documented_programs():
    """The Python programs of docs/export.md, by the format that they read."""
    text = (ROOT / "docs/export.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    to_pixels = next(block for block in blocks if "def to_pixels" in block)
    found = {}
    for form in ("saved_model", "keras", "onnx"):
        path = f'"runs/photos/{PLACES[form]}"'
        program = next(block for block in blocks if path in block)
        assert len(program.splitlines()) <= 10
        found[form] = program if form == "saved_model" else to_pixels + program
    return found


@pytest.mark.parametrize("form", ["saved_model", "keras", "onnx"])
def test_the_documented_lines_give_the_answers_of_predict(
    form, work, exported, capsys, monkeypatch
):
    monkeypatch.chdir(work)
    expected = predicted(capsys, "runs/photos", "photo.jpg")
    exec(compile(documented_programs()[form], "docs/export.md", "exec"), {})  # noqa: S102
    lines = capsys.readouterr().out.splitlines()
    said = {name: float(share) / 100 for share, name in (line.split("%  ") for line in lines)}
    assert list(said) == list(expected)
    # The lines print two digits, and Pillow's pixels may differ by one level.
    tolerance = 0.0001 if form == "saved_model" else 0.01
    assert max(abs(said[name] - expected[name]) for name in expected) < tolerance


@pytest.mark.parametrize(
    ("height", "width"), [(40, 60), (90, 61), (20, 30), (340, 500), (560, 900), (1200, 1600)]
)
@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_documented_pixels_are_those_of_predict(height, width, resize, kind, tmp_path):
    from pipeline.config import DataConfig
    from pipeline.data.images import load_image

    photo = Image.fromarray(load_sample_images().images[0]).resize((width, height))
    file = tmp_path / "a"
    photo.save(file, kind)
    program = documented_programs()["keras"]
    names = {}
    exec(program[: program.index("import json")], names)  # noqa: S102
    settings = {"image_size": 32, "resize": resize, "crop_fraction": 0.875}
    theirs = names["to_pixels"](file, **settings, antialias=True).astype(int)
    config = DataConfig(source="image_folder", **settings)
    difference = np.abs(theirs - load_image(file.read_bytes(), "", config))
    assert difference.max() <= 1

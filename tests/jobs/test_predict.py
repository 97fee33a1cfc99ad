"""`vit predict`: from a run and from every format of an export, on files, folders and patterns."""

import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser

import google_crc32c
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from jobs.cli import main

pytestmark = pytest.mark.processes

COUNT = 40  # more than a batch


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Digits as PNG files in two folders, and what is none."""
    folder = tmp_path_factory.mktemp("photos")
    for i, digit in enumerate(load_digits().images[:COUNT]):
        path = folder / "ab"[i % 2] / f"{i:03d} é&<b>.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.uint8(digit * 15)).save(path)
    (folder / "a/notes.txt").write_text("no image")
    (folder / "a/@eaDir").mkdir()
    (folder / "a/@eaDir/thumbnail.jpg").write_text("skipped, as in training")
    return folder


def predict(capsys, *arguments):
    code = main(["predict", *map(str, arguments)])
    done = capsys.readouterr()
    return code, done.out, done.err


def answers(text):
    return {one["image"]: one["top"] for one in map(json.loads, text.splitlines())}


@pytest.fixture(scope="module")
def expected(digits_run, photos):
    """Probabilities by file, of NumPy's and Keras's own operations on the run's checkpoint."""
    import keras

    from pipeline.runs.folder import RunFolder
    from pipeline.training.best_weights import load_model

    folder = RunFolder(digits_run)
    model, _ = load_model(folder, folder.config())
    facts = folder.dataset()
    said = {}
    for path in sorted(photos.rglob("*.png")):
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
        pixels = (pixels - np.float32(facts["mean"])) / np.float32(facts["std"])
        logits = keras.ops.convert_to_numpy(model(pixels[None], training=False))[0]
        powers = np.exp(logits - logits.max())
        said[str(path)] = dict(zip(facts["classes"], powers / powers.sum(), strict=True))
    return said


def test_a_folder_is_gone_through_in_order(digits_run, photos, expected, capsys):
    code, out, _ = predict(capsys, digits_run, photos, "--json", "--top", "3")
    assert code == 0
    got = answers(out)
    assert list(got) == list(expected)  # sorted by path, images alone
    for name, top in got.items():
        own = sorted(expected[name].values(), reverse=True)[:3]
        assert [t["probability"] for t in top] == pytest.approx(own, abs=1e-5)
        for t in top:
            assert t["probability"] == pytest.approx(expected[name][t["class"]], abs=1e-5)


@pytest.mark.parametrize("form", ["saved_model", "onnx", "keras", "safetensors"])
def test_every_export_answers_as_the_run(form, digits_run, photos, expected, tmp_path, capsys):
    out = tmp_path / "model.keras"
    assert main(["export", str(digits_run), "--format", form, "--out", str(out)]) == 0
    capsys.readouterr()
    code, said, _ = predict(capsys, out, photos / "a", "--json", "--top", "10")
    assert code == 0
    got = answers(said)
    assert list(got) == [name for name in expected if "/a/" in name]
    for name, top in got.items():
        for t in top:
            assert t["probability"] == pytest.approx(expected[name][t["class"]], abs=1e-5)


def test_what_cannot_be_read_is_named_and_the_rest_keeps_its_order(
    digits_run, photos, tmp_path, capsys
):
    broken, empty = tmp_path / "broken.png", tmp_path / "empty"
    broken.write_text("no image")
    empty.mkdir()
    given = [photos / "b/001 é&<b>.png", broken, tmp_path / "gone.png", empty,
             tmp_path / "*.gif", photos / "a/00*.png"]  # fmt: skip
    code, out, err = predict(capsys, digits_run, *given, "--csv")
    assert code == 3
    rows = list(csv.reader(io.StringIO(out)))
    assert rows[0][:3] == ["image", "class_1", "probability_1"]
    assert len(rows[0]) == 11
    ours = sorted(str(path) for path in photos.glob("a/00*.png"))
    assert [row[0] for row in rows[1:]] == [str(given[0]), *ours]
    named = err.splitlines()
    assert len(named) == 4
    for line, (path, why) in zip(
        named,
        [
            (broken, ""),
            (given[2], "No such file"),
            (empty, "no images in this folder"),
            (given[4], "no file matches"),
        ],
        strict=True,
    ):
        assert line.startswith("vit predict: cannot read ")
        assert "data." not in line  # a setting, which predict takes none of
        assert str(path) in line
        assert why in line


@pytest.mark.parametrize("damaged", ["newest", "best"])
@pytest.mark.parametrize("form", ["--csv", "--json"])
def test_a_damaged_checkpoint_is_told_on_standard_error_only(
    damaged, form, digits_run, photos, tmp_path, capsys
):
    run = shutil.copytree(digits_run, tmp_path / "run")
    steps = sorted((run / "checkpoints").iterdir())
    if damaged == "best":  # of an older step than the newest
        state = steps[-1] / "state.json"
        state.write_text(re.sub(r'"best_step": \d+', '"best_step": 7', state.read_text()))
        manifest = json.loads((steps[-1] / "manifest.json").read_text())
        checksum = google_crc32c.Checksum(state.read_bytes()).hexdigest().decode()
        manifest["state.json"] = [state.stat().st_size, checksum]
        (steps[-1] / "manifest.json").write_text(json.dumps(manifest))
    else:
        shutil.copytree(steps[-1], run / "checkpoints/step-00000061")
        (run / "checkpoints/step-00000061/model.safetensors").write_bytes(b"")
    code, out, err = predict(capsys, run, photos / "a", form)
    assert code == 0
    lines = list(csv.reader(io.StringIO(out))) if form == "--csv" else answers(out)
    assert len(lines) == COUNT // 2 + (form == "--csv")
    assert "damaged" not in out
    message = {"newest": "trying the previous one", "best": "using the newest weights"}[damaged]
    assert any(line.startswith("vit predict: ") and message in line for line in err.splitlines())


def test_several_images_have_a_line_each(digits_run, photos, capsys):
    code, out, _ = predict(capsys, digits_run, photos / "a")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == COUNT // 2
    assert all(line.count("%") == 2 and ".png" in line for line in lines)


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.images, self.elsewhere, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "img":
            self.images.append(given)
        for name in ("src", "href"):
            if name in given and not given[name].startswith("data:"):
                self.elsewhere.append(given[name])

    def handle_data(self, data):
        self.text.append(data)


def test_the_gallery_shows_each_image_with_its_answer(digits_run, photos, tmp_path, capsys):
    broken, page = tmp_path / "broken.png", tmp_path / "new" / "gallery.html"
    broken.write_text("no image")
    code, out, err = predict(
        capsys, digits_run, photos / "a", broken, "--gallery", page, "--json", "--top", "2"
    )
    assert code == 3
    assert str(page) in err
    parsed = _Page()
    parsed.feed(page.read_text(encoding="utf-8"))
    got = answers(out)
    assert [image["alt"] for image in parsed.images] == [
        f"{name}: {top[0]['class']} with {top[0]['probability']:.1%}" for name, top in got.items()
    ]
    assert parsed.elsewhere == []
    text = " ".join(parsed.text)
    assert "000 é&<b>.png" in text  # and no element b
    assert "cannot read" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top", "0"], "--top must be at least 1"),
        (["--gallery", "."], "is a folder"),
    ],
)
def test_wrong_options_are_refused(digits_run, photos, arguments, message, capsys):
    code, _, err = predict(capsys, digits_run, photos, *arguments)
    assert code == 2
    assert message in err


def test_what_is_no_model_is_refused(photos, tmp_path, capsys):
    code, _, err = predict(capsys, tmp_path, photos)
    assert code == 2
    assert "neither a run folder nor an export" in err

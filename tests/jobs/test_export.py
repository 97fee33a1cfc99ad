"""`vit export`, and the model it writes as somebody uses it who has TensorFlow alone."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from jobs.cli import main
from tests.jobs.commands import vit

pytestmark = pytest.mark.processes

# No module of this project: the folder is not on the path.
USE = """
import json, sys
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
images = tf.constant([open(name, "rb").read() for name in sys.argv[2:]])
answer = model.signatures["serving_default"](images=images)
print(json.dumps({"classes": [c.decode() for c in answer["classes"].numpy()],
                  "probabilities": answer["probabilities"].numpy().tolist(),
                  "ours": [m for m in sys.modules if m.split(".")[0] in ("jobs", "pipeline")]}))
"""


@pytest.fixture(scope="module")
def run(digits_run, tmp_path_factory):
    """A copy, since exports are written into it."""
    folder = tmp_path_factory.mktemp("export") / "run"
    shutil.copytree(digits_run, folder)
    return folder


@pytest.fixture(scope="module")
def exported(run):
    done = vit("export", run)
    assert done.returncode == 0, done.stderr
    return run / "export", done.stdout


def write_digits(folder, count=6):
    files = []
    for i, digit in enumerate(load_digits().images[:count]):
        pixels = np.repeat(np.uint8(digit * 15)[..., None], 3, axis=2)
        files.append(folder / f"{i}.png")
        Image.fromarray(pixels).save(files[-1])
    return files


@pytest.mark.parametrize("form", ["onnx", "keras", "safetensors"])
def test_each_format_goes_to_a_place_of_its_own_and_leaves_nothing_else(form, run, capsys):
    place = {"onnx": "export.onnx", "keras": "export.keras", "safetensors": "export-safetensors"}
    before = set(os.listdir(run))
    assert main(["export", str(run), "--format", form]) == 0
    assert set(os.listdir(run)) - before == {place[form]}
    said = capsys.readouterr().out
    assert (
        f"{run / place[form]}: 10 classes, weights of step 60; loaded again, 12 generated images"
        in said
    )


def test_it_says_what_it_wrote_and_how_close_it_is(exported):
    folder, said = exported
    assert f"{folder}: 10 classes, weights of step 60" in said
    assert "12 generated images and 32 of digits, test" in said


def test_tensorflow_alone_reads_it_and_answers_as_vit_predict_does(exported, run, tmp_path):
    files = write_digits(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", USE, str(exported[0]), *map(str, files)],
        cwd=tmp_path, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        text=True, capture_output=True, check=True, timeout=200,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert answer["ours"] == []
    predicted = vit("predict", run, *files, "--json")
    for line, row in zip(predicted.stdout.splitlines(), answer["probabilities"], strict=True):
        named = dict(zip(answer["classes"], row, strict=True))
        assert sum(row) == pytest.approx(1, abs=1e-5)
        for top in json.loads(line)["top"]:
            assert named[top["class"]] == pytest.approx(top["probability"], abs=1e-5)


def test_jpegs_of_other_sizes_and_grays_are_taken(exported, tmp_path):
    import tensorflow as tf

    contents = []
    for mode, size in (("RGB", (40, 30)), ("L", (8, 8))):
        stream = io.BytesIO()
        Image.new(mode, size, 90).save(stream, "JPEG")
        contents.append(stream.getvalue())
    model = tf.saved_model.load(str(exported[0]))
    signature = model.signatures["serving_default"]
    # Digits are not resized: what has another size is refused, not misread.
    with pytest.raises(tf.errors.InvalidArgumentError):
        signature(images=tf.constant(contents[:1]))
    assert signature(images=tf.constant(contents[1:]))["probabilities"].shape == (1, 10)


@pytest.mark.parametrize("resize", ["squash", "none"])
def test_images_that_the_run_refuses_are_left_out_of_the_comparison(resize, tmp_path):
    from pipeline.config import load_config
    from pipeline.export.exported import Exported
    from pipeline.export.run_comparison import compare_with_run
    from pipeline.recipes import find_recipe

    for folder in (tmp_path / split / name for split in ("train", "validation") for name in "ab"):
        folder.mkdir(parents=True)
        files = write_digits(folder, 4)
        content = files[0].read_bytes()
        files[0].write_bytes(content[:-12])  # without IEND
        files[1].write_bytes(content[:-1] + b"x")  # IEND with a wrong checksum
        Image.new("RGB", (9, 9)).save(files[2])
    settings = [
        f"data.path={tmp_path}", "data.image_size=8", f"data.resize={resize}",
        "data.augment.resized_crop_min_area=null",
    ]  # fmt: skip
    config = load_config(find_recipe("image_folder"), settings)
    model = Exported(None, lambda pixels: np.zeros([len(pixels), 1]), None)
    compared, what = compare_with_run(config, model, foreign_data=None)
    left = 2 if resize == "none" else 4
    assert f" and {left} of " in what
    assert len(compared.contents) == len(compared.pixels) == int(what.split()[0]) + left


def test_what_is_there_is_not_overwritten(exported, run):
    done = vit("export", run)
    assert done.returncode == 2
    assert "exists already" in done.stderr


@pytest.mark.parametrize("form", ["saved_model", "onnx", "keras", "safetensors"])
def test_averaged_weights_differ_from_plain_ones(form, run, tmp_path):
    from pipeline.export.formats import load_export

    answers = []
    for which in ("averaged", "plain"):
        out = str(tmp_path / f"{which}.keras")
        assert main(["export", str(run), "--format", form, "--weights", which, "--out", out]) == 0
        answers.append(load_export(Path(out)).predict(np.zeros([1, 8, 8, 3], np.uint8)))
    assert not np.allclose(*answers)


@pytest.mark.parametrize("form", ["saved_model", "onnx", "keras", "safetensors"])
def test_a_full_disk_is_said_in_one_line_and_nothing_is_left(form, run, small_disk, capsys):
    filler = small_disk / "filler"
    filler.write_bytes(bytes(900_000))
    out = small_disk / "out.keras"
    assert main(["export", str(run), "--format", form, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vit export: cannot write {out}: ")
    assert "No space left" in line
    assert os.listdir(small_disk) == [filler.name]


@pytest.mark.parametrize("form", ["saved_model", "onnx", "keras", "safetensors"])
def test_a_model_that_answers_otherwise_is_not_kept(form, run, tmp_path):
    from pipeline.export.metadata import ExportMetadata
    from pipeline.export.write import ExportError, Reference, export
    from pipeline.runs.folder import RunFolder
    from pipeline.training.best_weights import load_model

    folder = RunFolder(run)
    model, step = load_model(folder, folder.config())
    facts = ExportMetadata.of_run(folder.config(), folder.dataset(), model.arch, step)
    contents = [file.read_bytes() for file in write_digits(tmp_path, 2)]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(c))) for c in contents])
    said_by_another = Reference(contents, pixels, np.full((2, 10), 0.1, np.float32))
    out = tmp_path / "out" / "a.keras"
    with pytest.raises(ExportError, match="was not kept"):
        export(form, model, facts, out, said_by_another)
    assert os.listdir(out.parent) == []


def test_keras_files_must_have_the_name_that_keras_reads(run, tmp_path, capsys):
    out = tmp_path / "model.bin"
    assert main(["export", str(run), "--format", "keras", "--out", str(out)]) == 2
    assert "ending in .keras" in capsys.readouterr().err


def test_without_tf2onnx_it_says_what_to_install(run, tmp_path, capsys, monkeypatch):
    from jobs import export
    from pipeline.export import packages

    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    # Nothing is loaded first, which takes seconds.
    monkeypatch.setattr(export, "import_tensorflow", lambda: pytest.fail("it was loaded"))
    out = tmp_path / "a.onnx"
    assert main(["export", str(run), "--format", "onnx", "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'vit-pipeline[onnx]'" in line
    assert "saved_model, keras, safetensors" in line


def test_an_error_of_a_format_names_one_that_works(run, tmp_path, capsys, monkeypatch):
    from pipeline.export import formats
    from pipeline.export.exported import ExportError

    def fail(model, facts, path):
        raise ExportError("it cannot be converted")

    for form in ("saved_model", "onnx"):
        monkeypatch.setitem(formats.FORMATS, form, formats.FORMATS[form]._replace(write=fail))
    out = tmp_path / "a.onnx"
    assert main(["export", str(run), "--format", "onnx", "--out", str(out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == ("vit export: it cannot be converted. --format safetensors works for this run")
    assert os.listdir(tmp_path) == []


def test_without_a_checkpoint_there_is_nothing_to_export(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("step-*", "export"))
    done = vit("export", copy)
    assert done.returncode == 2
    assert "has no checkpoint yet" in done.stderr

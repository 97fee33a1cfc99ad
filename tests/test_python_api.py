"""The Python API does what the verbs do, and gives the same numbers."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import pipeline
from jobs.cli import main
from pipeline.errors import SettingsError

SETTINGS = {
    "train.max_steps": 12,
    "train.evaluate_every_epochs": None,
    "train.evaluate_every_steps": 6,
    "checkpoint.every_epochs": 1,
    "monitor.report": False,
    "monitor.pictures": False,
    "data.augment": {"crop_padding": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api") / "run"
    return pipeline.train("digits", SETTINGS | {"run.dir": folder}, show_progress=False)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three digits as files, and one file that is not an image."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("images")
    pixels = (load_digits().images[:3] * 255 / 16).round().astype(np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).convert("RGB").save(folder / f"{number}.png")
    (folder / "3.png").write_bytes(b"not an image")
    return folder


def printed(capsys, *words):
    """The exit code, and the lines that `vit` printed to standard output."""
    code = main([str(word) for word in words])
    return code, capsys.readouterr().out.splitlines()


def rows(capsys, *words):
    _, lines = printed(capsys, *words)
    return [json.loads(line) for line in lines]


def test_train_returns_the_folder_and_the_metrics_that_the_command_prints(run, capsys):
    assert isinstance(run.folder, Path)
    overrides = ["run.dir=" + str(run.folder), "train.max_steps=12", "checkpoint.every_epochs=1",
                 "train.evaluate_every_epochs=null", "train.evaluate_every_steps=6",
                 "monitor.report=false", "monitor.pictures=false",
                 "data.augment={crop_padding: 1}"]  # fmt: skip
    code, lines = printed(capsys, "train", "digits", *overrides)
    assert code == 0
    test = run.test
    assert lines[1] == (
        f"test accuracy {test.accuracy:.2%}, top-5 {test.top_5_accuracy:.2%}, loss {test.loss:.4f}"
    )


def test_a_finished_run_is_returned_and_not_trained_again(run):
    again = pipeline.train("digits", SETTINGS | {"run.dir": run.folder})
    assert again == run


@pytest.mark.parametrize("split", ["test", "validation"])
def test_evaluate_gives_the_metrics_of_the_command_and_of_training(run, capsys, split):
    ours = pipeline.evaluate(run.folder, split=split)
    (theirs,) = rows(capsys, "evaluate", run.folder, "--split", split, "--json")
    for name in ("loss", "accuracy", "top_5_accuracy"):
        assert getattr(ours.metrics, name) == theirs[name]
        assert getattr(ours.metrics, name) == pytest.approx(getattr(getattr(run, split), name))
    assert (ours.examples, ours.skipped_examples) == (theirs["examples"], 0)
    assert (ours.split, ours.step, ours.same_images) == (split, run.step, True)


def test_evaluate_takes_the_test_split_by_default(run):
    assert pipeline.evaluate(run.folder).split == "test"


def test_predict_gives_the_classes_and_probabilities_of_the_command(run, images, capsys):
    ours = pipeline.predict(run.folder, images, top=3)
    theirs = rows(capsys, "predict", run.folder, images, "--json", "--top", "3")
    assert [prediction.image for prediction in ours] == [str(images / f"{i}.png") for i in range(4)]
    for prediction, row in zip(ours[:3], theirs, strict=True):
        assert prediction.problem is None
        assert prediction.top == tuple((one["class"], one["probability"]) for one in row["top"])
    assert ours[3].top == ()
    assert "3.png" in ours[3].problem


def test_a_loaded_model_is_a_keras_model_that_predicts_the_same(run, images):
    model = pipeline.load_model(run.folder)
    assert isinstance(model, keras.Model)
    pixels = np.asarray(Image.open(images / "0.png"), np.float32)
    logits = model(((pixels / 255 - 0.5) / 0.5)[None]).numpy()[0]
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    (prediction,) = pipeline.predict(run.folder, images / "0.png", top=10)
    expected = [probability for _, probability in sorted(prediction.top)]
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_a_recipe_may_be_a_path(run):
    recipe = run.folder / "config.yaml"
    assert pipeline.train(recipe, {"run.dir": run.folder}) == run


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pipeline.train("digitz"), "did you mean digits"),
        (lambda: pipeline.train("digits", {"train.epoch": 3}), r"train\.epochs"),
        (lambda: pipeline.evaluate("nowhere"), "not a run folder"),
        (lambda: pipeline.predict("nowhere", [], top=0), "top must be at least 1"),
    ],
)
def test_errors_are_those_of_the_commands(call, message):
    with pytest.raises(SettingsError, match=message):
        call()


def test_an_unknown_split_is_an_error_that_names_the_splits(run):
    with pytest.raises(SettingsError, match="it has train, validation, test"):
        pipeline.evaluate(run.folder, split="other")


@pytest.mark.processes
def test_importing_pipeline_imports_neither_tensorflow_nor_keras_nor_pydantic():
    code = (
        "import sys, pipeline; assert 'train' in dir(pipeline);"
        "sys.exit(bool({'tensorflow', 'keras', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert all(callable(getattr(pipeline, name)) for name in pipeline.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        pipeline.trian  # noqa: B018

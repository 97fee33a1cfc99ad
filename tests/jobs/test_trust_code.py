"""Code that the settings of a run folder name is imported only if the user says so."""

import sys

import numpy as np
import pytest
import yaml
from PIL import Image

import pipeline
from jobs.cli import main
from pipeline.errors import SettingsError
from pipeline.runs.folder import RunFolder
from pipeline.runs.saved_settings import read_settings
from tests.plugin_examples import SETTINGS, write_examples
from tests.training.runs import train

MODULES = ("my_source", "my_augmentation", "my_model", "my_loss")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with all plug-ins, and the folder of their modules."""
    folder = tmp_path_factory.mktemp("trained")
    write_examples(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        # Determinism needs one thread, which a process that uses TensorFlow cannot change to.
        train(folder, *SETTINGS, "monitor.report=false", "train.deterministic=false")
    return folder


@pytest.fixture
def run(trained, monkeypatch):
    """The run in the current folder of a process that has imported none of its modules."""
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(trained)
    return trained / "run"


def imported():
    return [name for name in MODULES if name in sys.modules]


@pytest.fixture(scope="module")
def image(trained):
    file = trained / "image.png"
    Image.fromarray(np.zeros([8, 8, 3], np.uint8)).save(file)
    return str(file)


def commands(run, image, out):
    return {
        "evaluate": ["evaluate", str(run)],
        "predict": ["predict", str(run), image],
        "export": ["export", str(run), "--out", str(out / "export")],
    }


@pytest.mark.parametrize("verb", ["evaluate", "predict", "export"])
def test_a_verb_does_not_import_code_of_a_run_and_says_what_to_do(
    run, image, tmp_path, capsys, verb
):
    assert main(commands(run, image, tmp_path)[verb]) == 2
    error = capsys.readouterr().err
    assert "model.builder=my_model:small_network" in error
    assert "--trust-code" in error
    assert "Traceback" not in error
    assert imported() == []


def test_a_report_leaves_out_what_needs_the_code(run, tmp_path, capsys):
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    assert "--trust-code" in capsys.readouterr().err
    assert imported() == []


@pytest.mark.parametrize(
    "call",
    [
        lambda run, image: pipeline.evaluate(run),
        lambda run, image: pipeline.load_model(run),
        lambda run, image: pipeline.predict(run, image),
    ],
)
def test_the_python_functions_do_not_import_it_either(run, image, call):
    with pytest.raises(SettingsError, match="trust_code=True"):
        call(run, image)
    assert imported() == []


def test_trusted_code_is_imported(run, image, tmp_path, capsys):
    for words in commands(run, image, tmp_path).values():
        assert main([*words, "--trust-code"]) == 0, capsys.readouterr().err
    assert "my_loss" not in imported()  # only training needs it
    capsys.readouterr()
    model = pipeline.load_model(run, trust_code=True)
    assert [variable.path for variable in model.variables][-1] == "head/bias"
    assert pipeline.evaluate(run, trust_code=True).examples == 24
    assert len(pipeline.predict(run, image, trust_code=True)[0].top) == 2
    assert main(["report", str(run), "--out", str(tmp_path / "report.html"), "--trust-code"]) == 0
    # The exported model needs no code of the user's.
    for name in MODULES:
        sys.modules.pop(name, None)
    assert pipeline.predict(tmp_path / "export", image)[0].problem is None
    assert imported() == []


@pytest.mark.parametrize("form", ["keras", "safetensors"])
def test_an_export_format_that_needs_a_known_network_says_so(run, tmp_path, capsys, form):
    out = tmp_path / ("export.keras" if form == "keras" else "export")
    code = main(["export", str(run), "--format", form, "--out", str(out), "--trust-code"])
    error = capsys.readouterr().err
    assert code == 1
    assert f"--format {form} is for the Vision Transformers" in error
    assert "--format saved_model works for this run" in error
    assert not out.exists()


@pytest.mark.parametrize("setting", ["data.source", "data.augment.extra", "optim.loss"])
def test_code_that_is_not_needed_is_not_taken_from_a_run(tmp_path, setting):
    *sections, name = setting.split(".")
    value = ["evil:make"] if name == "extra" else "evil:make"
    tree = {name: value}
    for section in reversed(sections):
        tree = {section: tree}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    config = read_settings(RunFolder(tmp_path), needs=())
    assert "evil" not in str(config)
    trusted = read_settings(RunFolder(tmp_path), trust_code=True)
    assert "evil:make" in str(trusted)

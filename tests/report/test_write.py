"""What a report takes from a run folder, and what it leaves where it is."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import SettingsError
from pipeline.report.prediction_metrics import evaluate_predictions
from pipeline.report.write import ReportError, best_step, gather, predict_examples, write_report
from pipeline.runs.folder import RunFolder
from pipeline.training.best_weights import restore_best
from pipeline.training.prediction_pass import predict
from tests.training.experiments import tiny
from tests.training.runs import train


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory):
    """The tiny run, trained, with its experiment at the best weights."""
    folder = tmp_path_factory.mktemp("report")
    train(folder)
    run = RunFolder(folder / "run")
    experiment = tiny(folder)
    assert restore_best(experiment, run) == best_step(run)
    predict_examples(experiment, run)
    return run, experiment


def test_predictions_sum_up_to_what_evaluation_says(looked_at):
    run, experiment = looked_at
    facts = gather(run)
    found = facts.predictions
    split = experiment.source.splits[found.split]
    expected = experiment.evaluate(found.split)
    assert found.index.tolist() == list(range(split.num_examples))
    np.testing.assert_array_equal(found.label, split.labels)
    assert np.mean(found.predicted == found.label) == pytest.approx(expected["accuracy"])
    assert found.loss.mean() == pytest.approx(expected["loss"], rel=1e-5)
    np.testing.assert_allclose(found.probability.sum(axis=1), 1, atol=1e-5)  # of 4 classes, all


def test_pictures_are_those_of_the_examples_that_are_named(looked_at):
    run, experiment = looked_at
    facts = gather(run)
    shown, split = facts.examples, experiment.source.splits[facts.predictions.split]
    np.testing.assert_array_equal(shown.image, split.images[shown.index])
    assert list(shown.name) == [split.name(i) for i in shown.index.tolist()]
    wanted = facts.predictions.worst(18) + facts.predictions.best(6)
    assert set(facts.predictions.index[wanted]) <= set(shown.index)
    labels = experiment.source.splits["train"].labels
    assert set(shown.augmented_label) == set(labels)


def test_predictions_that_are_not_whole_or_of_other_weights_are_left_out(looked_at):
    run, _ = looked_at
    whole = run.predictions.read_bytes()
    try:
        run.predictions.write_bytes(whole[: len(whole) // 2])
        assert gather(run).predictions is None
        run.predictions.write_bytes(whole)
        with np.load(run.predictions) as arrays:
            np.savez(run.predictions, **dict(arrays) | {"step": 1})
        facts = gather(run)
        assert (facts.predictions, facts.examples) == (None, None)
    finally:
        run.predictions.write_bytes(whole)
    assert gather(run).predictions is not None


def test_the_best_step_is_read_past_a_newest_state_that_is_damaged(looked_at):
    run, _ = looked_at
    expected = best_step(run)
    state = run.checkpoints / "step-00000020" / "state.json"
    text = state.read_text()
    try:
        state.write_text(text[:-5])
        assert best_step(run) in (expected, 10)
    finally:
        state.write_text(text)


def test_a_run_that_never_began_or_a_place_that_cannot_be_written_is_named(looked_at, tmp_path):
    run, _ = looked_at
    with pytest.raises(SettingsError, match="is not a run folder"):
        gather(RunFolder(tmp_path))
    (tmp_path / "page.html").mkdir()
    with pytest.raises(ReportError, match=r"cannot write .*page\.html: Is a directory"):
        write_report(run, tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]  # nothing half done is left


def test_the_page_says_that_metrics_have_damaged_lines_and_shows_the_others(looked_at):
    run, _ = looked_at
    text = run.metrics.read_text()
    before = gather(run)
    try:
        run.metrics.write_text("no row\n" + text)
        facts = gather(run)
        assert facts.rows == before.rows
        assert facts.left_out == ("1 damaged line(s) of metrics.jsonl.",)
    finally:
        run.metrics.write_text(text)


def test_where_the_best_checkpoint_is_damaged_the_weights_that_were_used_are_named(
    looked_at, tmp_path
):
    run = RunFolder(Path(shutil.copytree(looked_at[0].path, tmp_path / "run")))
    experiment = tiny(tmp_path)
    assert best_step(run) == 20
    (run.checkpoints / "step-00000020" / "model.safetensors").write_bytes(b"damaged")
    assert restore_best(experiment, run) == 17
    predicted = predict_examples(experiment, run)
    assert predicted.predictions.step == 17
    page = write_report(run, predicted=predicted).read_text()
    assert "weights of step 17" in page


def test_predictions_of_other_data_are_shown_and_not_kept(looked_at, tmp_path):
    run = RunFolder(Path(shutil.copytree(looked_at[0].path, tmp_path / "run")))
    kept = run.predictions.read_bytes(), run.examples.read_bytes()
    experiment = tiny(tmp_path, "data.num_examples=60")  # other images
    restore_best(experiment, run)
    predicted = predict_examples(experiment, run)
    assert not predicted.is_own
    assert (run.predictions.read_bytes(), run.examples.read_bytes()) == kept
    page = write_report(run, predicted=predicted).read_text()
    assert "of other data than the run recorded" in page


def test_a_row_of_nan_is_wrong_in_every_figure(looked_at, tmp_path):
    run, _ = looked_at
    experiment = tiny(tmp_path)
    restore_best(experiment, run)
    experiment.model.get_layer("head").kernel.assign(np.full((16, 4), np.nan))
    for variable in experiment.variables["average"].values():
        variable.assign(np.full(variable.shape, np.nan))
    expected = experiment.evaluate("test")
    said = predict(experiment, "test")
    assert (expected["accuracy"], expected["top_5_accuracy"]) == (0.0, 0.0)
    assert (said.top == -1).all()
    figures = evaluate_predictions(said, experiment.source.classes).metrics
    assert (figures["accuracy"], figures["top_5_accuracy"]) == (0.0, 0.0)
    assert np.isnan(expected["loss"])
    assert np.isnan(figures["loss"])

"""Figures of an evaluation, against scikit-learn's and a loop over the bins."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from pipeline.report.calibration import calibration_error, reliability
from pipeline.report.prediction_metrics import evaluate_predictions
from pipeline.training.predictions import Predictions

CLASSES = ["ant", "bee", "cat", "dog", "eel", "fox", "none of these"]


def predictions(count=400, seed=0):
    """Of random logits that know something of the label; nobody is of the last class."""
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 6, count).astype(np.int32)
    logits = draw.normal(size=(count, 7)) + 2 * np.eye(7)[label]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    top = np.argsort(-p, axis=1)[:, :5]
    own = np.take_along_axis(p, label[:, None].astype(int), 1)[:, 0]
    return Predictions(
        "test", 7, "", np.arange(count), label, top.astype(np.int32),
        np.take_along_axis(p, top, 1).astype(np.float32), own.astype(np.float32),
        -np.log(own).astype(np.float32),
    )  # fmt: skip


def test_bins_are_those_of_the_definition():
    draw = np.random.default_rng(3)
    confidence, right = draw.uniform(0.2, 1, 500), draw.uniform(size=500) < 0.6
    confidence[:3] = 1 / 15, 1.0, 2 / 15  # bounds belong to the bin below them
    error = 0.0
    for m, found in enumerate(reliability(confidence, right)):
        inside = [i for i in range(500) if m / 15 < confidence[i] <= (m + 1) / 15]
        assert found.examples == len(inside)
        assert (found.above, found.up_to) == pytest.approx((m / 15, (m + 1) / 15))
        if inside:
            assert found.confidence == pytest.approx(np.mean(confidence[inside]))
            assert found.accuracy == pytest.approx(np.mean(right[inside]))
            error += len(inside) / 500 * abs(np.mean(right[inside]) - np.mean(confidence[inside]))
    assert calibration_error(reliability(confidence, right)) == pytest.approx(error)


def test_a_model_that_is_right_as_often_as_it_says_has_no_error():
    confidence = np.repeat([0.25, 0.75], [400, 400])
    right = np.concatenate([np.arange(400) < 100, np.arange(400) < 300])
    assert calibration_error(reliability(confidence, right)) == pytest.approx(0)
    assert calibration_error(reliability(np.ones(10), np.zeros(10, bool))) == 1.0
    assert calibration_error(reliability(np.ones(0), np.zeros(0, bool))) is None


def test_classes_and_confusions_are_scikit_learn_s():
    said = predictions()
    found = evaluate_predictions(said, CLASSES).to_json()
    precision, recall, _, support = precision_recall_fscore_support(
        said.label, said.predicted, labels=range(7), zero_division=np.nan
    )
    rows = {row["class"]: row for row in found["classes"]}
    assert [row["class"] for row in found["classes"]][-1] == CLASSES[-1]  # without examples
    for i, name in enumerate(CLASSES):
        assert rows[name]["examples"] == support[i]
        for key, values in (("recall", recall), ("precision", precision)):
            expected = None if np.isnan(values[i]) else pytest.approx(values[i])
            assert rows[name][key] == expected
    matrix = np.zeros((7, 7), int)
    for is_a, taken_for, times in found["confusion"]:
        matrix[CLASSES.index(is_a), CLASSES.index(taken_for)] = times
    np.testing.assert_array_equal(
        matrix, confusion_matrix(said.label, said.predicted, labels=range(7))
    )


def test_lines_name_the_worst_first():
    found = evaluate_predictions(predictions(), CLASSES)
    lines = found.lines()
    head = next(i for i, line in enumerate(lines) if line.startswith("class"))
    shares = [float(line.split()[-2].rstrip("%")) for line in lines[head + 1 : head + 7]]
    assert shares == sorted(shares)
    assert not any("none of these" in line for line in lines[: head + 8])
    assert any("none of these" in line for line in found.lines(everything=True)[: head + 9])


def test_examples_for_which_no_class_is_predicted_are_wrong_and_named():
    said = predictions()
    none = np.arange(len(said.label)) % 7 == 0
    top, probability = said.top.copy(), said.probability.copy()
    top[none], probability[none] = -1, np.nan
    found = evaluate_predictions(replace(said, top=top, probability=probability), CLASSES)
    right = (said.predicted == said.label) & ~none
    assert found.metrics["accuracy"] == np.mean(right)
    rows = {row["class"]: row for row in found.class_rows()}
    for i, name in enumerate(CLASSES[:6]):
        own = said.label == i
        assert rows[name]["examples"] == own.sum()
        assert rows[name]["recall"] == pytest.approx(right[own].mean())
        taken = (said.predicted == i) & ~none
        assert rows[name]["precision"] == pytest.approx((said.label[taken] == i).mean())
    pairs = {(a, b): n for a, b, n in found.to_json()["confusion"]}
    assert pairs["ant", "no class (NaN)"] == (none & (said.label == 0)).sum()
    assert sum(b.examples for b in found.bins) == (~none).sum()
    assert any("no class (NaN)" in line for line in found.lines())

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, recall_score

from pipeline.report.confusion import (
    class_accuracy,
    confused_pairs,
    confusion_counts,
    worst_confusions,
)


@pytest.fixture(params=[3, 10, 1000])
def some(request):
    """Labels, predictions and the number of classes; some classes have no examples."""
    classes = request.param
    draw = np.random.default_rng(classes)
    label = draw.integers(0, classes - 1, 5 * classes).astype(np.int32)
    predicted = np.where(
        draw.random(label.size) < 0.5, label, draw.integers(0, classes, label.size)
    )
    return label, predicted.astype(np.int32), classes


def test_counts_are_those_of_scikit_learn(some):
    label, predicted, classes = some
    expected = confusion_matrix(label, predicted, labels=range(classes))
    counts = confusion_counts(label, predicted, classes)
    np.testing.assert_array_equal(counts.toarray(), expected)
    assert confused_pairs(counts) == np.count_nonzero(expected - np.diag(np.diag(expected)))


def test_accuracy_a_class_is_scikit_learns_recall(some):
    label, predicted, classes = some
    ours = class_accuracy(confusion_counts(label, predicted, classes))
    theirs = recall_score(
        label, predicted, labels=range(classes), average=None, zero_division=np.nan
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert np.isnan(ours[-1])  # the last class has no examples


def test_the_worst_confusions_are_the_largest_counts_beside_the_diagonal(some):
    label, predicted, classes = some
    worst = worst_confusions(confusion_counts(label, predicted, classes), 10)
    pairs, times = np.unique(
        np.stack([label, predicted], 1)[label != predicted], axis=0, return_counts=True
    )
    assert [c.times for c in worst] == sorted(times.tolist(), reverse=True)[:10]
    found = {tuple(pair): n for pair, n in zip(pairs.tolist(), times.tolist(), strict=True)}
    for c in worst:
        assert found[c.label, c.predicted] == c.times
        assert c.share == pytest.approx(c.times / np.count_nonzero(label == c.label))


def test_without_mistakes_there_are_none():
    counts = confusion_counts(np.array([0, 1, 1]), np.array([0, 1, 1]), 2)
    assert worst_confusions(counts, 5) == []

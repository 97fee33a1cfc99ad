import numpy as np

from pipeline.data.split import first_of_classes


def test_one_example_of_each_of_some_classes_spread_over_all():
    labels = np.repeat(np.arange(100, dtype=np.int32), 3)
    chosen = first_of_classes(labels, 5)
    assert [int(labels[i]) for i in chosen] == [0, 25, 50, 74, 99]
    assert all(i % 3 == 0 for i in chosen)  # the first of its class


def test_few_classes_show_several_examples_each():
    labels = np.array([1, 0, 1, 1, 0, 1], np.int32)
    assert first_of_classes(labels, 5) == [1, 4, 0, 2]

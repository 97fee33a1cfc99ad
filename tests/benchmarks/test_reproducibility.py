"""`python -m benchmarks reproducibility`: digests of runs, the table, and real trainings."""

import csv
import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.combinations import combinations
from benchmarks.command import main
from benchmarks.digit_files import write_digits
from benchmarks.reproducibility import line_of, row_of, select
from benchmarks.trained_bits import TrainedBits, digest_of_losses, digest_of_tensors
from tests.jobs.commands import vit, vit_process

BITS = TrainedBits("a" * 64, "b" * 64, "c" * 64)


def test_the_digest_of_tensors_is_that_of_their_bytes_in_the_order_of_names():
    one, two = np.array([1.5, -0.0], np.float32), np.array([[7]], np.int64)
    content = b"a <f4 (2,)\n" + one.tobytes() + b"b <i8 (1, 1)\n" + two.tobytes()
    expected = hashlib.sha256(content).hexdigest()
    assert digest_of_tensors({"a": one, "b": two}) == expected
    assert digest_of_tensors({"b": two, "a": one}) == expected


@pytest.mark.parametrize(
    "other",
    [{"a": np.array([1.0, 0.0], np.float32)},  # the sign of a zero
     {"a": np.array([np.nextafter(np.float32(1), np.float32(2)), -0.0], np.float32)},
     {"a": np.array([[1.0, -0.0]], np.float32)},
     {"a": np.array([1.0, -0.0])},
     {"b": np.array([1.0, -0.0], np.float32)}],
)  # fmt: skip
def test_every_bit_type_shape_and_name_changes_the_digest(other):
    assert digest_of_tensors(other) != digest_of_tensors({"a": np.array([1, -0.0], np.float32)})


def test_the_digest_of_losses_has_all_digits_and_ignores_the_order_of_rows_and_times():
    rows = [
        {"step": 2, "split": "train", "loss": 0.1, "time": 5},
        {"step": 1, "split": "train", "loss": 0.3},
    ]
    reversed_rows = [{**row, "time": 9} for row in reversed(rows)]
    assert digest_of_losses(rows) == digest_of_losses(reversed_rows)
    changed = [rows[0] | {"loss": np.nextafter(0.1, 1)}, rows[1]]
    assert digest_of_losses(changed) != digest_of_losses(rows)


def test_a_row_compares_all_digits_with_the_reference():
    combination, *_ = combinations()
    assert row_of(combination, 1.0, BITS, BITS)["result"] == "reference"
    same = TrainedBits(*BITS)
    assert row_of(combination, 1.0, same, BITS)["result"] == "same"
    for name in TrainedBits._fields:
        # It differs in a digit that the table does not show.
        other = BITS._replace(**{name: getattr(BITS, name)[:-1] + "0"})
        assert row_of(combination, 1.0, other, BITS)["result"] == "DIFFERENT"
    assert row_of(combination, 1.0, None, BITS)["result"] == "FAILED"


def test_a_line_shows_sixteen_digits():
    combination, *_ = combinations()
    line = line_of(row_of(combination, 41.6, BITS, BITS))
    cells = ["one process, 2 cores", "42", "a" * 16, "b" * 16, "c" * 16, "reference"]
    assert line == f"| {' | '.join(cells)} |"


def test_combinations_are_selected_by_patterns():
    assert [one.name for one in select("single-*,horovod-3,killed", cifar10=False)] == [
        "single-2", "single-1", "horovod-3", "killed"
    ]  # fmt: skip
    assert not any(one.data == "cifar10" for one in select("*", cifar10=False))
    assert len(select("cifar10-*", cifar10=True)) == 4
    names = [one.name for one in combinations()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--combinations=horovod-5",), "Received: 'horovod-5'"),
     (("--combinations=cifar10-*",), "Those of CIFAR-10 need --cifar10"),
     (("--combinations=cifar10-*", "--cifar10=nowhere.zip"), "cannot read nowhere.zip"),
     (("--cifar10-steps=0",), "--cifar10-steps must be at least 1")],
)  # fmt: skip
def test_wrong_arguments_are_explained(arguments, message):
    done = vit("reproducibility", *arguments, command=main)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_files_hold_all_digits_under_their_labels(tmp_path):
    with write_digits(tmp_path).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    digits = load_digits()
    assert len(rows) == len(digits.target)
    for row in rows[::100]:
        number = int(row["path"][-8:-4])
        assert row["path"] == f"{row['split']}/{row['label']}/{number:04d}.png"
        assert int(row["label"]) == digits.target[number]
        with Image.open(tmp_path / row["path"]) as image:
            np.testing.assert_allclose(image, digits.images[number] / 16 * 255, atol=0.5)


@pytest.mark.processes
def test_a_list_and_a_folder_train_the_same_bits_in_processes_of_their_own():
    done = vit_process(
        "reproducibility", "--epochs=0.5", "--combinations=folder-single,list-single", "--json",
        start=("-m", "benchmarks"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, other = map(json.loads, done.stdout.splitlines())
    assert (one["result"], other["result"]) == ("reference", "same")
    for name in TrainedBits._fields:
        assert one[name] == other[name]
        assert len(one[name]) == 64

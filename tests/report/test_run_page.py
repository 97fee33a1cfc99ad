"""The page of a run, read as a browser reads it."""

import base64
import io
import math
import re
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix

from pipeline.report.comparison_page import comparison_page
from pipeline.report.evaluation_page import evaluation_page
from pipeline.report.prediction_metrics import evaluate_predictions
from pipeline.report.run_page import duration, report_page
from pipeline.report.tensorboard_images import write_board
from tests.report.invented import invented_predictions, invented_run, with_pictures
from tests.report.parsed import parse, section

NASTY = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b's"]


def names(count):
    return [f"class {i}" for i in range(count)]


def page(run):
    return parse(report_page(run))


@pytest.mark.parametrize("classes", [3, 20, 21, 100, 1000])
def test_every_picture_has_words_and_nothing_comes_from_elsewhere(classes):
    text = report_page(with_pictures(invented_run(names(classes)), 32))
    root = parse(text)
    assert text.startswith("<!DOCTYPE html>")
    assert root.find("html")[0].attributes["lang"] == "en"
    viewport = [m for m in root.find("meta") if m.attributes.get("name") == "viewport"]
    assert "width=device-width" in viewport[0].attributes["content"]
    pictures = root.find("img")
    assert len(pictures) >= 24
    for picture in pictures:
        assert picture.attributes["alt"].strip()
        assert picture.attributes["src"].startswith("data:image/")
    for drawing in root.find("svg"):
        assert drawing.find("desc")[0].text
        assert drawing.find("title")[0].text
    assert not root.find("script")
    assert not root.find("link")
    assert not root.find("iframe")
    assert not re.search(r"(https?:)?//[a-z]|@import|url\(", text)
    assert len(text) < 1e6


def test_names_and_paths_are_harmless():
    run = with_pictures(invented_run(NASTY, name=NASTY[0]), 8)
    pictures = replace(run.examples, name=[NASTY[1]] * len(run.examples.name))
    start = run.starts[0] | {"command": ["vit", "train", NASTY[0]], "host": NASTY[1]}
    outcome = {"outcome": "failed", "message": NASTY[0]}
    run = replace(run, examples=pictures, starts=[start], outcome=outcome, folder=NASTY[1])
    text = report_page(run)
    root = parse(text)
    assert "<script" not in text
    assert "<img src=x" not in text
    assert not any("onerror" in node.attributes for node in root.find("img"))
    assert root.find("h1")[0].text == NASTY[0]
    header = section(root, "Classes").find("table", "matrix")[0].cells()[0]
    assert header[1:] == NASTY


def test_the_numbers_at_the_top_are_those_of_the_rows():
    run = invented_run(names(6))
    test = {"step": 4000, "epoch": 40, "split": "test", "weights_of_step": 3500}
    test |= {"loss": 0.43216, "accuracy": 0.87654, "top_5_accuracy": 0.98765}
    run = replace(run, rows=[*run.rows, test], best_step=3500)
    (tiles,) = page(run).find("dl")
    named = {d.find("dt")[0].text: d.find("dd")[0].text for d in tiles.find("div")}
    assert named["test accuracy"] == "87.65%weights of step 3,500"
    assert named["test top-5"] == "98.77%"
    assert named["test loss"] == "0.4322"
    validation = next(r for r in run.rows if r["split"] == "validation" and r["step"] == 3500)
    assert named["validation accuracy"].startswith(f"{validation['accuracy']:.2%}")
    assert named["parameters"] == "22,050,664"
    assert named["steps"] == "4,000of 4,000"
    rates = [r["examples_per_second"] for r in run.rows if r["split"] == "train"]
    assert named["images/s"] == f"{np.median(rates):,.0f}median"
    seconds = sum(50 * 256 / rate for rate in rates)
    assert named["training time"] == f"{duration(seconds)}without evaluations"


def test_curves_of_all_splits_share_axes_and_say_their_ends():
    run = invented_run(names(6))
    curves = section(page(run), "Learning curves")
    loss, top_1, top_5 = curves.find("svg")
    assert [svg.attributes["aria-label"] for svg in (loss, top_1, top_5)] == [
        "Loss",
        "Top-1 accuracy",
        "Top-5 accuracy",
    ]
    assert [len(svg.find("path")) for svg in (loss, top_1, top_5)] == [2, 2, 2]
    last = [r for r in run.rows if r["split"] == "validation"][-1]
    said = top_1.find("desc")[0].text
    assert f"validation: from 9.38% at 500 to {last['accuracy']:.2%} at 4,000" in said
    rows = curves.find("table")[0].cells()
    assert len(rows) == 9
    assert rows[-1][5:] == [f"{last['loss']:.4f}", "75.00%", "85.00%"]


@pytest.mark.parametrize(("classes", "shown"), [(5, False), (6, True)])
def test_top_5_is_left_out_of_every_page_where_it_is_always_right(classes, shown):
    run = invented_run(names(classes))
    metrics = {"loss": 1.0, "accuracy": 0.5, "top_5_accuracy": 1.0, "calibration_error": 0.0}
    pages = [
        report_page(run),
        comparison_page([run, replace(run, name="other")]),
        evaluation_page("title", [(run.predictions, run.classes, metrics, [])]),
    ]
    assert ["top-5" in page.lower() for page in pages] == [shown] * 3


def test_a_going_on_and_checkpoints_are_marked_at_their_steps():
    drawing = next(
        svg
        for svg in section(page(invented_run(names(3))), "Training").find("svg")
        if svg.attributes["aria-label"] == "Throughput"
    )
    lines = drawing.find("line", "mark")
    kinds = [line.attributes["class"].split()[1] for line in lines]
    assert kinds == ["start"] + ["checkpoint"] * 4
    start, *saves = [float(line.attributes["x1"]) for line in lines]
    a_step = (saves[-1] - saves[0]) / 3000
    assert start == pytest.approx(saves[0] + a_step * (1333 - 1000), abs=0.2)


@pytest.mark.parametrize("classes", [3, 20])
def test_few_classes_have_a_matrix_of_numbers(classes):
    run = invented_run(names(classes))
    classes_section = section(page(run), "Classes")
    (matrix,) = classes_section.find("table", "matrix")
    found = run.predictions
    expected = confusion_matrix(found.label, found.predicted, labels=range(classes))
    rows = [[0 if c == "·" else int(c) for c in row[1:]] for row in matrix.cells()[1:]]
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("classes", [21, 1000])
def test_many_classes_have_their_worst_confusions_as_a_table(classes):
    run = invented_run(names(classes))
    shown = section(page(run), "Classes")
    assert not shown.find("table", "matrix")
    rows = shown.find("table")[0].cells()
    found = run.predictions
    counts = confusion_matrix(found.label, found.predicted, labels=range(classes))
    np.fill_diagonal(counts, 0)
    assert [int(row[2]) for row in rows[1:]] == np.sort(counts.ravel())[::-1][:20].tolist()
    for is_a, taken_for, times, _ in rows[1:]:
        assert counts[int(is_a.split()[1]), int(taken_for.split()[1])] == int(times)


@pytest.fixture
def few_of_many():
    """A run of 20,000 classes and 500 validation examples, all of the first 400 classes."""
    run = invented_run(names(20_000))
    found = invented_predictions(400, 4000, np.random.default_rng(0), count=500)
    return with_pictures(replace(run, predictions=found), 8)


def test_the_memory_of_a_page_does_not_grow_with_the_square_of_the_classes(few_of_many, tmp_path):
    # A dense matrix of one byte a cell would take 400 MB.
    tracemalloc.start()
    try:
        shown = page(few_of_many)
        write_board(tmp_path, few_of_many)
        evaluation = evaluate_predictions(few_of_many.predictions, few_of_many.classes)
        lines, numbers = evaluation.lines(), evaluation.to_json()
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 150e6
    assert len(shown.find("table", "numbers")[-1].cells()) == 1001
    assert "worst of 20,000 classes" in shown.text
    assert sum(times for *_, times in numbers["confusion"]) == 500
    assert len(numbers["classes"]) == 20_000
    assert len(lines) < 60
    found = few_of_many.predictions
    pairs = Counter(zip(found.label.tolist(), found.predicted.tolist(), strict=True))
    times = sorted((n for (i, j), n in pairs.items() if i != j), reverse=True)
    rows = section(shown, "Classes").find("table")[0].cells()[1:]
    assert [int(row[2]) for row in rows] == times[:20]


def test_the_picture_of_a_matrix_has_a_cell_a_pair():
    run = invented_run(names(100))
    (image,) = section(page(run), "Classes").find("img")
    data = base64.b64decode(image.attributes["src"].partition(",")[2])
    opacity = np.asarray(Image.open(io.BytesIO(data)))[..., 3]
    side = opacity.shape[0] // 100
    cells = opacity[side // 2 :: side, side // 2 :: side] / 255
    found = run.predictions
    shares = confusion_matrix(found.label, found.predicted, labels=range(100), normalize="true")
    np.testing.assert_allclose(cells, np.sqrt(shares), atol=0.003)
    missed = 1 - accuracy_score(found.label, found.predicted)
    assert f"{missed:.1%}" in image.attributes["alt"]


@pytest.mark.parametrize("classes", [10, 200])
def test_every_class_has_its_accuracy(classes):
    run = invented_run(names(classes))
    (rows,) = [
        table.cells()
        for table in section(page(run), "Classes").find("table", "numbers")
        if len(table.cells()) == classes + 1
    ]
    found = run.predictions
    for name, accuracy, examples, _ in rows[1:]:
        own = found.label == int(name.split()[1])
        right = np.mean(found.predicted[own] == found.label[own])
        assert accuracy == f"{right:.1%}"
        assert int(examples) == own.sum()
    shares = [float(row[1].rstrip("%")) for row in rows[1:]]
    assert shares == sorted(shares)  # the worst first


def test_examples_are_the_most_certain_mistakes_and_hits_with_what_was_said():
    run = with_pictures(invented_run(names(10)), 8)
    found = run.predictions
    mistakes, hits = section(page(run), "Examples").find("ul", "pictures")
    wrong = found.predicted != found.label
    certain = sorted(found.probability[wrong, 0].tolist(), reverse=True)[:18]
    assert len(mistakes.find("li")) == 18
    for item, probability in zip(mistakes.find("li"), certain, strict=True):
        assert f"{probability:.1%}" in item.text
        assert re.fullmatch(
            rf"class \d, predicted as class \d with {probability:.1%}",
            item.find("img")[0].attributes["alt"],
        )
    assert len({item.find("strong")[0].text for item in hits.find("li")}) == 6


def test_pixels_of_small_pictures_are_kept():
    run = with_pictures(invented_run(names(3)), 8)
    image = section(page(run), "Augmented training examples").find("img")[0]
    data = base64.b64decode(image.attributes["src"].partition(",")[2])
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(data))), run.examples.augmented[0, 0]
    )


def test_a_run_that_has_just_begun_has_a_page_and_says_what_is_left_out():
    run = invented_run(names(3))
    bare = replace(
        run,
        rows=[],
        outcome=None,
        starts=[],
        checkpoints=[],
        best_step=None,
        predictions=None,
        left_out=["the examples, since there is no checkpoint."],
    )
    text = page(bare).text
    assert "No metrics have been written yet" in text
    assert "Left out: the examples, since there is no checkpoint." in text
    assert "was training or had been killed" in text


def test_rows_with_holes_are_drawn_with_gaps():
    run = invented_run(names(3))
    rows = [dict(row) for row in run.rows]
    rows[10]["loss"] = math.nan
    rows[12].pop("input_wait_fraction", None)
    rows[14]["input_wait_fraction"] = None
    root = page(replace(run, rows=rows))
    assert "nan" not in "".join(path.attributes["d"] for path in root.find("path"))


def test_settings_that_are_not_the_defaults_stand_at_the_top_and_all_below():
    run = invented_run(names(3), optim__base_lr=0.25)
    root = page(run)
    changed = section(root, "Settings").find("table")[0].cells()
    assert ["optim.base_lr", "0.25", "0.001"] in changed
    assert not any(row[0] == "optim.weight_decay" for row in changed)
    every = root.find("details")[-1].find("table")[0].cells()
    assert any(row[:3] == ["optim.weight_decay", "0.05", "0.05"] for row in every)


def test_times_have_two_units():
    assert [duration(s) for s in (4.24, 59.9, 200, 3600 * 5 + 61)] == [
        "4.2 s",
        "59.9 s",
        "3 min 20 s",
        "5 h 1 min",
    ]

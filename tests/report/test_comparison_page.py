from dataclasses import replace

from pipeline.report.comparison_page import comparison_page
from tests.report.invented import invented_run
from tests.report.parsed import parse, section

CLASSES = ["cat", "dog", "<b>bird</b>"]


def three():
    return [
        invented_run(CLASSES, name="one", optim__base_lr=1e-3, run__dir="runs/one"),
        invented_run(CLASSES, name="two", optim__base_lr=3e-3, run__dir="runs/two", steps=3000),
        invented_run(CLASSES, name="<three>", optim__clip_norm=None, run__dir="runs/three"),
    ]


def test_only_settings_that_differ_are_listed():
    (table,) = section(parse(comparison_page(three())), "Settings that differ").find("table")
    assert table.cells() == [
        ["setting", "one", "two", "<three>"],
        ["optim.base_lr", "0.001", "0.003", "0.001"],
        ["optim.clip_norm", "1", "1", "null"],
    ]


def test_equal_settings_are_said_to_be_equal():
    runs = [invented_run(CLASSES, name=name, run__dir=name) for name in ("a", "b")]
    text = section(parse(comparison_page(runs)), "Settings that differ").text
    assert text.strip() == "None: the runs have the same settings."


def test_results_are_those_of_the_rows_and_what_none_has_is_left_out():
    runs = three()
    (table,) = section(parse(comparison_page(runs)), "Results").find("table")
    named = {row[0]: row[1:] for row in table.cells()}
    last = [[r for r in run.rows if r["split"] == "validation"][-1] for run in runs]
    assert named["validation loss"] == [f"{row['loss']:.4f}" for row in last]
    assert named["steps"] == ["4,000", "3,000", "4,000"]
    assert not any(name.startswith("test") for name in named)


def test_one_run_with_a_test_row_and_one_without_are_told_apart():
    first, second, _ = three()
    row = {"step": 4000, "epoch": 40, "split": "test", "loss": 0.5}
    row |= {"accuracy": 0.9, "top_5_accuracy": 1.0}
    runs = [replace(first, rows=[*first.rows, row]), replace(second, outcome=None)]
    (table,) = section(parse(comparison_page(runs)), "Results").find("table")
    named = {row[0]: row[1:] for row in table.cells()}
    assert named["test top-1"] == ["90.00%", ""]
    assert named["outcome"] == ["done", "not ended"]


def test_the_curves_of_all_runs_share_axes_and_are_told_apart():
    curves = section(parse(comparison_page(three())), "Curves")
    for drawing in curves.find("svg"):
        assert len(drawing.find("path")) == 3
        assert [g.attributes["class"] for g in drawing.find("g")] == ["c0", "c1", "c2"]
    assert [item.text for item in curves.find("ul")[0].find("li")] == ["one", "two", "<three>"]


def test_names_are_harmless():
    page = comparison_page(three())
    assert "<three>" not in page
    assert parse(page).find("h1")[0].text == "Comparison of one, two, <three>"

import math
import re

import numpy as np
import pytest

from pipeline.report.line_chart import Chart, Line, Mark, lay_out, thin_out
from pipeline.report.page import render
from tests.report.parsed import parse

NAN = math.nan


def chart(*lines, **options):
    return Chart("Loss", "step", "nats", lines, **options)


def draw(chart):
    return render("chart.html", chart=lay_out(chart))


def places(path):
    """Strokes of a path, each a list of (x, y) in the drawing's units."""
    strokes = [s for s in path.attributes["d"].split("M") if s]
    return [[tuple(map(float, p.split())) for p in s.split("L")] for s in strokes]


def test_points_lie_where_the_numbers_on_the_axes_say():
    points = [(0, 1.0), (10, 4.0), (20, 2.5), (40, 8.0)]
    root = parse(draw(chart(Line("train", points))))
    (stroke,) = places(root.find("path")[0])
    texts = [(t.text, t.attributes) for t in root.find("text")]
    across = {
        float(t): float(a["x"]) for t, a in texts if a["text-anchor"] == "middle" and t.isdigit()
    }
    up = {float(t): float(a["y"]) - 4 for t, a in texts if a["text-anchor"] == "end"}
    for numbers, column, at in ((across, 0, 0), (up, 1, 1)):
        # The line through the ticks is the scale.
        slope, start = np.polyfit(list(numbers), list(numbers.values()), 1)
        expected = [slope * point[column] + start for point in points]
        assert [place[at] for place in stroke] == pytest.approx(expected, abs=0.2)


def test_a_value_that_is_not_finite_leaves_a_gap():
    line = Line("train", [(1, 1.0), (2, 2.0), (3, NAN), (4, 1.0), (5, math.inf), (6, 2.0)])
    strokes = places(parse(draw(chart(line))).find("path")[0])
    assert [len(stroke) for stroke in strokes] == [2, 1, 1]


def test_without_a_finite_value_there_is_no_chart_and_no_line():
    assert lay_out(chart(Line("train", []), Line("test", [(1, NAN)]))) is None
    root = parse(draw(chart(Line("train", [(1, 2.0)]), Line("test", []))))
    assert [item.text for item in root.find("li")] == ["train"]
    assert len(root.find("circle")) == 1  # a single point would not be seen as a line


def test_words_say_what_the_drawing_shows():
    line = Line("validation", [(100, 2.0), (200, 0.25), (300, 0.5)])
    (svg,) = parse(draw(chart(line))).find("svg")
    assert svg.attributes["role"] == "img"
    assert svg.attributes["aria-label"] == "Loss"
    assert svg.find("desc")[0].text == (
        "validation: from 2 at 100 to 0.5 at 300, minimum 0.25, maximum 2."
    )
    texts = [text.text for text in svg.find("text")]
    assert "step" in texts
    assert "nats" in texts


def test_what_happened_is_marked_where_it_did_and_named():
    marks = [Mark(50, "start"), Mark(100, "checkpoint"), Mark(900, "checkpoint")]
    root = parse(draw(chart(Line("a", [(0, 1.0), (100, 2.0)]), marks=marks)))
    drawn = [line.attributes for line in root.find("line", "mark")]
    assert [line["class"] for line in drawn] == ["mark start", "mark checkpoint"]  # 900 is outside
    (stroke,) = places(root.find("path")[0])
    assert float(drawn[0]["x1"]) == pytest.approx((stroke[0][0] + stroke[1][0]) / 2, abs=0.1)
    assert "resumed" in root.find("ul")[0].text


def test_a_long_curve_is_thinned_out_and_keeps_its_spike_its_gap_and_its_ends():
    values = np.sin(np.arange(20_000) / 3000)
    values[12_345], values[777] = 50.0, NAN
    points = list(enumerate(values.tolist()))
    kept = thin_out(points)
    assert len(kept) < 400
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert (12_345, 50.0) in kept
    assert any(math.isnan(y) for _, y in kept)
    assert [x for x, _ in kept] == sorted({x for x, _ in kept})
    assert thin_out(points[:300])[:300] == points[:300]


def test_a_drawing_has_few_bytes():
    drawn = draw(chart(Line("a", [(i, math.sin(i)) for i in range(100_000)])))
    assert len(drawn) < 8000
    assert not re.search(r"\d\.\d{3,}", drawn.split("<path")[1])

"""Line charts as SVG, drawn with the page's own colours, so that one drawing serves dark and light.

By hand and not by matplotlib: a chart is a tenth of the size, needs no second drawing for dark
pages, and training's end need not wait for its import.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.report.axis import number, span, ticks
from pipeline.report.html import Html, element, join

# The drawing's own units. A phone shows about one of them a pixel, so the text of 11 is readable.
_WIDTH, _HEIGHT = 380, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 18, 10, 38
# Twice as many points as a phone has columns: more are not seen and only make the file large.
_BUCKETS = 180

COLOURS = 8  # the style has that many


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
      label: In the legend.
      points: (x, y), x ascending; y that is not finite leaves a gap.
      colour: Number of one of the page's colours.
      dashed: For those who cannot tell colours apart, and for a second kind of curve.
      dots: Whether each point is marked: for few points.
    """

    label: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Mark:
    """An upright line where something happened.

    Attributes:
      x: Where.
      kind: "start" or "checkpoint": how it looks.
    """

    x: float
    kind: str


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Attributes:
      title: Above it.
      x_label, y_label: With their units.
      lines: Those without a finite point are left out.
      marks: What happened when.
      from_zero: Whether the y axis begins at zero.
      written: How a value of y is written, with the step between ticks or None.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    marks: Sequence[Mark] = ()
    from_zero: bool = False
    written: Callable[[float, float | None], str] = number


def draw_chart(chart: Chart) -> Html | None:
    """The chart as a figure with its legend, or None where there is nothing to draw."""
    lines = [line for line in chart.lines if _finite(line)]
    if not lines:
        return None
    place = _Place.around(lines, chart)
    drawn = element(
        "svg",
        element("title", chart.title),
        element("desc", " ".join(describe_line(line, chart.written) for line in lines)),
        _axes(chart, place),
        *(_mark(mark, place) for mark in chart.marks if place.shows(mark.x)),
        *(_curve(line, place) for line in lines),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=chart.title,
    )
    return element("figure", element("figcaption", chart.title), _legend(lines, chart), drawn)


def describe_line(line: Line, written: Callable[[float, float | None], str] = number) -> str:
    """The curve in a sentence: where it begins and ends, and how far it goes."""
    finite = _finite(line)
    (x0, y0), (x1, y1) = finite[0], finite[-1]
    values = [y for _, y in finite]
    return (
        f"{line.label}: from {written(y0, None)} at {number(x0)} to {written(y1, None)} at "
        f"{number(x1)}, least {written(min(values), None)}, most {written(max(values), None)}."
    )


def thin_out(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about 360 of the points: of each stretch the lowest and the highest, so that a spike
    of one step is still there."""
    if len(points) <= 2 * _BUCKETS:
        return list(points)
    kept = [points[0]]
    for bucket in range(_BUCKETS):
        first = 1 + bucket * (len(points) - 2) // _BUCKETS
        end = 1 + (bucket + 1) * (len(points) - 2) // _BUCKETS
        # A value that is not finite is kept as well: it is a gap.
        inside = sorted(points[first:end], key=lambda p: (math.isfinite(p[1]), p[1]))
        kept += sorted({inside[0], inside[-1]})
    return [*kept, points[-1]]


@dataclass(frozen=True)
class _Place:
    """From values to places in the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def around(cls, lines: Sequence[Line], chart: Chart) -> _Place:
        points = [point for line in lines for point in _finite(line)]
        return cls(
            (0.0, max(*(x for x, _ in points), 1.0)),
            span([y for _, y in points], chart.from_zero),
        )

    def shows(self, x: float) -> bool:
        return self.x[0] <= x <= self.x[1]

    def left(self, x: float) -> float:
        share = (x - self.x[0]) / (self.x[1] - self.x[0])
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def top(self, y: float) -> float:
        share = (y - self.y[0]) / (self.y[1] - self.y[0])
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)


def _finite(line: Line) -> list[tuple[float, float]]:
    return [(x, y) for x, y in line.points if math.isfinite(y)]


def _axes(chart: Chart, place: _Place) -> Html:
    """Grid, numbers and names of the axes."""
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    across = ticks(*place.x)
    for x in across:
        left = place.left(x)
        text = number(x, across[1] - across[0] if len(across) > 1 else None)
        parts.append(element("text", text, x=left, y=bottom + 14, text_anchor="middle"))
    up = ticks(*place.y)
    for y in up:
        top = place.top(y)
        text = chart.written(y, up[1] - up[0] if len(up) > 1 else None)
        parts.append(element("line", x1=_LEFT, x2=right, y1=top, y2=top, class_="grid"))
        parts.append(element("text", text, x=_LEFT - 5, y=top + 4, text_anchor="end"))
    middle = (_TOP + bottom) / 2
    turned = f"rotate(-90 11 {middle})"
    return join(
        *parts,
        element("line", x1=_LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"),
        element("text", chart.x_label, x=(_LEFT + right) / 2, y=_HEIGHT - 6, text_anchor="middle"),
        element("text", chart.y_label, x=11, y=middle, text_anchor="middle", transform=turned),
    )


def _mark(mark: Mark, place: _Place) -> Html:
    left, bottom = place.left(mark.x), _HEIGHT - _BOTTOM
    top = _TOP if mark.kind == "start" else bottom - 8
    return element("line", x1=left, x2=left, y1=top, y2=bottom, class_=f"mark {mark.kind}")


def _curve(line: Line, place: _Place) -> Html:
    style = f"c{line.colour % COLOURS}{' dashed' if line.dashed else ''}"
    steps, pen_down, dots = [], False, []
    points = thin_out(line.points)
    for x, y in points:
        if not math.isfinite(y):
            pen_down = False
            continue
        steps.append(f"{'L' if pen_down else 'M'}{place.left(x):g} {place.top(y):g}")
        pen_down = True
        # A single point is no line, and would not be seen.
        if line.dots or len(points) == 1:
            dots.append(element("circle", cx=place.left(x), cy=place.top(y), r=2.2))
    path = element("path", d="".join(steps), class_="curve")
    return element("g", path, *dots, class_=style)


def _legend(lines: Sequence[Line], chart: Chart) -> Html:
    """What each curve is; outside the drawing, so that it is not made smaller with it."""
    entries = [
        element(
            "li",
            element("i", class_=f"c{line.colour % COLOURS}{' dashed' if line.dashed else ''}"),
            line.label,
        )
        for line in lines
    ]
    names = {"start": "gone on after a stop", "checkpoint": "checkpoint written"}
    for kind, name in names.items():
        if any(mark.kind == kind for mark in chart.marks):
            entries.append(element("li", element("i", class_=f"mark {kind}"), name))
    return element("ul", *entries, class_="legend")

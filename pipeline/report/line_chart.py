"""Lays out line charts: coordinates, ticks and legend. templates/chart.html draws them as SVG.

Not with matplotlib: an SVG drawing is a tenth of the size, takes its colors from the page in dark
and light mode, and the end of training does not wait for another import.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.report.axis import number, span, ticks

# Twice the number of columns on a phone: more points are not visible and make the file larger.
_BUCKETS = 180

NUM_COLORS = 8  # style.css defines this many


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
      label: Text in the legend.
      points: (x, y), x ascending. A y that is not finite leaves a gap.
      color: Index of a color of the page, modulo `NUM_COLORS`.
      dashed: Draws dashes, so that curves differ in more than color.
      dots: Draws a dot at each point, for curves of few points.
    """

    label: str
    points: Sequence[tuple[float, float]]
    color: int = 0
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line at an event.

    Attributes:
      x: Position in data coordinates.
      kind: "start" or "checkpoint".
    """

    x: float
    kind: str


@dataclass(frozen=True)
class Chart:
    """The content of a chart.

    Attributes:
      title: Heading of the chart.
      x_label, y_label: Axis labels, with units.
      lines: The curves. Lines without a finite point are left out.
      marks: Events.
      from_zero: Whether the y axis starts at zero.
      format_y: Formats a y value, given the distance between ticks or None.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    marks: Sequence[Mark] = ()
    from_zero: bool = False
    format_y: Callable[[float, float | None], str] = number


@dataclass(frozen=True)
class Area:
    """The drawing in its own units, about one pixel each on a phone, and the plot inside it.

    Attributes:
      width, height: Size of the drawing.
      left, right, top, bottom: Edges of the plot.
    """

    width: int = 380
    height: int = 230
    left: int = 60
    right: int = 362
    top: int = 10
    bottom: int = 192


@dataclass(frozen=True)
class Tick:
    """A tick of an axis: its coordinate and its text."""

    position: float
    text: str


@dataclass(frozen=True)
class PlacedMark:
    """An event at its x coordinate."""

    position: float
    kind: str


@dataclass(frozen=True)
class Curve:
    """A line as SVG: CSS classes, path data, and the coordinates of its dots."""

    style: str
    path: str
    dots: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class LegendEntry:
    """An entry of the legend: CSS classes and text."""

    style: str
    label: str


@dataclass(frozen=True)
class Drawing:
    """A chart with all coordinates computed.

    Attributes:
      title, x_label, y_label: As in `Chart`.
      description: The curves in words, for screen readers.
      area: Size and edges.
      legend, x_ticks, y_ticks, marks, curves: What is drawn.
    """

    title: str
    x_label: str
    y_label: str
    description: str
    area: Area
    legend: Sequence[LegendEntry]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    marks: Sequence[PlacedMark]
    curves: Sequence[Curve]


def lay_out(chart: Chart) -> Drawing | None:
    """Computes the drawing of a chart; None if no line has a finite point."""
    lines = [line for line in chart.lines if _finite(line)]
    if not lines:
        return None
    scale = _Scale.of(lines, chart)
    x_ticks, y_ticks = ticks(*scale.x), ticks(*scale.y)
    return Drawing(
        chart.title,
        chart.x_label,
        chart.y_label,
        " ".join(describe_line(line, chart.format_y) for line in lines),
        scale.area,
        _legend(lines, chart),
        [Tick(scale.to_x(x), number(x, _distance(x_ticks))) for x in x_ticks],
        [Tick(scale.to_y(y), chart.format_y(y, _distance(y_ticks))) for y in y_ticks],
        [PlacedMark(scale.to_x(m.x), m.kind) for m in chart.marks if scale.contains(m.x)],
        [_curve(line, scale) for line in lines],
    )


def lay_out_all(charts: Sequence[Chart]) -> list[Drawing]:
    """Computes the drawings of all charts that have something to show."""
    drawings = (lay_out(chart) for chart in charts)
    return [drawing for drawing in drawings if drawing is not None]


def describe_line(line: Line, format_y: Callable[[float, float | None], str] = number) -> str:
    """Describes a curve in a sentence: first and last point, minimum and maximum."""
    finite = _finite(line)
    (x0, y0), (x1, y1) = finite[0], finite[-1]
    values = [y for _, y in finite]
    low, high = format_y(min(values), None), format_y(max(values), None)
    return (
        f"{line.label}: from {format_y(y0, None)} at {number(x0)} to {format_y(y1, None)} at "
        f"{number(x1)}, minimum {low}, maximum {high}."
    )


def thin_out(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Reduces a curve to at most about 360 points.

    Keeps the lowest and the highest point of each stretch, so that a spike of one step remains.
    """
    if len(points) <= 2 * _BUCKETS:
        return list(points)
    kept = [points[0]]
    for bucket in range(_BUCKETS):
        first = 1 + bucket * (len(points) - 2) // _BUCKETS
        end = 1 + (bucket + 1) * (len(points) - 2) // _BUCKETS
        # A value that is not finite sorts first and is kept as well: it is a gap.
        inside = sorted(points[first:end], key=lambda p: (math.isfinite(p[1]), p[1]))
        kept += sorted({inside[0], inside[-1]})
    return [*kept, points[-1]]


@dataclass(frozen=True)
class _Scale:
    """Converts data coordinates to drawing coordinates."""

    x: tuple[float, float]
    y: tuple[float, float]
    area: Area

    @classmethod
    def of(cls, lines: Sequence[Line], chart: Chart) -> _Scale:
        points = [point for line in lines for point in _finite(line)]
        return cls(
            (0.0, max(*(x for x, _ in points), 1.0)),
            span([y for _, y in points], chart.from_zero),
            Area(),
        )

    def contains(self, x: float) -> bool:
        return self.x[0] <= x <= self.x[1]

    def to_x(self, x: float) -> float:
        share = (x - self.x[0]) / (self.x[1] - self.x[0])
        return round(self.area.left + share * (self.area.right - self.area.left), 1)

    def to_y(self, y: float) -> float:
        share = (y - self.y[0]) / (self.y[1] - self.y[0])
        return round(self.area.bottom - share * (self.area.bottom - self.area.top), 1)


def _finite(line: Line) -> list[tuple[float, float]]:
    return [(x, y) for x, y in line.points if math.isfinite(y)]


def _distance(values: Sequence[float]) -> float | None:
    return values[1] - values[0] if len(values) > 1 else None


def _style(line: Line) -> str:
    return f"c{line.color % NUM_COLORS}{' dashed' if line.dashed else ''}"


def _curve(line: Line, scale: _Scale) -> Curve:
    steps, pen_down, dots = [], False, []
    points = thin_out(line.points)
    for x, y in points:
        if not math.isfinite(y):
            pen_down = False
            continue
        at = scale.to_x(x), scale.to_y(y)
        steps.append(f"{'L' if pen_down else 'M'}{at[0]:g} {at[1]:g}")
        pen_down = True
        # A single point is not a line and would be invisible without a dot.
        if line.dots or len(points) == 1:
            dots.append(at)
    return Curve(_style(line), "".join(steps), dots)


def _legend(lines: Sequence[Line], chart: Chart) -> list[LegendEntry]:
    entries = [LegendEntry(_style(line), line.label) for line in lines]
    names = {"start": "resumed", "checkpoint": "checkpoint written"}
    for kind, name in names.items():
        if any(mark.kind == kind for mark in chart.marks):
            entries.append(LegendEntry(f"mark {kind}", name))
    return entries

"""Line charts as inline SVG, with the numbers beside them that the page's script reads to answer a pointer."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ffrl.report.axis import LARGEST, Axis
from ffrl.report.markup import Markup, element, joined
from ffrl.report.numerals import number

COLOURS = 8
"""How many colours the style sheet has; the next lines have them again, dashed."""

_WIDTH, _HEIGHT = 380, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 38
_BUCKETS = 500


@dataclass(frozen=True)
class Series:
    """A line. place: of the run in the report, which decides its colour. x, y: as many of each."""

    name: str
    place: int
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Point:
    """x and y of a point that is drawn; None for y where the line breaks."""

    x: float
    y: float | None


def line_class(place: int) -> str:
    """CSS classes of the line, and of its sign in a legend, at this place."""
    return f"line c{place % COLOURS}" + (" dashed" if place // COLOURS % 2 else "")


def swatch(place: int) -> Markup:
    """A piece of the line for a legend."""
    line = element("path", d="M1 6H23", class_=line_class(place))
    return element("svg", line, class_="swatch", viewBox="0 0 24 12", aria_hidden="true")


def line_chart(title: str, unit: str, series: Sequence[Series], x_name: str) -> Markup:
    """A figure with the lines of `series`; a legend stands elsewhere. x_name: what the horizontal axis counts."""
    lines = [(one, thinned(_points(one))) for one in series]
    shown = [point for _, points in lines for point in points if point.y is not None]
    caption = [element("strong", title)]
    if unit:
        caption.append(element("span", f" {unit}", class_="unit"))
    left_out = sum(1 for one in series for y in one.y if not _can_be_drawn(y))
    note = f"{left_out} values that are not finite are left out" if left_out else ""
    if not shown:
        body = element("p", "No value can be drawn.", class_="missing")
        return element("figure", element("figcaption", *caption), body, class_="chart")
    x_axis = Axis.over([0.0, *(point.x for point in shown)], may_be_logarithmic=False, margin=0.0)
    y_axis = Axis.over([point.y for point in shown if point.y is not None])
    if y_axis.logarithmic:
        caption.append(element("span", "log scale", class_="scale"))
    first_and_last = "; ".join(f"{one.name}: {_summary(points)}" for one, points in lines)
    drawing = element(
        "svg",
        _grid(x_axis, y_axis, x_name),
        *(_line(one, points, x_axis, y_axis) for one, points in lines),
        element("g", class_="pointer"),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{title}{f', {unit}' if unit else ''}, by {x_name}. {first_and_last}",
    )
    children = [
        element("figcaption", *caption),
        element("div", drawing, _data(lines, x_axis, y_axis), class_="plot", data_x=x_name),
    ]
    if note:
        children.append(element("p", note, class_="note"))
    return element("figure", *children, class_="chart")


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most about four points in each of _BUCKETS parts: the first, the last, the lowest, the highest, each break.

    So the drawn line covers what the whole one would: no peak is lost.
    """
    if len(points) <= 4 * _BUCKETS:
        return list(points)
    kept: list[Point] = []
    for bucket in range(_BUCKETS):
        part = range(bucket * len(points) // _BUCKETS, (bucket + 1) * len(points) // _BUCKETS)
        heights = [(points[i].y, i) for i in part]
        finite = [(y, i) for y, i in heights if y is not None]
        chosen = {part[0], part[-1], *(i for y, i in heights if y is None)}
        if finite:
            chosen |= {min(finite)[1], max(finite)[1]}
        kept += [points[i] for i in sorted(chosen)]
    return kept


def _points(series: Series) -> list[Point]:
    return [
        Point(x, y if _can_be_drawn(y) else None) for x, y in zip(series.x, series.y, strict=True) if _can_be_drawn(x)
    ]


def _can_be_drawn(value: float) -> bool:
    return math.isfinite(value) and abs(value) <= LARGEST


def _summary(points: Sequence[Point]) -> str:
    heights = [point.y for point in points if point.y is not None]
    return f"from {number(heights[0])} to {number(heights[-1])}" if heights else "nothing to draw"


def _across(axis: Axis, value: float) -> float:
    return round(_LEFT + axis.position(value) * (_WIDTH - _LEFT - _RIGHT), 2)


def _down(axis: Axis, value: float) -> float:
    return round(_HEIGHT - _BOTTOM - axis.position(value) * (_HEIGHT - _BOTTOM - _TOP), 2)


def _grid(x_axis: Axis, y_axis: Axis, x_name: str) -> Markup:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value, label in y_axis.ticks(5):
        # Half pixels, on which a line one pixel wide is crisp.
        y = math.floor(_down(y_axis, value)) + 0.5
        parts.append(element("path", d=f"M{_LEFT} {y}H{right}", class_="grid"))
        parts.append(element("text", label, x=_LEFT - 7, y=y + 3.5, class_="y"))
    for value, label in x_axis.ticks(5):
        x = math.floor(_across(x_axis, value)) + 0.5
        parts.append(element("path", d=f"M{x} {bottom}v4", class_="frame"))
        parts.append(element("text", label, x=x, y=bottom + 16, class_="x"))
    parts.append(element("path", d=f"M{_LEFT} {bottom + 0.5}H{right}", class_="frame"))
    parts.append(element("text", x_name, x=(_LEFT + right) / 2, y=_HEIGHT - 5, class_="x name"))
    return element("g", *parts, class_="axes")


def _line(series: Series, points: Sequence[Point], x_axis: Axis, y_axis: Axis) -> Markup:
    """The line through the points, and dots where a point has no neighbour that a line could lead to."""
    strokes, dots = [], []
    around = [None, *points, None]
    for before, point, after in zip(around, points, around[2:], strict=False):
        if point.y is None:
            continue
        begins, ends = (side is None or side.y is None for side in (before, after))
        place = f"{_across(x_axis, point.x):g} {_down(y_axis, point.y):g}"
        if begins and ends:
            dots.append(f"M{place}h0")
        else:
            strokes.append(f"{'M' if begins else 'L'}{place}")
    paths = []
    if strokes:
        paths.append(element("path", d="".join(strokes), class_=line_class(series.place)))
    if dots:
        paths.append(element("path", d="".join(dots), class_=f"{line_class(series.place)} dot"))
    return joined(*paths)


def _data(lines: Sequence[tuple[Series, Sequence[Point]]], x_axis: Axis, y_axis: Axis) -> Markup:
    """What the script needs: for each line its name, classes, and [x, y, x on the drawing, y on the drawing]."""
    value = [
        {
            "name": one.name,
            "line": line_class(one.place),
            "points": [
                [point.x, point.y, _across(x_axis, point.x), _down(y_axis, point.y)]
                for point in points
                if point.y is not None
            ],
        }
        for one, points in lines
    ]
    return element("script", embedded_json(value), type="application/json")


def embedded_json(value: object) -> Markup:
    """JSON that may stand in a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))

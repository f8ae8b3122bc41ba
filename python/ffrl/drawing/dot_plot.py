"""Panels side by side that compare the same rows: in each a dot with its spread, and marks for its references."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from ffrl.drawing.curves import COLOURS
from ffrl.drawing.picture import BACKGROUND, INK, TEXT_HEIGHT, text_width
from ffrl.report.axis import Axis

PANEL_WIDTH, ROW_HEIGHT = 230, 24
_GRID = (225, 225, 225)
_GAP, _MARGIN, _BOTTOM = 36, 8, 34
# Pillow's lines have hard edges; drawn larger and shrunk they are smooth.
_FINER = 3
_RADIUS = 4.5
# A ring about a dot shows behind it.
_RING_RADIUS = 7.0
_HALF_TICK = 7.0
_SIGN_WIDTH = 16


@dataclass(frozen=True)
class Dot:
    """value: of one row in one panel, with sd on both sides; None: no spread is known. references: by name."""

    value: float
    sd: float | None = None
    references: Mapping[str, float] = field(default_factory=dict)


def dot_plot(
    panels: Mapping[str, Mapping[str, Dot]], title: str, dot_name: str, x_name: str, line: float | None = None
) -> Image.Image:
    """panels: by heading, the rows by name, the same in all; references of the same names in all, at most three.

    dot_name: what the dots are, in the legend. x_name: of the axis, which begins at 0 and is the same in all panels.
    line: a value to draw a dark upright line at. References more than twice as far as any dot and the line are left
    out, as the legend says then. ValueError: no panel or row, or rows and references that differ.
    """
    names, references = _common(panels)
    dots = [dot for rows in panels.values() for dot in rows.values()]
    farthest = 2 * max(max(dot.value + (dot.sd or 0), line or 0) for dot in dots)
    drawn = [value for dot in dots for value in dot.references.values() if value <= farthest]
    largest = max([farthest / 2, *drawn])
    beyond = {name for dot in dots for name, value in dot.references.items() if value > farthest}
    axis = Axis.over([0.0, 1.04 * largest], may_be_logarithmic=False, margin=0.0)
    left, top = _MARGIN + max(map(text_width, names)) + 8, 3 * TEXT_HEIGHT + 10
    step, height = PANEL_WIDTH + _GAP, len(names) * ROW_HEIGHT
    shown = [f"{name} (some farther)" if name in beyond else name for name in references]
    legend, end = _placed([dot_name, *shown])
    right = left + len(panels) * step - _GAP + _MARGIN + 10
    size = (max(right, end, text_width(title) + 2 * _MARGIN), top + height + _BOTTOM)
    large = Image.new("RGB", (size[0] * _FINER, size[1] * _FINER), BACKGROUND)
    pen = _Pen(large)
    for sign, (place, _) in zip((_disc, *_SIGNS), legend, strict=False):
        sign(pen, place + _RING_RADIUS, 1.5 * TEXT_HEIGHT + 3)
    for number, rows in enumerate(panels.values()):

        def x(value: float, start: int = left + number * step) -> float:
            return start + axis.position(value) * PANEL_WIDTH

        for value, _ in axis.ticks(4):
            pen.line(x(value), top, x(value), top + height, _GRID)
        if line is not None:
            pen.line(x(line), top, x(line), top + height, INK)
        for row, name in enumerate(names):
            dot, y = rows[name], top + (row + 0.5) * ROW_HEIGHT
            for sign, reference in zip(_SIGNS, references, strict=False):
                if dot.references[reference] <= farthest:
                    sign(pen, x(dot.references[reference]), y)
            if dot.sd:
                pen.line(x(max(dot.value - dot.sd, 0)), y, x(dot.value + dot.sd), y, COLOURS[0], 2)
            _disc(pen, x(dot.value), y)
    image = large.resize(size, Image.Resampling.LANCZOS)
    write = ImageDraw.Draw(image)
    write.text((_MARGIN, 1), title, fill=INK)
    for place, text in legend:
        write.text((place + _SIGN_WIDTH, TEXT_HEIGHT + 3), text, fill=INK)
    for row, name in enumerate(names):
        write.text((left - 8 - text_width(name), top + row * ROW_HEIGHT + ROW_HEIGHT // 2 - 6), name, fill=INK)
    for number, heading in enumerate(panels):
        start = left + number * step
        write.text((start, 2 * TEXT_HEIGHT + 8), heading, fill=INK)
        for value, label in axis.ticks(4):
            middle = start + axis.position(value) * PANEL_WIDTH
            write.text((middle - text_width(label) / 2, top + height + 4), label, fill=INK)
    write.text((left, top + height + 19), x_name, fill=INK)
    return image


class _Pen:
    """Draws on the enlarged picture, in the small one's pixels."""

    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: tuple[int, int, int], width: float = 1) -> None:
        points = [value * _FINER for value in (x0, y0, x1, y1)]
        self._draw.line(points, fill=colour, width=round(width * _FINER))

    def disc(self, x: float, y: float, colour: tuple[int, int, int]) -> None:
        self._draw.ellipse(_box(x, y, _RADIUS), fill=colour)

    def ring(self, x: float, y: float, colour: tuple[int, int, int]) -> None:
        self._draw.ellipse(_box(x, y, _RING_RADIUS), outline=colour, width=round(1.5 * _FINER))


def _box(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return ((x - radius) * _FINER, (y - radius) * _FINER, (x + radius) * _FINER, (y + radius) * _FINER)


def _disc(pen: _Pen, x: float, y: float) -> None:
    pen.disc(x, y, COLOURS[0])


def _ring(pen: _Pen, x: float, y: float) -> None:
    pen.ring(x, y, COLOURS[2])


def _tick(pen: _Pen, x: float, y: float) -> None:
    pen.line(x, y - _HALF_TICK, x, y + _HALF_TICK, COLOURS[3], 2)


def _cross(pen: _Pen, x: float, y: float) -> None:
    for slope in (-1, 1):
        pen.line(x - _RADIUS, y - slope * _RADIUS, x + _RADIUS, y + slope * _RADIUS, COLOURS[1], 1.5)


_SIGNS: Sequence[Callable[[_Pen, float, float], None]] = (_ring, _tick, _cross)
"""Of the references, in their order."""


def _placed(names: Sequence[str]) -> tuple[list[tuple[int, str]], int]:
    """Where the legend's entries begin, with their texts, and where the last ends."""
    places, left = [], _MARGIN
    for name in names:
        places.append((left, name))
        left += _SIGN_WIDTH + text_width(name) + 18
    return places, left


def _common(panels: Mapping[str, Mapping[str, Dot]]) -> tuple[list[str], list[str]]:
    """The names of the rows and of the references."""
    dots = [list(rows.values()) for rows in panels.values()]
    if not dots or not dots[0]:
        raise ValueError("panels: expected at least one with a row, found none")
    names = list(next(iter(panels.values())))
    references = list(dots[0][0].references)
    if any(list(rows) != names for rows in panels.values()):
        raise ValueError(f"panels: expected the rows {names} in each, found others")
    if any(list(dot.references) != references for rows in dots for dot in rows) or len(references) > len(_SIGNS):
        raise ValueError(f"references: expected the same of every dot, at most {len(_SIGNS)}, found others")
    return names, references

"""A line chart: a few lines over whole numbers from 0 on, named in a legend above."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from ffrl.drawing.picture import BACKGROUND, INK, TEXT_HEIGHT, text_width
from ffrl.report.axis import Axis

WIDTH, HEIGHT = 480, 260
# Of Okabe and Ito: told apart whatever colours a reader sees.
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (120, 120, 120), (204, 121, 167))
_GRID = (225, 225, 225)
_LEFT, _RIGHT, _BOTTOM = 52, 14, 32
# Pillow's lines have hard edges; drawn larger and shrunk they are smooth.
_FINER = 3
_SWATCH = 18


def curves(lines: Mapping[str, Sequence[float]], title: str, x_name: str) -> Image.Image:
    """lines: by name, the values at 0, 1, 2, …, finite and as many of each, at most five lines; the first is drawn on
    top. The vertical axis begins at 0.
    """
    if not lines or len(lines) > len(COLOURS):
        raise ValueError(f"lines: expected 1 to {len(COLOURS)}, found {len(lines)}")
    last = len(next(iter(lines.values()))) - 1
    legend, top = _placed(list(lines))
    across = Axis.over([0, last or 1], may_be_logarithmic=False, margin=0.0)
    up = Axis.over([0, *(value for values in lines.values() for value in values)], may_be_logarithmic=False, margin=0.0)
    plot = (_LEFT, top, WIDTH - _RIGHT, HEIGHT - _BOTTOM)

    def point(x: float, y: float) -> tuple[float, float]:
        return (
            plot[0] + across.position(x) * (plot[2] - plot[0]),
            plot[3] - up.position(y) * (plot[3] - plot[1]),
        )

    large = Image.new("RGB", (WIDTH * _FINER, HEIGHT * _FINER), BACKGROUND)
    pen = ImageDraw.Draw(large)

    def line(points: Sequence[tuple[float, float]], colour: tuple[int, int, int], width: int) -> None:
        pen.line([(x * _FINER, y * _FINER) for x, y in points], fill=colour, width=width, joint="curve")

    ticks = up.ticks(5)
    for value, _ in ticks:
        line([point(0, value), (plot[2], point(0, value)[1])], _GRID, _FINER)
    coloured = list(zip(lines.values(), COLOURS, strict=False))
    for values, colour in reversed(coloured):
        line([point(t, value) for t, value in enumerate(values)], colour, 2 * _FINER)
    for (left, y), colour in zip(legend, COLOURS, strict=False):
        line([(left, y + TEXT_HEIGHT / 2), (left + _SWATCH, y + TEXT_HEIGHT / 2)], colour, 3 * _FINER)
    image = large.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(image)
    pen.text((4, 1), title, fill=INK)
    for (left, y), name in zip(legend, lines, strict=True):
        pen.text((left + _SWATCH + 4, y + 1), name, fill=INK)
    for value, label in ticks:
        pen.text((plot[0] - 6 - text_width(label), point(0, value)[1] - 6), label, fill=INK)
    for t in range(last + 1):
        pen.text((point(t, 0)[0] - 3, plot[3] + 4), str(t), fill=INK)
    pen.text(((plot[0] + plot[2] - text_width(x_name)) // 2, HEIGHT - 14), x_name, fill=INK)
    return image


def _placed(names: Sequence[str]) -> tuple[list[tuple[int, int]], int]:
    """Where the legend's entries begin, in as many lines as they need, and where the plot may begin."""
    places, left, top = [], _LEFT, TEXT_HEIGHT + 4
    for name in names:
        needed = _SWATCH + text_width(name) + 18
        if left + needed > WIDTH and left > _LEFT:
            left, top = _LEFT, top + TEXT_HEIGHT
        places.append((left, top))
        left += needed
    return places, top + TEXT_HEIGHT + 6

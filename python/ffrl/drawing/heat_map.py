"""A square table of numbers from 0 to 1, darker where they are greater."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from ffrl.drawing.picture import ABSENT, BACKGROUND, INK, TEXT_HEIGHT, text_width

CELL = 56
DARK = (8, 64, 129)
_MARGIN = 8


def heat_map(values: Sequence[Sequence[float | None]], names: Sequence[str], title: str, note: str = "") -> Image.Image:
    """values: K rows of K numbers in [0, 1], None where there is none. names: of rows and columns. note: below."""
    count, label = len(names), max(map(text_width, names))
    left, top = _MARGIN + label + 6, TEXT_HEIGHT + 6 + label
    side = count * CELL
    width = max(left + side, text_width(title), text_width(note)) + 2 * _MARGIN
    image = Image.new("RGB", (width, top + side + TEXT_HEIGHT + 2 * _MARGIN), BACKGROUND)
    pen = ImageDraw.Draw(image)
    pen.text((_MARGIN, 1), title, fill=INK)
    for k, name in enumerate(names):
        pen.text((left - 6 - text_width(name), top + k * CELL + CELL // 2 - 6), name, fill=INK)
        image.paste(_upright(name), (left + k * CELL + CELL // 2 - TEXT_HEIGHT // 2, top - 4 - text_width(name)))
    for row, numbers in enumerate(values):
        for column, value in enumerate(numbers):
            x, y = left + column * CELL, top + row * CELL
            fill = ABSENT if value is None else _shade(value)
            pen.rectangle((x, y, x + CELL - 2, y + CELL - 2), fill=fill)
            text = "-" if value is None else f"{value:.3f}"
            ink = BACKGROUND if value is not None and value > 0.5 else INK
            pen.text((x + (CELL - text_width(text)) // 2, y + CELL // 2 - 6), text, fill=ink)
    pen.text((_MARGIN, top + side + _MARGIN), note, fill=INK)
    return image


def _shade(value: float) -> tuple[int, int, int]:
    """From the background at 0 to the dark colour at 1; values beyond are drawn as the nearest of the two."""
    share = min(max(value, 0.0), 1.0)
    red, green, blue = (round(b + share * (d - b)) for b, d in zip(BACKGROUND, DARK, strict=True))
    return red, green, blue


def _upright(text: str) -> Image.Image:
    """The text from below to above."""
    image = Image.new("RGB", (text_width(text), TEXT_HEIGHT), BACKGROUND)
    ImageDraw.Draw(image).text((0, 0), text, fill=INK)
    return image.rotate(90, expand=True)

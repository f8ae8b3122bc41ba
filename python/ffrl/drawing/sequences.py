"""Sequences of images: strips, a column for each t, and animations, a picture for each t."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from ffrl.drawing.picture import BACKGROUND, INK, TEXT_HEIGHT, enlargement, picture, save_gif, save_png, text_width

GAP = 6
TEXT_WIDTH = 34
OUTLINE = 3
Rows = Mapping[str, Tensor]
Colour = tuple[int, int, int]
Outlines = Mapping[str, Sequence[tuple[Tensor, Colour]]]


def save_sequences(rows: Rows, title: str, note: str, path: Path) -> list[Path]:
    """Write `strip` and `animation` to `path` with the endings .png and .gif; the paths written.

    rows: as of `strip`. title: of both; note: added to the strip's.
    """
    return [
        save_png(strip(rows, f"{title}: {note}"), path.with_name(f"{path.name}.png")),
        save_gif(animation(rows, title), path.with_name(f"{path.name}.gif")),
    ]


def strip(rows: Rows, title: str, outlines: Outlines | None = None) -> Image.Image:
    """One picture: a column for each t and, for each sequence, the rows one above another.

    rows: by label, the images (S + 1, N, C, H, W) of N sequences; NaN where there is none. outlines: by label, which
    frames to outline, bool (S + 1, N), and in which colour.
    """
    steps, count, _, high, wide = next(iter(rows.values())).shape
    times = enlargement(wide)
    width, height = wide * times, high * times
    margin = _margin(rows)
    group = len(rows) * (height + 1) - 1 + GAP
    size = (margin + steps * (width + 1) + GAP, 2 * TEXT_HEIGHT + count * group)
    image = Image.new("RGB", (max(size[0], text_width(title) + 8), size[1]), BACKGROUND)
    pen = ImageDraw.Draw(image)
    pen.text((4, 1), title, fill=INK)
    for t in range(steps):
        left = margin + t * (width + 1)
        pen.text((left + width // 2 - 10, TEXT_HEIGHT), f"t = {t}", fill=INK)
        for n in range(count):
            for row, (label, images) in enumerate(rows.items()):
                top = 2 * TEXT_HEIGHT + n * group + row * (height + 1)
                image.paste(picture(images[t, n]), (left, top))
                for chosen, colour in (outlines or {}).get(label, ()):
                    if chosen[t, n]:
                        pen.rectangle((left, top, left + width - 1, top + height - 1), outline=colour, width=OUTLINE)
                if t == 0:
                    pen.text((4, top + height // 2 - 6), label, fill=INK)
    return image


def animation(rows: Rows, title: str, times: Sequence[int] | None = None) -> list[Image.Image]:
    """S + 1 pictures, each with the sequences side by side, the rows one above another.

    rows: as of `strip`. times: what t is at each picture; 0…S when not given.
    """
    steps, count, _, high, wide = next(iter(rows.values())).shape
    scale = enlargement(wide)
    width, height = wide * scale, high * scale
    shown = range(steps) if times is None else times
    headings = [f"{title}  t = {t} of {max(shown)}" for t in shown]
    margin = _margin(rows)
    size = (
        max(margin + count * (width + 1) + GAP, max(map(text_width, headings)) + 8),
        TEXT_HEIGHT + len(rows) * (height + 1) + GAP,
    )
    frames = []
    for step, heading in enumerate(headings):
        image = Image.new("RGB", size, BACKGROUND)
        pen = ImageDraw.Draw(image)
        pen.text((4, 1), heading, fill=INK)
        for row, (label, images) in enumerate(rows.items()):
            top = TEXT_HEIGHT + row * (height + 1)
            pen.text((4, top + height // 2 - 6), label, fill=INK)
            for n in range(count):
                image.paste(picture(images[step, n]), (margin + n * (width + 1), top))
        frames.append(image)
    return frames


def _margin(rows: Rows) -> int:
    """Room for the labels."""
    return max(TEXT_WIDTH, *(text_width(label) + 8 for label in rows))

"""Pictures hold what they were given, where it belongs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ffrl.drawing import Dot, animation, curves, dot_plot, heat_map, save_gif, save_sequences, strip
from ffrl.drawing.curves import COLOURS, HEIGHT, WIDTH
from ffrl.drawing.dot_plot import PANEL_WIDTH, ROW_HEIGHT
from ffrl.drawing.heat_map import CELL, DARK
from ffrl.drawing.picture import ABSENT, TEXT_HEIGHT, text_width
from ffrl.drawing.sequences import GAP

GREY = torch.arange(3 * 2).reshape(3, 2, 1, 1, 1) / 5 * torch.ones(3, 2, 1, 84, 84)


def test_a_strip_has_a_column_for_each_time_and_a_row_for_each_label() -> None:
    rows = {"one": GREY, "another label": 1 - GREY}
    image = strip(rows, "title")
    margin = image.width - GAP - 3 * 85
    for n in range(2):
        for t in range(3):
            x, y = margin + t * 85 + 40, 2 * TEXT_HEIGHT + n * (2 * 85 - 1 + GAP) + 40
            value = round(255 * (2 * t + n) / 5)
            assert image.getpixel((x, y)) == (value,) * 3
            assert image.getpixel((x, y + 85)) == (255 - value,) * 3


def test_outlines_and_frames_that_are_absent() -> None:
    images = GREY.clone()
    images[1, 0] = torch.nan
    chosen = torch.zeros(3, 2, dtype=torch.bool)
    chosen[2, 1] = True
    image = strip({"a": GREY, "b": images}, "title", {"a": [(chosen, (1, 2, 3))]})
    margin = image.width - GAP - 3 * 85
    top = 2 * TEXT_HEIGHT
    assert image.getpixel((margin + 85 + 42, top + 85 + 20)) == ABSENT
    assert pixels_of(image).count((1, 2, 3)) == 84**2 - 78**2
    assert image.getpixel((margin + 2 * 85, top + 169 + GAP)) == (1, 2, 3)


def test_long_titles_fit() -> None:
    short, long = strip({"a": GREY}, "x"), strip({"a": GREY}, "a long title " * 20)
    assert long.width > short.width and long.height == short.height


def test_animations_may_run_backwards_and_keep_their_frames(tmp_path: Path) -> None:
    frames = animation({"a": GREY}, "title", range(2, -1, -1))
    assert len(frames) == 3 and len({frame.size for frame in frames}) == 1
    with Image.open(save_gif(frames, tmp_path / "a.gif")) as saved:
        assert saved.n_frames == 3
    paths = save_sequences({"a": GREY}, "title", "note", tmp_path / "of.three")
    assert [path.name for path in paths] == ["of.three.png", "of.three.gif"]
    for path in paths:
        with Image.open(path) as saved:
            saved.verify()


def test_curves_go_through_their_values() -> None:
    image = curves({"level": [5.0, 5.0, 5.0], "rising": [0.0, 5.0, 10.0]}, "title", "t")
    assert image.size == (WIDTH, HEIGHT)
    level, rising = ([height_at(image, x, colour) for x in (100, 400)] for colour in COLOURS[:2])
    assert level[0] == pytest.approx(level[1], abs=1)
    assert rising[0] > level[0] > rising[1], "the picture's y grows downwards"
    assert curves({"one": [1.0]}, "title", "t").size == (WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="lines: expected 1 to 5, found 6"):
        curves({str(n): [0.0, 1.0] for n in range(6)}, "title", "t")


def test_heat_maps_are_dark_where_numbers_are_great() -> None:
    image = heat_map([[1.0, 0.25], [None, 0.0]], ["a", "wide name"], "title", "note")
    pixels = pixels_of(image)
    assert pixels.count(DARK) > 0.8 * CELL**2 and pixels.count(ABSENT) > 0.8 * CELL**2
    assert pixels.count(tuple(round(255 + 0.25 * (d - 255)) for d in DARK)) > 0.8 * CELL**2


def pixels_of(image: Image.Image) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def height_at(image: Image.Image, x: int, colour: tuple[int, int, int]) -> float:
    """The mean y below the legend of the pixels of this colour, or nearly."""
    column = np.asarray(image)[40:, x].astype(int)
    return 40 + float(np.flatnonzero(np.abs(column - colour).sum(axis=1) < 60).mean())


def test_a_dot_plot_has_each_dot_at_its_value() -> None:
    references = {"perfect": 0.1, "pixels": 0.9, "black": 1.0}
    panels = {
        "a": {"one": Dot(0.25, 0.1, references), "two": Dot(0.75, None, references)},
        "b": {"one": Dot(0.5, None, references), "two": Dot(0.5, 0.2, references)},
    }
    image = dot_plot(panels, "title", "error", "x", line=1.0)
    # The axis ends a little beyond the largest number.
    pixels_a_unit = PANEL_WIDTH / 1.04
    left = 8 + text_width("two") + 8 if text_width("two") > text_width("one") else 8 + text_width("one") + 8
    top = 3 * TEXT_HEIGHT + 10
    for number, rows in enumerate(panels.values()):
        for row, dot in enumerate(rows.values()):
            x = left + number * (PANEL_WIDTH + 36) + dot.value * pixels_a_unit
            y = top + (row + 0.5) * ROW_HEIGHT
            assert image.getpixel((round(x), round(y))) == COLOURS[0]
            between = image.getpixel((round(x + 0.07 * pixels_a_unit), round(y)))
            assert (between != (255, 255, 255)) == (dot.sd is not None)
    assert image.width > 2 * PANEL_WIDTH and image.height > top + 2 * ROW_HEIGHT


def test_references_far_beyond_the_dots_do_not_squeeze_them() -> None:
    near = dot_plot({"a": {"one": Dot(0.5, references={"r": 0.9})}}, "", "error", "", line=1.0)
    far = dot_plot({"a": {"one": Dot(0.5, references={"r": 90.0})}}, "", "error", "", line=1.0)

    def place(image: Image.Image) -> float:
        found = [n for n, pixel in enumerate(pixels_of(image)) if pixel == COLOURS[0]]
        return max(n % image.width for n in found if n // image.width > 3 * TEXT_HEIGHT + 10)

    assert place(near) == place(far)
    greens = [sum(green > max(red, blue) + 20 for red, green, blue in pixels_of(image)) for image in (near, far)]
    assert greens[0] > 1.5 * greens[1] > 0  # the far one is in the legend only


def test_dot_plots_of_rows_that_differ_are_refused() -> None:
    for panels in ({}, {"a": {}}):
        with pytest.raises(ValueError, match="panels: expected at least one with a row, found none"):
            dot_plot(panels, "", "", "")
    with pytest.raises(ValueError, match=r"panels: expected the rows \['x'\] in each, found others"):
        dot_plot({"a": {"x": Dot(1)}, "b": {"y": Dot(1)}}, "", "", "")
    with pytest.raises(ValueError, match="references: expected the same of every dot, at most 3, found others"):
        dot_plot({"a": {"x": Dot(1), "y": Dot(1, references={"r": 1})}}, "", "", "")

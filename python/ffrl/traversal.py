"""Pictures of the flows: strips of frames and animations, the true sequence above what the flow draws."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ffrl.data import Dataset
from ffrl.files import write_atomically
from ffrl.models import FlowModel

SHOWN_SIDE = 84
GAP = 6
TEXT_WIDTH = 34
TEXT_HEIGHT = 14
BACKGROUND = (255, 255, 255)
INK = (40, 40, 40)
FRAME_MILLISECONDS = 160
HOLD_MILLISECONDS = 700


def draw_traversals(
    model: FlowModel, data: Dataset, count: int, folder: Path, potentials: Sequence[int] | None = None
) -> list[Path]:
    """Write {transformation}.png (strips) and {transformation}.gif (animation, T + 1 frames) into `folder`.

    count: how many held-out sequences to show. potentials: which potential stands for each transformation; default: its
    own. Returns the paths written.
    """
    paths = []
    for k, name in enumerate(data.transformations):
        chunks = data.sequences("held_out", k, count)
        shown = [truth_and_flow(model, frames, k if potentials is None else potentials[k]) for frames in chunks]
        truth, drawn = (torch.cat(parts, dim=1) for parts in zip(*shown, strict=True))
        paths += [folder / f"{name}.png", folder / f"{name}.gif"]
        _save_png(strip(truth, drawn, name), paths[-2])
        _save_gif(animation(truth, drawn, name), paths[-1])
    return paths


@torch.no_grad()
def truth_and_flow(model: FlowModel, truth: Tensor, potential: int) -> tuple[Tensor, Tensor]:
    """The true frames x_t and the flow's decode(z_t), each (T + 1, N, C, H, W); z_0 is the posterior mean of x_0."""
    z = model.flow(model.autoencoder.encode(truth[0]).mean, potential)
    return truth, model.autoencoder.decode(z)


def enlargement(side: int) -> int:
    """How many pixels of a picture one of an image takes."""
    return max(1, SHOWN_SIDE // side)


def strip(truth: Tensor, drawn: Tensor, title: str) -> Image.Image:
    """One picture: a column for each t, and for each sequence a row of the truth above a row of the flow."""
    steps, count = truth.shape[:2]
    size = truth.shape[-1] * enlargement(truth.shape[-1])
    image = Image.new(
        "RGB", (TEXT_WIDTH + steps * (size + 1) + GAP, 2 * TEXT_HEIGHT + count * (2 * size + 1 + GAP)), BACKGROUND
    )
    pen = ImageDraw.Draw(image)
    pen.text((4, 1), f"{title}: held out, the flow starts from the encoding of t = 0", fill=INK)
    for t in range(steps):
        left = TEXT_WIDTH + t * (size + 1)
        pen.text((left + size // 2 - 10, TEXT_HEIGHT), f"t = {t}", fill=INK)
        for n in range(count):
            top = 2 * TEXT_HEIGHT + n * (2 * size + 1 + GAP)
            image.paste(_picture(truth[t, n]), (left, top))
            image.paste(_picture(drawn[t, n]), (left, top + size + 1))
            if t == 0:
                pen.text((4, top + size // 2 - 6), "true", fill=INK)
                pen.text((4, top + size + size // 2 - 6), "flow", fill=INK)
    return image


def animation(truth: Tensor, drawn: Tensor, title: str) -> list[Image.Image]:
    """T + 1 pictures, each with the sequences side by side, the truth above the flow."""
    steps, count = truth.shape[:2]
    size = truth.shape[-1] * enlargement(truth.shape[-1])
    frames = []
    for t in range(steps):
        image = Image.new("RGB", (TEXT_WIDTH + count * (size + 1) + GAP, TEXT_HEIGHT + 2 * size + 1 + GAP), BACKGROUND)
        pen = ImageDraw.Draw(image)
        pen.text((4, 1), f"{title}  t = {t} of {steps - 1}", fill=INK)
        for row, (label, images) in enumerate((("true", truth), ("flow", drawn))):
            top = TEXT_HEIGHT + row * (size + 1)
            pen.text((4, top + size // 2 - 6), label, fill=INK)
            for n in range(count):
                image.paste(_picture(images[t, n]), (TEXT_WIDTH + n * (size + 1), top))
        frames.append(image)
    return frames


def _picture(image: Tensor) -> Image.Image:
    """float (C, H, W) in [0, 1], C = 1 or 3 → a picture, small ones enlarged with their pixels visible."""
    values = (image.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    picture, times = Image.fromarray(values), enlargement(image.shape[-1])
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def _save_png(image: Image.Image, path: Path) -> None:
    write_atomically(path, lambda temporary: image.save(temporary, format="PNG"))


def _save_gif(frames: list[Image.Image], path: Path) -> None:
    durations = [FRAME_MILLISECONDS] * len(frames)
    durations[0] = durations[-1] = HOLD_MILLISECONDS
    # One palette for all frames: with one each, Pillow's colours flicker between frames.
    width, height = frames[0].size
    sheet = Image.new("RGB", (width, height * len(frames)))
    for number, frame in enumerate(frames):
        sheet.paste(frame, (0, number * height))
    palette = sheet.quantize(256, method=Image.Quantize.MEDIANCUT)
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    write_atomically(
        path,
        lambda temporary: first.save(
            temporary, format="GIF", save_all=True, append_images=others, duration=durations, loop=0, disposal=1
        ),
    )

"""What all pictures have in common: colours, lettering, enlarged images, files."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ffrl.files import write_atomically

SHOWN_SIDE = 84
TEXT_HEIGHT = 14
BACKGROUND = (255, 255, 255)
INK = (40, 40, 40)
ABSENT = (215, 215, 215)
FRAME_MILLISECONDS = 160
HOLD_MILLISECONDS = 700


def enlargement(side: int) -> int:
    """How many pixels of a picture one of an image takes."""
    return max(1, SHOWN_SIDE // side)


def picture(image: Tensor) -> Image.Image:
    """float (C, H, W) in [0, 1], C = 1 or 3 → a picture, small ones enlarged with their pixels visible.

    An image that holds NaN is absent: a grey field, crossed out.
    """
    times = enlargement(image.shape[-1])
    size = (image.shape[-1] * times, image.shape[-2] * times)
    if image.isnan().any():
        absent = Image.new("RGB", size, ABSENT)
        pen = ImageDraw.Draw(absent)
        pen.line((0, 0, size[0], size[1]), fill=INK)
        pen.line((0, size[1], size[0], 0), fill=INK)
        return absent
    values = (image.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(values).resize(size, Image.Resampling.NEAREST)


def text_width(text: str) -> int:
    """Pixels that a line of text takes."""
    return int(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(text)) + 1


def save_png(image: Image.Image, path: Path) -> Path:
    """Write atomically; the path."""
    write_atomically(path, lambda temporary: image.save(temporary, format="PNG"))
    return path


def save_gif(frames: list[Image.Image], path: Path) -> Path:
    """Write an endless animation atomically, the first and the last frame held for longer; the path."""
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
    return path

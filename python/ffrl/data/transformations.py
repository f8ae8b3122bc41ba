"""The three transformations of a digit and their rendering.

State t = 0…8 of a factor: zoom 1 + 0.1·t, rotation 10°·t, hue 20°·t (as in arXiv 2309.13167), always from the
untransformed image.
A state of all three is rendered at once by one warp: zoom and rotation share the centre and commute, and the hue of a
red digit multiplies its grey values by one colour. The centre is that of the image, ((W−1)/2, (H−1)/2) in pixel
coordinates; (W/2, H/2), often seen with kornia, is half a pixel off and moves the digit while it turns.
"""

import torch
from kornia.color import hsv_to_rgb
from kornia.geometry import get_rotation_matrix2d, warp_affine
from torch import Tensor

from ffrl.data.dataset import SequenceFormat

TRANSFORMATIONS = ("scale", "rotate", "colour")
NUM_STEPS = 8
IMAGE_SHAPE = (3, 28, 28)
FORMAT = SequenceFormat(TRANSFORMATIONS, NUM_STEPS, IMAGE_SHAPE)
ZOOM_STEP = 0.1
ROTATION_STEP_DEGREES = 10.0
HUE_STEP_DEGREES = 20.0


def render(grey: Tensor, states: Tensor) -> Tensor:
    """Draw digits in given states.

    grey: uint8 (N, 28, 28) or float in [0, 1]. states: (N, 3), the state t of scale, rotate and colour of each row;
    fractions are allowed. Returns float32 (N, 3, 28, 28) in [0, 1]; state (0, 0, 0) is the digit in the red channel.
    """
    if grey.ndim != 3 or states.shape != (len(grey), len(TRANSFORMATIONS)):
        raise ValueError(
            f"render: expected grey (N, H, W) and states (N, 3), found {tuple(grey.shape)} and {tuple(states.shape)}"
        )
    states = states.to(torch.float32)
    scale, rotate, colour = states.unbind(1)
    warped = warp_about_centre(_to_unit(grey).unsqueeze(1), 1 + ZOOM_STEP * scale, ROTATION_STEP_DEGREES * rotate)
    return warped * hue_colour(HUE_STEP_DEGREES * colour)[:, :, None, None]


def render_sequences(grey: Tensor, transformation: int, start: Tensor | None = None) -> Tensor:
    """Draw whole sequences x_0…x_T of one transformation.

    grey: (N, 28, 28). transformation: index into TRANSFORMATIONS. start: (N, 3) states of the other factors, default 0.
    Returns float32 (T + 1, N, 3, 28, 28), T = NUM_STEPS.
    """
    count = len(grey)
    states = torch.zeros(NUM_STEPS + 1, count, len(TRANSFORMATIONS))
    if start is not None:
        states += start
    states[:, :, transformation] += torch.arange(NUM_STEPS + 1)[:, None]
    frames = render(grey.repeat(NUM_STEPS + 1, 1, 1), states.flatten(0, 1))
    return frames.reshape(NUM_STEPS + 1, count, *frames.shape[1:])


def warp_about_centre(images: Tensor, zoom: Tensor, degrees: Tensor) -> Tensor:
    """Zoom and turn float images (N, C, H, W) about ((W−1)/2, (H−1)/2); zoom and degrees are (N,). Outside is black."""
    height, width = images.shape[-2:]
    centre = torch.tensor([[(width - 1) / 2, (height - 1) / 2]], dtype=images.dtype).expand(len(images), 2)
    matrix = get_rotation_matrix2d(centre, degrees, zoom[:, None].expand(-1, 2))
    return warp_affine(images, matrix, (height, width), align_corners=True)


def hue_colour(degrees: Tensor) -> Tensor:
    """RGB (N, 3) of a saturated, fully bright colour whose hue is `degrees` (N,); 0 is red."""
    hue = torch.deg2rad(degrees) % (2 * torch.pi)
    hsv = torch.stack([hue, torch.ones_like(hue), torch.ones_like(hue)], dim=1)
    return hsv_to_rgb(hsv[:, :, None, None])[:, :, 0, 0]


def _to_unit(grey: Tensor) -> Tensor:
    return grey.to(torch.float32) / 255 if grey.dtype == torch.uint8 else grey

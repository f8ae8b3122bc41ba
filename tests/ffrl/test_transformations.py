"""Rendering: against kornia's full colour pipeline, about the true centre, from the untransformed image."""

import pytest
import torch
from kornia.enhance import adjust_hue
from kornia.geometry import get_rotation_matrix2d, warp_affine

from ffrl.data import NUM_STEPS, TRANSFORMATIONS, Digits, render, render_sequences
from ffrl.data.transformations import warp_about_centre

SCALE, ROTATE, COLOUR = range(3)


def test_plain_state_is_the_digit_in_red(digits: Digits) -> None:
    image = render(digits.train[:5], torch.zeros(5, 3))
    torch.testing.assert_close(image[:, 0], digits.train[:5] / 255, atol=1e-5, rtol=0)
    assert image[:, 1:].abs().max() == 0


def test_equals_kornia_on_colour_images(digits: Digits) -> None:
    """One warp and one colour factor give what warping and hue-shifting three channels gives."""
    grey = digits.train[:6] / 255
    states = torch.tensor([[0, 0, 0], [8, 0, 0], [0, 8, 0], [0, 0, 8], [3, 5, 7], [8, 2, 4]])
    red = torch.zeros(6, 3, 28, 28)
    red[:, 0] = grey
    centre = torch.full((6, 2), 13.5)
    matrix = get_rotation_matrix2d(centre, 10.0 * states[:, ROTATE], (1 + 0.1 * states[:, [SCALE]]).expand(6, 2))
    warped = warp_affine(red, matrix, (28, 28), align_corners=True)
    hues = torch.deg2rad(20.0 * states[:, COLOUR]).tolist()
    expected = torch.stack([adjust_hue(image, hue) for image, hue in zip(warped, hues, strict=True)])
    torch.testing.assert_close(render(digits.train[:6], states), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("degrees", [90.0, 180.0])
def test_turns_about_the_centre_of_the_image(degrees: float) -> None:
    """About the true centre quarter turns permute the pixels; half a pixel off they would blur and shift."""
    image = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    turned = warp_about_centre(image, torch.ones(1), torch.tensor([degrees]))
    torch.testing.assert_close(turned, torch.rot90(image, int(degrees // 90), (2, 3)), atol=1e-4, rtol=0)


def test_zooms_about_the_centre_of_the_image() -> None:
    """A symmetric image stays symmetric, and its area grows by the square of the zoom."""
    image = torch.zeros(1, 1, 28, 28)
    image[..., 12:16, 12:16] = 1
    zoomed = warp_about_centre(image, torch.tensor([1.8]), torch.zeros(1))
    torch.testing.assert_close(zoomed, zoomed.flip(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(zoomed, zoomed.flip(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(zoomed.sum(), torch.tensor(16 * 1.8**2), atol=0, rtol=0.03)


@pytest.mark.parametrize("k", range(3))
def test_sequences_go_through_all_states_from_the_untransformed_image(digits: Digits, k: int) -> None:
    frames = render_sequences(digits.train[:4], k)
    assert frames.shape == (NUM_STEPS + 1, 4, 3, 28, 28)
    for t in range(NUM_STEPS + 1):
        states = torch.zeros(4, 3)
        states[:, k] = t
        torch.testing.assert_close(frames[t], render(digits.train[:4], states))


def test_sequences_may_start_in_states_of_other_factors(digits: Digits) -> None:
    start = torch.tensor([[0, 3, 6], [0, 0, 1]])
    frames = render_sequences(digits.train[:2], SCALE, start)
    torch.testing.assert_close(frames[5], render(digits.train[:2], start + torch.tensor([5, 0, 0])))


def test_images_stay_in_the_unit_interval(digits: Digits) -> None:
    for k in range(len(TRANSFORMATIONS)):
        frames = render_sequences(digits.train[:20], k)
        assert frames.min() >= 0
        assert frames.max() <= 1


def test_wrong_shapes_are_named(digits: Digits) -> None:
    with pytest.raises(ValueError, match=r"expected grey \(N, H, W\) and states \(N, 3\), found .*\(4, 2\)"):
        render(digits.train[:4], torch.zeros(4, 2))

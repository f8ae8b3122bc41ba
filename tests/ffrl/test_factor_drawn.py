"""The drawn sprites and shapes: every factor shows, nothing else does, and drawing is deterministic."""

import pytest
import torch
from torch import Tensor

from ffrl.data import FactorImages, Shapes, Sprites
from ffrl.data.ray_casting import cast_scene, signed_distance
from ffrl.data.sprites import SHAPES as SPRITE_SHAPES
from ffrl.data.sprites import draw_sprite

SPRITES, SHAPES = Sprites(), Shapes()


def random_states(data: FactorImages, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, size, (count,), generator=generator) for size in data.sizes], dim=1)


def varied(base: list[int], column: int, values: int) -> Tensor:
    states = torch.tensor(base).repeat(values, 1)
    states[:, column] = torch.arange(values)
    return states


@pytest.mark.parametrize("data", [SPRITES, SHAPES], ids=["sprites", "shapes"])
def test_images_have_their_shape(data: FactorImages) -> None:
    images = data.images(random_states(data, 3))
    assert images.shape == (3, *data.image_shape)
    assert images.dtype == torch.uint8


@pytest.mark.parametrize("base", [[0, 2, 3, 5, 16, 16], [0, 1, 0, 30, 0, 31], [0, 0, 5, 3, 31, 7]])
@pytest.mark.parametrize("column", [1, 2, 3, 4, 5])
def test_every_value_of_a_sprite_shows(base: list[int], column: int) -> None:
    values = SPRITES.factors[column].distinct
    images = SPRITES.images(varied(base, column, values))
    assert len(images.flatten(1).unique(dim=0)) == values


@pytest.mark.parametrize("base", [[0, 3, 6, 4, 0, 7], [9, 9, 9, 7, 3, 0], [5, 0, 5, 0, 2, 14]])
@pytest.mark.parametrize("column", [0, 1, 2, 3, 4, 5])
def test_every_value_of_a_shape_shows(base: list[int], column: int) -> None:
    values = SHAPES.sizes[column]
    images = SHAPES.images(varied(base, column, values))
    assert len(images.flatten(1).unique(dim=0)) == values


def test_last_orientation_of_a_sprite_is_the_first() -> None:
    states = torch.tensor([[0, 2, 3, 0, 10, 10], [0, 2, 3, 39, 10, 10]])
    first, last = SPRITES.images(states)
    assert torch.equal(first, last)


@pytest.mark.parametrize("data", [SPRITES, SHAPES], ids=["sprites", "shapes"])
def test_images_do_not_depend_on_what_was_drawn_before_or_beside(data: FactorImages) -> None:
    states = random_states(data, 20)
    images = data.images(states)
    fresh = type(data)()
    alone = torch.cat([fresh.images(state[None]) for state in states.flip(0)]).flip(0)
    assert torch.equal(images, alone)


@pytest.mark.parametrize("data", [SPRITES, SHAPES], ids=["sprites", "shapes"])
def test_checksum_is_that_of_the_images(data: FactorImages, monkeypatch: pytest.MonkeyPatch) -> None:
    before = data.checksum()
    assert data.checksum() == before
    images = type(data).images
    monkeypatch.setattr(type(data), "images", lambda self, states: images(self, states) ^ 1)
    assert data.checksum() != before


@pytest.mark.parametrize("shape", [0, 1, 2])
def test_larger_sprites_cover_more_by_the_square_of_their_scale(shape: int) -> None:
    areas = SPRITES.images(varied([0, shape, 0, 7, 16, 16], 2, 6)).sum(dim=(1, 2, 3)) / 255
    assert (areas.diff() > 0).all()
    expected = areas[-1] * torch.linspace(0.5, 1, 6) ** 2
    torch.testing.assert_close(areas, expected, rtol=0.01, atol=0.5)


def test_area_of_a_sprite_is_exact_where_a_formula_exists() -> None:
    assert draw_sprite("square", 1.0, 0.0).sum() / 255 == pytest.approx(19**2, rel=2e-3)
    assert draw_sprite("ellipse", 1.0, 0.4).sum() / 255 == pytest.approx(torch.pi * 14 * 7, rel=2e-3)


@pytest.mark.parametrize("shape", [0, 1, 2])
def test_sprites_are_never_clipped(shape: int) -> None:
    for x, y in [(0, 0), (31, 31), (0, 31), (31, 0)]:
        images = SPRITES.images(varied([0, shape, 5, 0, x, y], 3, 40))
        middle = SPRITES.images(varied([0, shape, 5, 0, 15, 15], 3, 40))
        assert torch.equal(images.sum(dim=(1, 2, 3)), middle.sum(dim=(1, 2, 3)))
        assert images[..., [0, -1]].sum() + images[..., [0, -1], :].sum() == 0


@pytest.mark.parametrize("shape", SPRITE_SHAPES)
def test_sprites_leave_the_border_of_their_patch_free(shape: str) -> None:
    patch = draw_sprite(shape, 1.0, 0.77)
    assert patch[[0, -1]].sum() + patch[:, [0, -1]].sum() == 0


def test_sprites_move_one_pixel_a_value_right_and_down() -> None:
    start, right, down = SPRITES.images(torch.tensor([[0, 2, 3, 4, 9, 9], [0, 2, 3, 4, 10, 9], [0, 2, 3, 4, 9, 10]]))
    assert torch.equal(right, start.roll(1, dims=2))
    assert torch.equal(down, start.roll(1, dims=1))


def test_sprites_turn_counter_clockwise() -> None:
    """A quarter turn to the left, by the rotation of the pixel grid."""
    upright, turned = draw_sprite("heart", 1.0, 0.0), draw_sprite("heart", 1.0, torch.pi / 2)
    torch.testing.assert_close(turned.float(), torch.rot90(upright).float(), rtol=0, atol=8)


def test_hue_moves_the_colour_of_its_part_alone() -> None:
    """A change of the floor's hue leaves all pixels as they are that no change of the wall's or object's leaves."""
    base = [0, 3, 6, 4, 0, 9]
    changed = [(SHAPES.images(varied(base, column, 10)).amax(0) != SHAPES.images(varied(base, column, 10)).amin(0))
               .any(dim=0) for column in range(3)]  # fmt: skip
    floor, wall, thing = changed
    shared = (floor & wall) | (floor & thing) | (wall & thing)
    assert (floor | wall | thing).all()
    assert shared.float().mean() < 0.12  # only pixels on the edges belong to two
    assert min(part.float().mean() for part in changed) > 0.05


def test_hues_go_round_the_circle_in_equal_steps() -> None:
    """Pixel (60, 2) is floor alone: red, then yellow before green, then blue, and the last is nearest to the first."""
    red, green, blue = SHAPES.images(varied([0, 3, 6, 4, 2, 7], 0, 10))[:, :, 60, 2].to(torch.float64).unbind(1)
    brightest = torch.stack([red, green, blue]).amax(0)
    assert red[0] == brightest[0] and green[0] == 0 and blue[0] == 0
    hues = torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue).rad2deg() % 360
    torch.testing.assert_close(hues, 36.0 * torch.arange(10, dtype=torch.float64), rtol=0, atol=5)
    assert torch.equal(brightest, brightest[:1].expand(10))


@pytest.mark.parametrize("shape", [0, 1, 2, 3])
def test_larger_shapes_cover_more(shape: int) -> None:
    red = SHAPES.images(varied([3, 3, 0, 0, shape, 9], 3, 8))
    blue = SHAPES.images(varied([3, 3, 6, 0, shape, 9], 3, 8))
    areas = (red != blue).any(dim=1).sum(dim=(1, 2))
    assert (areas.diff() > 0).all()


def test_opposite_orientations_mirror_the_silhouette() -> None:
    """The camera's places at −30° and 30° are mirror images of each other; the light's is not."""
    left, right = (cast_scene("cube", 1.0, azimuth, 32) for azimuth in (-0.5, 0.5))
    silhouettes = [maps[2] > 0 for maps in (left, right)]
    assert (silhouettes[0] != silhouettes[1].flip(1)).sum() <= 4


def test_camera_moves_to_the_right_with_orientation() -> None:
    """Seen from the left, the wall on the right comes into view and its corner stands right of the middle."""
    maps = cast_scene("sphere", 1.0, -0.5, 64)
    brightness = maps[1, 0]
    corner = int(brightness.diff().abs().argmax())
    assert corner > 32


@pytest.mark.parametrize("shape", ["cube", "cylinder", "sphere", "capsule"])
def test_distance_is_one_of_a_body_on_the_floor(shape: str) -> None:
    """No steeper than a distance, negative inside, touching the floor and no lower, and scaled with the body."""
    generator = torch.Generator().manual_seed(0)
    points = 2 * torch.rand(2000, 3, generator=generator) - torch.tensor([1.0, 0.5, 1.0])
    distances = signed_distance(shape, 1.0, points)
    apart = (points[:1000] - points[1000:]).norm(dim=1)
    assert ((distances[:1000] - distances[1000:]).abs() <= apart + 1e-5).all()
    assert signed_distance(shape, 1.0, torch.tensor([[0.0, 0.3, 0.0]])) < 0
    assert signed_distance(shape, 1.0, torch.tensor([[0.0, 0.0, 0.0]])).abs() < 1e-6
    assert (distances[points[:, 1] < 0] > 0).all()
    torch.testing.assert_close(signed_distance(shape, 0.8, 0.8 * points), 0.8 * distances)

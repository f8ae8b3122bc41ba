"""Casts the rays of one camera into a room: a floor, four walls, and an object that stands in the middle.

Right-handed coordinates, y upwards, the floor at y = 0. The camera goes round the y axis and looks at the middle.
"""

import math

import torch
from torch import Tensor

MAPS = ("floor", "wall", "object", "gloss")
"""What `cast_scene` gives of each pixel: how brightly it shows each colour, and the white it adds."""

_SAMPLES = 3
_ROOM_HALF_WIDTH = 3.2
_CAMERA_DISTANCE = 3.1
_CAMERA_HEIGHT = 1.7
_LOOK_AT_HEIGHT = 0.55
_HALF_FIELD = math.tan(math.radians(24))
_TO_LIGHT = torch.nn.functional.normalize(torch.tensor([-0.45, 1.0, 0.65]), dim=0)
_AMBIENT = 0.5
# Walls are darker than the object's faces that look the same way, or they would hide it at the same hue.
_WALL_BRIGHTNESS = 0.8
_SHADOW = 0.6
_SHADOW_WIDTH = 0.18
_GLOSS = 0.35
_GLOSS_POWER = 20
_MARCH_STEPS = 96
_HIT_DISTANCE = 2e-3


def cast_scene(shape: str, scale: float, azimuth: float, side: int) -> Tensor:
    """The maps of one scene: float32 (4, side, side), MAPS in order, each 0…1.

    shape: cube, cylinder, sphere or capsule. scale: of the object. azimuth: the camera's, radians; a positive one moves
    the camera to the right. Every pixel is the mean over 3×3 rays.
    """
    origin, directions = _camera(azimuth, side * _SAMPLES)
    maps = _room(shape, scale, origin, directions)
    hit, points = _march(shape, scale, origin, directions)
    normals = _normals(shape, scale, points)
    maps[:, hit] = 0
    maps[2, hit] = _lit(normals)
    maps[3, hit] = _gloss(normals, directions[hit])
    return maps.reshape(len(MAPS), side, _SAMPLES, side, _SAMPLES).mean(dim=(2, 4))


def _camera(azimuth: float, side: int) -> tuple[Tensor, Tensor]:
    """The camera's place (3,) and the unit directions of its rays (side², 3), line by line from the top left."""
    sine, cosine = math.sin(azimuth), math.cos(azimuth)
    origin = torch.tensor([_CAMERA_DISTANCE * sine, _CAMERA_HEIGHT, _CAMERA_DISTANCE * cosine])
    forward = torch.nn.functional.normalize(torch.tensor([0.0, _LOOK_AT_HEIGHT, 0.0]) - origin, dim=0)
    right = torch.tensor([cosine, 0.0, -sine])
    up = torch.linalg.cross(right, forward)
    offsets = ((torch.arange(side) + 0.5) / side * 2 - 1) * _HALF_FIELD
    directions = forward + offsets[None, :, None] * right - offsets[:, None, None] * up
    return origin, torch.nn.functional.normalize(directions.reshape(-1, 3), dim=1)


def _room(shape: str, scale: float, origin: Tensor, directions: Tensor) -> Tensor:
    """The maps (4, rays) of floor and walls alone, with the object's shadow on the floor around it."""
    # From inside the room a ray leaves it through the nearest of the planes it goes towards.
    to_wall = (torch.sign(directions) * _ROOM_HALF_WIDTH - origin) / directions
    to_x, to_z = to_wall[:, 0], to_wall[:, 2]
    to_floor = torch.where(directions[:, 1] < 0, -origin[1] / directions[:, 1], torch.inf)
    on_floor = to_floor < torch.minimum(to_x, to_z)
    towards = -torch.sign(directions)
    across = torch.zeros_like(directions)
    across[:, 0] = torch.where(to_x < to_z, towards[:, 0], 0)
    across[:, 2] = torch.where(to_x < to_z, 0, towards[:, 2])
    maps = torch.zeros(len(MAPS), len(directions))
    points = origin + to_floor[on_floor, None] * directions[on_floor]
    shadow = torch.exp(-signed_distance(shape, scale, points).clamp(min=0) / _SHADOW_WIDTH)
    maps[0, on_floor] = _lit(torch.tensor([[0.0, 1.0, 0.0]])) * (1 - _SHADOW * shadow)
    maps[1, ~on_floor] = _WALL_BRIGHTNESS * _lit(across[~on_floor])
    return maps


def _march(shape: str, scale: float, origin: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Sphere tracing: which rays meet the object, as their numbers (n,), and where, (n, 3)."""
    # A sphere of radius `scale` about this point holds every shape.
    centre = torch.tensor([0.0, 0.5 * scale, 0.0])
    along = directions @ (centre - origin)
    apart = (origin + along[:, None] * directions - centre).norm(dim=1)
    near = (apart < scale).nonzero().squeeze(1)
    directions, beyond = directions[near], along[near] + scale
    travelled = along[near] - scale
    met = torch.zeros(len(near), dtype=torch.bool)
    marching = torch.arange(len(near))
    for _ in range(_MARCH_STEPS):
        distance = signed_distance(shape, scale, origin + travelled[marching, None] * directions[marching])
        travelled[marching] += distance
        met[marching] = distance < _HIT_DISTANCE
        marching = marching[~met[marching] & (travelled[marching] < beyond[marching])]
    return near[met], origin + travelled[met, None] * directions[met]


def signed_distance(shape: str, scale: float, points: Tensor) -> Tensor:
    """The distance (n,) of points (n, 3) from the object's surface, negative inside. The object stands on the floor."""
    x, y, z = (points / scale).unbind(1)
    if shape == "cube":
        return scale * _box_distance(torch.stack([x.abs() - 0.45, (y - 0.45).abs() - 0.45, z.abs() - 0.45], dim=1))
    if shape == "cylinder":
        return scale * _box_distance(torch.stack([torch.hypot(x, z) - 0.48, (y - 0.5).abs() - 0.5], dim=1))
    if shape == "sphere":
        return scale * (torch.sqrt(x**2 + (y - 0.55) ** 2 + z**2) - 0.55)
    beyond = (x.abs() - 0.4).clamp(min=0)
    return scale * (torch.sqrt(beyond**2 + (y - 0.38) ** 2 + z**2) - 0.38)


def _box_distance(excess: Tensor) -> Tensor:
    """From how far a point lies beyond each pair of faces (n, axes)."""
    return excess.clamp(min=0).norm(dim=1) + excess.amax(dim=1).clamp(max=0)


def _normals(shape: str, scale: float, points: Tensor) -> Tensor:
    """Unit normals (n, 3): the gradient of the distance, by central differences."""
    step = 1e-3
    shifts = step * torch.eye(3)
    slopes = [
        signed_distance(shape, scale, points + shift) - signed_distance(shape, scale, points - shift)
        for shift in shifts
    ]
    return torch.nn.functional.normalize(torch.stack(slopes, dim=1), dim=1)


def _lit(normals: Tensor) -> Tensor:
    """Lambert's law beside an even light from everywhere."""
    return _AMBIENT + (1 - _AMBIENT) * (normals @ _TO_LIGHT).clamp(min=0)


def _gloss(normals: Tensor, directions: Tensor) -> Tensor:
    """Blinn's and Phong's mirror light: how near the normal is to half-way between light and eye."""
    half_way = torch.nn.functional.normalize(_TO_LIGHT - directions, dim=1)
    return _GLOSS * (normals * half_way).sum(dim=1).clamp(min=0) ** _GLOSS_POWER

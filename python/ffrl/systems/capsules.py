"""Codes as capsules: what is rolled inside them, and the sums of squares that tie their neighbours together."""

import torch
from torch import Tensor

NEIGHBOURS = 1
"""How far to each side the sums reach inside a capsule: windows of three, as in the paper's MNIST models."""


def roll(codes: Tensor, places: int, length: int) -> Tensor:
    """Codes (…, D) of D / length capsules with the content of each moved on by so many places, cyclically."""
    return codes.unflatten(-1, (-1, length)).roll(places, dims=-1).flatten(-2)


def roll_along(code: Tensor, steps: int, length: int) -> Tensor:
    """A code (N, D) rolled by 0…steps places: (steps + 1, N, D)."""
    return torch.stack([roll(code, t, length) for t in range(steps + 1)])


def topographic_sums(squares: Tensor, length: int) -> Tensor:
    """The denominators W u² of each frame, (S + 1, N, D), from the squares u_0²…u_S² (S + 1, N, D).

        (W u²)_t = Σ_l Σ_{|j| ≤ 1} Roll_{t−l+j}(u_l²)

    Frame l is rolled by t − l places, where its content is at time t if every step moves it by one, and its neighbours
    inside the capsule are added. All frames of the sequence count for each: whatever u is, (W u²)_t = Roll_t((W u²)_0).
    """
    aligned = torch.stack([roll(square, -t, length) for t, square in enumerate(squares)]).sum(dim=0)
    smooth = torch.stack([roll(aligned, j, length) for j in range(-NEIGHBOURS, NEIGHBOURS + 1)]).sum(dim=0)
    return roll_along(smooth, len(squares) - 1, length)

"""Paths along which flows are composed, and how the true sequences beside them move, state by state.

`potentials` says which potential stands for each transformation (`ffrl.matching`); None: its own.
"""

from collections.abc import Sequence
from itertools import combinations, permutations

import torch
from torch import Tensor

from ffrl.data import Dataset
from ffrl.errors import NoRoomError
from ffrl.models import LatentFlow

Potentials = Sequence[int] | None
Pair = tuple[int, int]


def pairs(data: Dataset) -> list[Pair]:
    """All pairs of different transformations."""
    return list(combinations(range(len(data.transformations)), 2))


def ordered_pairs(data: Dataset) -> list[Pair]:
    """All pairs of different transformations, in both orders."""
    return list(permutations(range(len(data.transformations)), 2))


def names_of(data: Dataset, chosen: Sequence[int]) -> list[str]:
    """The names of the transformations chosen."""
    return [data.transformations[k] for k in chosen]


def potentials_of(chosen: Sequence[int], potentials: Potentials) -> list[int]:
    """The potentials of the transformations chosen."""
    return [k if potentials is None else potentials[k] for k in chosen]


def half_of(data: Dataset) -> int:
    """T/2, rounded down. NoRoomError: it is 0."""
    if data.num_steps < 2:
        raise NoRoomError(f"{data.name}: expected at least 2 steps, to be halved, found {data.num_steps}")
    return data.num_steps // 2


def superposed_moves(data: Dataset, chosen: Sequence[int]) -> Tensor:
    """All chosen transformations move for T steps: int64 (T, K)."""
    return _moves(data, [chosen] * data.num_steps)


def switched_moves(data: Dataset, pair: Pair) -> Tensor:
    """The first moves for T/2 steps, then the second: int64 (T, K)."""
    half = half_of(data)
    return _moves(data, [pair[:1]] * half + [pair[1:]] * (data.num_steps - half))


def extrapolated_moves(data: Dataset, k: int) -> Tensor:
    """One moves for T + T/2 steps: int64 (T + T/2, K)."""
    return _moves(data, [(k,)] * (data.num_steps + half_of(data)))


def superposed_path(model: LatentFlow, z0: Tensor, data: Dataset, chosen: Sequence[int]) -> Tensor:
    """z_0…z_T along the sum of the chosen potentials' gradients, (T + 1, B, D), from z0 (B, D)."""
    gates = z0.new_zeros(len(z0), len(data.transformations))
    gates[:, list(chosen)] = 1
    return model.flow(z0, gates=gates, steps=data.num_steps)


def switched_path(model: LatentFlow, z0: Tensor, data: Dataset, chosen: Sequence[int], restart: bool) -> Tensor:
    """z_0…z_T along the first potential for T/2 steps, then along the second, (T + 1, B, D), from z0 (B, D).

    restart: the clock of the second starts anew, where it otherwise runs on.
    """
    half = half_of(data)
    first = model.flow(z0, index=chosen[0], steps=half)
    start = 0 if restart else half
    return torch.cat([first, model.flow(first[-1], index=chosen[1], steps=data.num_steps - half, start=start)[1:]])


def _moves(data: Dataset, moving: Sequence[Sequence[int]]) -> Tensor:
    """By 1 at each step of those that move at it."""
    moves = torch.zeros(len(moving), len(data.transformations), dtype=torch.int64)
    for step, chosen in enumerate(moving):
        moves[step, list(chosen)] = 1
    return moves

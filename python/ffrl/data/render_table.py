"""Renderings that are made when they are first asked for and kept."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class RenderTable:
    """`count` tensors of one shape and dtype, each made by `render(key)` once, key = 0…count − 1.

    Each rendering is made by itself, so that it does not depend on what else was asked for.
    """

    def __init__(self, count: int, shape: Sequence[int], dtype: torch.dtype, render: Callable[[int], Tensor]) -> None:
        self._renderings = torch.empty(count, *shape, dtype=dtype)
        self._made = torch.zeros(count, dtype=torch.bool)
        self._render = render

    def of(self, keys: Tensor) -> Tensor:
        """The renderings of keys, int64 (N,): (N, *shape)."""
        for key in keys[~self._made[keys]].unique().tolist():
            self._renderings[key] = self._render(key)
            self._made[key] = True
        return self._renderings[keys]

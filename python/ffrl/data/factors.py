"""Images that are addressed by the values of their factors of variation, and the order of their rows in files."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Factor:
    """One factor of variation with the values 0…size − 1.

    cyclic: the value after the last one is the first.
    period: after how many values a cyclic factor is the same again; default `size`. It is less where the data repeat
        themselves: dSprites' 40 orientations go from 0 to a full turn, so that the last shows the first again.
    ordered: whether a line through the values means anything; between shapes it does not.
    """

    name: str
    size: int
    cyclic: bool = False
    period: int | None = None
    ordered: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"factor {self.name}: expected a size of at least 1, found {self.size}")
        if self.period is not None and not (self.cyclic and 1 <= self.period <= self.size):
            raise ValueError(
                f"factor {self.name}: expected a period of 1 to {self.size}, and only if cyclic, found {self.period}"
            )

    @property
    def distinct(self) -> int:
        """How many values differ: the period of a cyclic factor, else the size."""
        return self.size if self.period is None else self.period


class FactorImages(ABC):
    """A data set with one image for every combination of the values of its factors.

    name: for reports. factors: in the order of the columns of a state. image_shape: (C, H, W).
    """

    name: str
    factors: tuple[Factor, ...]
    image_shape: tuple[int, int, int]

    @abstractmethod
    def images(self, states: Tensor) -> Tensor:
        """The images of states, int64 (N, F), in their order: uint8 (N, C, H, W), 0…255."""

    @abstractmethod
    def checksum(self) -> str:
        """SHA-256 of what the images come from, so that a report can say on which data it was made."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of values of each factor."""
        return tuple(factor.size for factor in self.factors)

    def __len__(self) -> int:
        return math.prod(self.sizes)

    def column(self, name: str) -> int:
        """The column of the factor of this name. ValueError names those that exist."""
        names = [factor.name for factor in self.factors]
        if name not in names:
            raise ValueError(f"factor: expected one of {', '.join(names)}, found {name!r}")
        return names.index(name)

    def require_states(self, states: Tensor) -> None:
        """ValueError unless `states` is int64 (N, F) with every value within its factor."""
        if states.dtype != torch.int64 or states.ndim != 2 or states.shape[1] != len(self.factors):
            raise ValueError(
                f"states: expected int64 (N, {len(self.factors)}), found {states.dtype} {tuple(states.shape)}"
            )
        for column, factor in enumerate(self.factors):
            values = states[:, column]
            if len(values) and not 0 <= int(values.min()) <= int(values.max()) < factor.size:
                raise ValueError(
                    f"states: expected {factor.name} within 0…{factor.size - 1}, "
                    f"found {int(values.min())}…{int(values.max())}"
                )


def rows_of(states: Tensor, sizes: Sequence[int]) -> Tensor:
    """The row of each state when all combinations are numbered in row-major order, the last factor fastest.

    states: int64 (..., F). Returns int64 (...).
    """
    rows = torch.zeros_like(states[..., 0])
    for column, size in enumerate(sizes):
        rows = rows * size + states[..., column]
    return rows


def states_of(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """The state of each row; the inverse of `rows_of`. rows: int64 (...). Returns int64 (..., F)."""
    return torch.stack(torch.unravel_index(rows, tuple(sizes)), dim=-1)


def file_checksum(paths: Sequence[Path]) -> str:
    """SHA-256 over the contents of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()

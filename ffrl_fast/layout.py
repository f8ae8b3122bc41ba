"""Where each weight of a potential lies in the flat parameter row of a :class:`~ffrl_fast.PotentialBank`.

All K potentials of a bank share one parameter ``theta`` of shape (K, P), one row a potential. One tensor instead of a
dozen keeps the autograd node and the optimiser's loop short, and the native code reads it without gathering. This file
is the only place in Python that knows the order of the row; ``csrc/core/layout.hpp`` states the same order in C++ and
a test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

OutActivation = Literal["tanh", "identity"]
TimeEmbedding = Literal["sinusoidal", "none", "separable"]

# As csrc/core/layout.hpp numbers them.
_NATIVE_TIME: dict[TimeEmbedding, int] = {"none": 0, "separable": 1, "sinusoidal": 2}


class Weights(NamedTuple):
    """Views into ``theta``, stacked over K potentials; ``None`` where the time embedding has no such weight."""

    w_in: Tensor  # (K, H, D)
    b_in: Tensor  # (K, H)
    w_hid: Tensor  # (K, L, H, H)
    b_hid: Tensor  # (K, L, H)
    w_out: Tensor  # (K, H)
    b_out: Tensor  # (K,)
    w_time1: Tensor | None = None  # (K, H, D)
    b_time1: Tensor | None = None  # (K, H)
    w_time2: Tensor | None = None  # (K, H, H)
    b_time2: Tensor | None = None  # (K, H)
    energy: Tensor | None = None  # (K,)


@dataclass(frozen=True)
class NetworkShape:
    """The shape of one potential: D = ``dim``, H = ``width``, L = ``depth`` hidden layers, and its two choices."""

    dim: int
    width: int
    depth: int
    out_activation: OutActivation = "tanh"
    time_embedding: TimeEmbedding = "sinusoidal"

    #: Name of each weight -> (offset in the row, shape without K), in the order in which they lie there.
    fields: dict[str, tuple[int, tuple[int, ...]]] = field(init=False, repr=False, compare=False)
    #: P, the number of parameters of one potential.
    num_parameters: int = field(init=False, repr=False, compare=False)
    #: (width, depth, output is tanh, time embedding): what the native operators are told besides D.
    native: tuple[int, int, int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        d, h, n = self.dim, self.width, self.depth
        shapes: dict[str, tuple[int, ...]] = {
            "w_in": (h, d),
            "b_in": (h,),
            "w_hid": (n, h, h),
            "b_hid": (n, h),
            "w_out": (h,),
            "b_out": (),
        }
        if self.time_embedding == "sinusoidal":
            shapes |= {"w_time1": (h, d), "b_time1": (h,), "w_time2": (h, h), "b_time2": (h,)}
        elif self.time_embedding == "separable":
            shapes |= {"energy": ()}
        offset, placed = 0, {}
        for name, shape in shapes.items():
            placed[name] = (offset, shape)
            offset += math.prod(shape)
        object.__setattr__(self, "fields", placed)
        object.__setattr__(self, "num_parameters", offset)
        native = (h, n, int(self.out_activation == "tanh"), _NATIVE_TIME[self.time_embedding])
        object.__setattr__(self, "native", native)

    @classmethod
    def from_native(cls, dim: int, native: Sequence[int]) -> NetworkShape:
        """The shape whose :attr:`native` this is."""
        width, depth, out_tanh, time = native[:4]
        names = {number: name for name, number in _NATIVE_TIME.items()}
        return cls(dim, width, depth, "tanh" if out_tanh else "identity", names[time])

    def unpack(self, theta: Tensor) -> Weights:
        """Views of ``theta`` (K, P) by name."""
        return Weights(
            **{
                name: theta[:, offset : offset + math.prod(shape)].unflatten(1, shape) if shape else theta[:, offset]
                for name, (offset, shape) in self.fields.items()
            }
        )

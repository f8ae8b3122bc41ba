"""A call of the engine: what it is given, and room for what it writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ffrl_fast import _core

Tensors = tuple[Tensor, ...]

#: Tensors of at least so many bytes come from blocks that the engine keeps between calls: malloc would hand out fresh
#: pages, which cost the system as long to clear as the engine takes to fill them.
_LARGE = 128 * 2**10

Empty = Callable[..., Tensor]

#: The tensors of :class:`Inputs`, in their order.
_Maybe = Tensor | None
Given = tuple[Tensor, Tensor, Tensor, _Maybe, _Maybe, _Maybe, _Maybe, _Maybe, _Maybe, _Maybe]

INPUTS = (
    "Tensor z, Tensor t, Tensor theta, Tensor? tau, Tensor? dtau, Tensor? force_theta, Tensor? force_tau, "
    "Tensor? index, Tensor? gates, Tensor? tangent, int potential, int[] shape, bool residual, bool row_sum, "
    "bool log_det, int substeps, float step"
)
NUM_INPUTS, NUM_TENSORS = 17, 10
#: What ``field`` is told where it shall keep its activations and packed weights: the number of their layout. A compiled
#: graph that torch keeps on disk has their sizes in it, and is found by the operators' arguments: other sizes, by any
#: rule of plan.py's ``kept_sizes``, need another number.
KEPT_LAYOUT = 2
SINUSOIDAL = 2  # the number of this time embedding, csrc/core/layout.hpp
# The places among the inputs of those that have gradients: z, t, theta, tau, dtau, force_theta, force_tau, gates,
# tangent. ``wanted`` and the engine's gradients come in this order; some by their place in it:
DIFFERENTIABLE = (0, 1, 2, 3, 4, 5, 6, 8, 9)
_CONDITIONING, _GATES = (3, 4, 6), 7


class Inputs(NamedTuple):
    """The arguments that all three operators share; ``substeps`` 0 evaluates at one moment and moves nothing."""

    z: Tensor  # (B, D)
    t: Tensor  # (1,) or (B,); with substeps ≥ 1 the N moments (N,)
    theta: Tensor  # (K, P)
    # (K, times, H), or (1, times, H) of one potential. With times that all rows share the engine computes them itself
    # where they are None; where each row has its own they must be given.
    tau: Tensor | None
    dtau: Tensor | None
    force_theta: Tensor | None
    force_tau: Tensor | None
    index: Tensor | None  # type: ignore[assignment]  # (B,); the operators' name for it, though tuples have an index()
    gates: Tensor | None  # (B, K) or (B, steps, K)
    tangent: Tensor | None  # (D,) or (B, D)
    potential: int
    shape: list[int]  # NetworkShape.native of the potential, then of the force
    residual: bool
    row_sum: bool
    log_det: bool  # of a path, without a gradient
    substeps: int
    step: float

    @property
    def moments(self) -> int:
        return self.t.shape[0] if self.substeps else 1

    @property
    def tensors(self) -> Given:
        return self[:NUM_TENSORS]  # type: ignore[return-value]

    @property
    def row_times(self) -> bool:
        """Whether every row has a time of its own."""
        return not self.substeps and self.t.shape[0] > 1


def address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()  # 0 too for the empty tensor that stands for "not wanted"


def contiguous(x: Tensor | None) -> Tensor | None:
    """As the engine reads it: a negated view keeps its sign in a bit of the tensor."""
    return x if x is None or (x.is_contiguous() and not x.is_neg()) else x.resolve_neg().contiguous()


def release_memory() -> None:
    """Gives back to the system what the engine keeps between calls: blocks that no tensor uses.

    They are at most a sixteenth of the machine's memory, no less than 512 MiB and no more than 4 GiB.

    Large outputs, gradients and saved activations of the ``cpu`` backend lie in blocks that are used again when their
    tensors end. Nothing needs this function; the next call allocates anew.
    """
    _core.release_idle()


def empty(*shape: int, like: Tensor) -> Tensor:
    """As ``like.new_empty(shape)``; a large one from the blocks that the engine keeps between calls."""
    size = math.prod(shape) * like.itemsize
    if size < _LARGE:
        # Sizes one by one are parsed in a third of the time of a tuple.
        return like.new_empty(*shape) if shape else like.new_empty(shape)
    return torch.frombuffer(_core.Block(size), dtype=like.dtype).view(shape)


def empty_like(x: Tensor) -> Tensor:
    """Contiguous, as :func:`empty`."""
    if x.nbytes < _LARGE and x.is_contiguous():
        return torch.empty_like(x)
    return empty(*x.shape, like=x)


def fake_empty_like(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def room(like: Tensor, largest: int) -> Empty:
    """What makes tensors of up to ``largest`` elements from their sizes, as :func:`empty`; asked once for many."""
    return like.new_empty if largest * like.itemsize < _LARGE else partial(empty, like=like)


def fake_room(like: Tensor, largest: int) -> Empty:
    return like.new_empty


def empty_gradients(
    given: Given, row_times: bool, wanted: list[bool], empty_like: Callable[[Tensor], Tensor] = empty_like
) -> list[Tensor | None]:
    """Room for each gradient that is wanted. Cleared where the engine writes only a part of it."""
    result: list[Tensor | None] = []
    for place, (of, want) in enumerate(zip(DIFFERENTIABLE, wanted, strict=False)):
        x = given[of]
        if not want or x is None:
            result.append(None)
        elif place == _GATES or (row_times and place in _CONDITIONING):
            # Each row reaches its own gates and the conditioning of its own potential only.
            result.append(torch.zeros_like(x, memory_format=torch.contiguous_format))
        else:
            result.append(empty_like(x))
    return result


def addresses(of: Iterable[Tensor | None]) -> tuple[int, ...]:
    return tuple([0 if x is None else x.data_ptr() for x in of])


def only(gradients: list[Tensor | None]) -> list[Tensor]:
    return [x for x in gradients if x is not None]

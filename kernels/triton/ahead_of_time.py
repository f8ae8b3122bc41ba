"""Every kernel variant that the engine launches for a table of sizes, for compilation ahead of time.

They are found by running the engine on tensors without memory and noting what it launches, so what is compiled is
what would be launched.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import torch

from ffrl_fast.gpu.engine import Cotangents, Precision, Rows, Wanted
from ffrl_fast.layout import NetworkShape

from .engine import TritonEngine
from .launch import Variant, variant_of

#: D = H of the table.
SIZES = (16, 64, 128, 226, 324, 512, 1024)
_ROWS = 4096
_NETWORKS = 2
_ALL = Wanted()


def variants(
    architecture: int, sizes: Iterable[int] = SIZES, precisions: Iterable[Precision] = tuple(Precision)
) -> list[Variant]:
    """The distinct variants in the order of their first launch; those of bf16 for tensors of float32 and bfloat16."""
    found: dict[Variant, None] = {}
    engine = TritonEngine(architecture, launch=lambda launch: found.setdefault(variant_of(launch)))
    for precision, size in itertools.product(precisions, sizes):
        for rows in _calls(size, precision):
            drive, tangent = rows.z[:, 0], rows.z
            out = engine.forward(rows, precision, keep=True, drive=drive)
            engine.backward(rows, precision, out, Cotangents(out.u, out.dt, out.grad, drive), _ALL)
            engine.forward(rows, precision, keep=False, tangent=tangent)
            value = engine.forward(rows, precision, keep=True, value_only=True)
            engine.backward(rows, precision, value, Cotangents(value.u), _ALL, value_only=True)
    return list(found)


def _calls(size: int, precision: Precision) -> Iterator[Rows]:
    """Calls that between them launch all that any call of this size does."""
    shape = NetworkShape(size, size, 1)

    def empty(*sizes: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(sizes, dtype=dtype, device="meta")

    for dtype in (torch.float32, torch.bfloat16) if precision == Precision.BF16 else (torch.float32,):
        z, theta = empty(_ROWS, size, dtype=dtype), empty(_NETWORKS, shape.num_parameters, dtype=dtype)
        one_time, row_times = (empty(_NETWORKS, times, size, dtype=dtype) for times in (1, _ROWS))
        yield Rows(z, theta, shape, one_time, one_time, gates=empty(_ROWS, _NETWORKS, dtype=dtype))
        yield Rows(z, theta, shape, row_times, row_times, potential=0)

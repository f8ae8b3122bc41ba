"""Every kernel variant that the engine launches for a table of sizes, for compilation ahead of time.

They are found by running the engine on tensors without memory and noting what it launches, so what is compiled is
what would be launched.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ffrl_fast.gpu.engine import Cotangents, Precision, Rows, Wanted
from ffrl_fast.layout import NetworkShape

from .engine import TritonEngine
from .launch import Variant, variant_of

#: D = H of the table.
SIZES = (16, 64, 128, 226, 324, 512, 1024)
_ROWS = 4096
_ALL = Wanted()


def variants(
    architecture: int, sizes: Iterable[int] = SIZES, precisions: Iterable[Precision] = tuple(Precision)
) -> list[Variant]:
    """The distinct variants for float32 tensors, in the order of their first launch."""
    found: dict[Variant, None] = {}
    engine = TritonEngine(architecture, launch=lambda launch: found.setdefault(variant_of(launch)))
    for precision in precisions:
        for size in sizes:
            rows = _rows(size)
            drive = tangent = rows.z[:, 0]
            tangent = rows.z
            out = engine.forward(rows, precision, keep=True, drive=drive)
            engine.backward(rows, precision, out, Cotangents(out.u, out.dt, out.grad, drive), _ALL)
            engine.forward(rows, precision, keep=False, tangent=tangent)
            value = engine.forward(rows, precision, keep=True, value_only=True)
            engine.backward(rows, precision, value, Cotangents(value.u), _ALL, value_only=True)
    return list(found)


def _rows(size: int) -> Rows:
    shape = NetworkShape(size, size, 1)

    def empty(*sizes: int) -> torch.Tensor:
        return torch.empty(sizes, device="meta")

    tau = empty(2, 1, size)
    return Rows(empty(_ROWS, size), empty(2, shape.num_parameters), shape, tau, tau, gates=empty(_ROWS, 2))

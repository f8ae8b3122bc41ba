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
    architecture: int,
    sizes: Iterable[int] = SIZES,
    precisions: Iterable[Precision] = tuple(Precision),
    dtypes: Iterable[torch.dtype] = (torch.float32, torch.bfloat16),
) -> list[Variant]:
    """The distinct variants for tensors of ``dtypes`` (bfloat16: in bf16 alone), in the order of their first launch."""
    found: dict[Variant, None] = {}
    engine = TritonEngine(architecture, launch=lambda launch: found.setdefault(variant_of(launch)))
    for precision, size, dtype in itertools.product(precisions, sizes, dtypes):
        for rows in _calls(size, dtype) if dtype == torch.float32 or precision == Precision.BF16 else ():
            drive, tangent = rows.z[:, 0], rows.z
            out = engine.forward(rows, precision, keep=True, drive=drive)
            engine.backward(rows, precision, out, Cotangents(out.u, out.dt, out.grad, drive), _ALL)
            engine.forward(rows, precision, keep=False, tangent=tangent)
            value = engine.forward(rows, precision, keep=True, value_only=True)
            engine.backward(rows, precision, value, Cotangents(value.u), _ALL, value_only=True)
    return list(found)


def _calls(size: int, dtype: torch.dtype) -> Iterator[Rows]:
    """Calls that between them launch all that any call of this size does."""
    shape = NetworkShape(size, size, 1)

    def empty(*sizes: int) -> torch.Tensor:
        return torch.empty(sizes, dtype=dtype, device="meta")

    z, theta = empty(_ROWS, size), empty(_NETWORKS, shape.num_parameters)
    one_time, row_times = (empty(_NETWORKS, times, size) for times in (1, _ROWS))
    yield Rows(z, theta, shape, one_time, one_time, gates=empty(_ROWS, _NETWORKS))
    yield Rows(z, theta, shape, row_times, row_times, potential=0)

"""How products round their operands on a GPU: chosen by name, or as torch's own products are set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ffrl_fast.gpu.engine import Precision

_OF_TORCH = {"highest": Precision.IEEE.value, "high": Precision.TF32.value, "medium": Precision.BF16.value}
# A plain global, as the backend's: torch.compile guards on it.
_forced: str | None = None


@contextlib.contextmanager
def use_precision(name: str) -> Iterator[None]:
    """Within the block the products of the GPU backends on float32 tensors have this precision.

    "ieee" rounds no operand, "tf32" rounds them to 11 significant bits, "bf16" to 8; all sum in float32. Without this
    the precision is that of ``torch.get_float32_matmul_precision()``: "highest" is ieee, "high" tf32, "medium" bf16.
    bfloat16 tensors always have bf16 products. The ``cpu`` and ``reference`` backends do not ask.

    Raises:
        ValueError: for another name.
    """
    global _forced
    if name not in [p.value for p in Precision]:
        raise ValueError(f"use_precision: expected one of 'ieee', 'tf32', 'bf16', found {name!r}")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _of_torchs_setting() -> str:
    """torch's setting. A compiled function keeps the one it was traced with: dynamo cannot trace the question."""
    return _OF_TORCH[torch.get_float32_matmul_precision()]


def precision_for(dtype: torch.dtype) -> str:
    """The :class:`Precision` of products of tensors of ``dtype``, by its name."""
    if dtype == torch.bfloat16:
        return "bf16"
    if dtype == torch.float64:
        return "ieee"
    return _forced if _forced is not None else _of_torchs_setting()

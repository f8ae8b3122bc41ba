"""From what a caller passed to a checked call and the backend that runs it.

Where there is little to compute, the checks, the choice and the numbers that the engine is told take longer than the
engine. They depend on the sizes, strides and dtypes of the tensors alone, so a call like one before goes by its plan.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from ffrl_fast import arguments, native
from ffrl_fast.arguments import Selection
from ffrl_fast.backends import Backend, Call, choose, chosen_by_name
from ffrl_fast.bank import PotentialBank

#: By signature: the backend that the choice fell on, what it prepared (None where it prepares nothing), and the
#: selection where it is no tensor's.
_seen: dict[Hashable, tuple[Backend, native.Plan | None, Selection]] = {}
_MOST = 1024


def _signature(
    operator: str,
    residual: bool,
    z: Tensor,
    t: float | Tensor,
    bank: PotentialBank,
    theta: Tensor,
    index: int | Tensor | None,
) -> Hashable | None:
    """All that the checks, the choice of a backend and a plan look at.

    None for calls that are not prepared: on another device, watched by something, with a time for each row or a
    conditioning of the bank's own.
    """
    if (
        bank.has_own_conditioning
        or not native.is_direct(z, theta)
        or not (z.is_cpu and theta.is_cpu and theta.is_contiguous())
        or z.layout is not torch.strided
    ):
        return None
    of_t = None
    of_index: Hashable = index
    if type(t) is Tensor:
        if t.dim() > 1 or t.numel() != 1 or not t.is_cpu:
            return None
        of_t = t.dtype
    elif type(t) is not float and type(t) is not int:
        return None
    if type(index) is Tensor:
        if not (index.is_cpu and index.is_contiguous()):
            return None
        of_index = (index.shape, index.dtype)
    elif index is not None and type(index) is not int:
        return None
    shape = bank.shape
    return (
        *(operator, residual, shape.dim, shape.native, theta.shape, theta.dtype),
        *(z.shape, z.stride(), z.dtype, of_t, of_index),
    )


def checked(
    operator: str,
    z: Tensor,
    t: float | Tensor,
    bank: PotentialBank,
    index: int | Tensor | None,
    gates: Tensor | None,
    backend: str | None,
    *,
    force: PotentialBank | None = None,
    tangent: Tensor | None = None,
    residual: bool = False,
) -> tuple[Backend, Call]:
    """The backend for a call at one moment, and the call.

    Raises:
        What :mod:`~ffrl_fast.arguments` raises, and :func:`~ffrl_fast.backends.choose`.
    """
    arguments.check_bank("bank", bank)
    signature = None
    if gates is None and force is None and tangent is None and not chosen_by_name(backend):
        # As bank.theta, which takes half a microsecond, unless it is no plain parameter.
        theta = bank._parameters.get("theta")
        if theta is not None:
            signature = _signature(operator, residual, z, t, bank, theta, index)
            if signature is not None and (seen := _seen.get(signature)) is not None:
                chosen, plan, selection = seen
                if plan is not None:
                    times = t if isinstance(t, Tensor) else torch.full((1,), t, dtype=z.dtype)
                    of_rows = index if isinstance(index, Tensor) else None
                    if of_rows is not None:
                        selection = Selection(-1, of_rows, None)
                    given = (z, times, theta, None, None, None, None, of_rows, None, None)
                    call = Call(z, times, bank, selection, with_residual=residual, prepared=(plan, given))
                    return chosen, call
    arguments.check_rows("z", z, bank)
    times = arguments.check_times("t", t, z)
    selection = arguments.check_selection(index, gates, z, bank)
    call = Call(
        z,
        times,
        bank,
        selection,
        force=arguments.check_force(force, bank),
        tangent=arguments.check_tangent(tangent, z),
        with_residual=residual,
    )
    chosen = choose(call.request(operator), backend)
    if signature is not None and signature not in _seen:
        if len(_seen) >= _MOST:
            _seen.clear()
        kept = Selection(-1, None, None) if selection.index is not None else selection
        _seen[signature] = chosen, chosen.plan(call), kept
    return chosen, call

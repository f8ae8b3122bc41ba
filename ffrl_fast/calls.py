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


def _ready(x: Tensor) -> bool:
    """Whether the engine reads it where it lies."""
    return type(x) in _PLAIN and x.is_cpu and x.layout is torch.strided and x.is_contiguous()


_PLAIN = (Tensor, torch.nn.Parameter)


def _given(
    z: Tensor,
    t: float | Tensor,
    bank: PotentialBank,
    index: int | Tensor | None,
    gates: Tensor | None,
    force: PotentialBank | None,
    tangent: Tensor | None,
) -> native.Given | None:
    """The tensors of a call that can go by a plan; not yet checked.

    None for others: on another device, watched by something, with a time for each row or a conditioning of the user's.
    """
    # As bank.theta, which takes half a microsecond, unless it is no plain parameter.
    theta = bank._parameters.get("theta")
    if theta is None or bank.has_own_conditioning or not native.is_direct(z, theta):
        return None
    if not (z.is_cpu and z.layout is torch.strided and theta.is_cpu and theta.is_contiguous()):
        return None
    force_theta = of_rows = None
    if force is not None:
        if not isinstance(force, PotentialBank) or force.has_own_conditioning:
            return None
        force_theta = force._parameters.get("theta")
        if force_theta is None:
            return None
    if isinstance(index, Tensor):
        of_rows = index
    elif index is not None and type(index) is not int:
        return None
    if not (of_rows is None and gates is None and tangent is None and force is None):
        for x in (of_rows, gates, tangent, force_theta):
            if x is not None and not _ready(x):
                return None
    if isinstance(t, Tensor):
        if not _ready(t) or t.dim() > 1 or t.numel() != 1:
            return None
        times = t
    elif type(t) is float or type(t) is int:
        times = torch.full((1,), t, dtype=z.dtype)
    else:
        return None
    return z, times, theta, None, None, force_theta, None, of_rows, gates, tangent


def _signature(
    operator: str,
    residual: bool,
    given: native.Given,
    bank: PotentialBank,
    index: int | Tensor | None,
    force: PotentialBank | None,
) -> Hashable:
    """All that the checks, the choice of a backend and a plan look at."""
    z, times, theta, _, _, force_theta, _, of_rows, gates, tangent = given
    shape = bank.shape
    common = (
        *(operator, residual, shape.dim, shape.native, theta.shape, theta.dtype),
        *(z.shape, z.stride(), z.dtype, times.dtype),
    )
    if of_rows is None and gates is None and tangent is None and force is None:
        return (*common, index)
    others = [None if x is None else (x.shape, x.dtype) for x in (of_rows, gates, tangent, force_theta)]
    of_force = None if force is None else (force.shape.dim, force.shape.native)
    return (*common, index if of_rows is None else None, *others, of_force)


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
    if not chosen_by_name(backend) and (given := _given(z, t, bank, index, gates, force, tangent)) is not None:
        signature = _signature(operator, residual, given, bank, index, force)
        if (seen := _seen.get(signature)) is not None:
            chosen, plan, selection = seen
            if plan is not None:
                if given[7] is not None or gates is not None:
                    selection = Selection(-1, given[7], gates)
                call = Call(z, given[1], bank, selection, force, tangent, residual, prepared=(plan, given))
                return chosen, call
    arguments.check_rows("z", z, bank)
    times = arguments.check_times("t", t, z)
    selection = arguments.check_selection(index, gates, z, bank)
    force = arguments.check_force(force, bank)
    call = Call(z, times, bank, selection, force, arguments.check_tangent(tangent, z), residual)
    chosen = choose(call.request(operator), backend)
    if signature is not None and signature not in _seen:
        if len(_seen) >= _MOST:
            _seen.clear()
        # Of the tensors nothing is kept.
        _seen[signature] = chosen, chosen.plan(call), Selection(selection.potential, None, None)
    return chosen, call

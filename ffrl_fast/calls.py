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
from ffrl_fast.backends import Backend, Call, Motion, choose, chosen_by_name
from ffrl_fast.bank import PotentialBank

#: By signature: the backend that the choice fell on, what it prepared (None where it prepares nothing), and the
#: selection where it is no tensor's.
_seen: dict[Hashable, tuple[Backend, native.Plan | None, Selection]] = {}
_MOST = 1024
_NONE = Selection(-1, None, None)


def _ready(x: Tensor) -> bool:
    """Whether the engine reads it where it lies."""
    return type(x) in native.PLAIN and x.is_cpu and x.layout is torch.strided and x.is_contiguous() and not x.is_neg()


def _given(
    z: Tensor,
    times: Tensor,
    bank: PotentialBank,
    index: int | Tensor | None,
    gates: Tensor | None,
    force: PotentialBank | None,
    tangent: Tensor | None,
) -> native.Given | None:
    """The tensors of a call that can go by a plan; not yet checked.

    None for others: on another device, watched by something, or with a conditioning of the user's.
    """
    # As bank.theta, which takes half a microsecond, unless it is no plain parameter.
    theta = bank._parameters.get("theta")
    if theta is None or bank.has_own_conditioning or not native.is_direct(z, theta, times):
        return None
    # As _ready, but that rows may lie any stride apart.
    if not (z.is_cpu and z.layout is torch.strided and theta.is_cpu and theta.is_contiguous() and times.is_cpu):
        return None
    if z.is_neg() or theta.is_neg() or times.is_neg() or not times.is_contiguous():
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
    return z, times, theta, None, None, force_theta, None, of_rows, gates, tangent


def _signature(
    given: native.Given,
    bank: PotentialBank,
    index: int | Tensor | None,
    force: PotentialBank | None,
    *plain: Hashable,
) -> Hashable:
    """All that the checks, the choice of a backend and a plan look at."""
    z, times, theta, _, _, force_theta, _, of_rows, gates, tangent = given
    shape = bank.shape
    of_bank = (bank.num_potentials, shape.dim, shape.native, theta.shape, theta.dtype)
    common = (*plain, *of_bank, z.shape, z.stride(), z.dtype, times.shape, times.dtype)
    if of_rows is None and gates is None and tangent is None and force is None:
        return (*common, index)
    others = [None if x is None else (x.shape, x.dtype) for x in (of_rows, gates, tangent, force_theta)]
    of_force = None if force is None else (force.num_potentials, force.shape.dim, force.shape.native)
    return (*common, index if of_rows is None else None, *others, of_force)


def _as_before(signature: Hashable, given: native.Given, call: Call) -> Backend | None:
    """The backend of a call like one before, which then needs no checks; None where it has no plan."""
    seen = _seen.get(signature)
    if seen is None:
        return None
    chosen, plan, selection = seen
    if plan is None:
        return None
    of_rows, gates = given[7], given[8]
    call.selection = selection if of_rows is None and gates is None else Selection(-1, of_rows, gates)
    call.prepared = (plan, given)
    return chosen


def _choose(
    operator: str, call: Call, backend: str | None, signature: Hashable | None, motion: Motion | None = None
) -> Backend:
    """The backend for a checked call; what it prepares is kept where the call has a signature."""
    chosen = choose(call.request(operator), backend)
    if signature is not None and signature not in _seen:
        if len(_seen) >= _MOST:
            _seen.clear()
        # Of the tensors nothing is kept.
        _seen[signature] = chosen, chosen.plan(call, motion), Selection(call.selection.potential, None, None)
    return chosen


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
    if not chosen_by_name(backend):
        times = None
        if isinstance(t, Tensor):
            times = (t if t.dim() else t.reshape(1)) if t.dim() <= 1 and t.numel() == 1 else None
        elif (type(t) is float or type(t) is int) and isinstance(z, Tensor):
            times = torch.full((1,), float(t), dtype=z.dtype, device=z.device)
        if times is not None and (given := _given(z, times, bank, index, gates, force, tangent)) is not None:
            signature = _signature(given, bank, index, force, operator, residual)
            call = Call(z, times, bank, _NONE, force, tangent, residual)
            if (before := _as_before(signature, given, call)) is not None:
                return before, call
    arguments.check_rows("z", z, bank)
    times = arguments.check_times("t", t, z)
    selection = arguments.check_selection(index, gates, z, bank)
    force = arguments.check_force(force, bank)
    call = Call(z, times, bank, selection, force, arguments.check_tangent(tangent, z), residual)
    return _choose(operator, call, backend, signature), call


def checked_path(
    z0: Tensor,
    moments: Tensor,
    bank: PotentialBank,
    index: int | Tensor | None,
    gates: Tensor | None,
    backend: str | None,
    motion: Motion,
    *,
    force: PotentialBank | None,
    residual: bool,
    row_sum: bool,
    log_det: bool,
) -> tuple[Backend, Call]:
    """The same for a path through checked moments."""
    arguments.check_bank("bank", bank)
    signature = None
    # With a gradient determinants come from a call each.
    if not chosen_by_name(backend) and not log_det:
        given = _given(z0, moments, bank, index, gates, force, None)
        if given is not None:
            plain = ("integrate", residual, row_sum, motion.substeps, motion.step)
            signature = _signature(given, bank, index, force, *plain)
            call = Call(z0, moments, bank, _NONE, force, None, residual, row_sum)
            if (before := _as_before(signature, given, call)) is not None:
                return before, call
    arguments.check_rows("z0", z0, bank)
    steps = moments.shape[0] // motion.substeps
    selection = arguments.check_selection(index, gates, z0, bank, gates_steps=steps)
    force = arguments.check_force(force, bank)
    call = Call(z0, moments, bank, selection, force, None, residual, row_sum, log_det)
    return _choose("integrate", call, backend, signature, motion), call

"""From what a caller passed to a checked call and the backend that runs it.

Where there is little to compute, the checks, the choice and the numbers that the engine is told take longer than the
engine. They depend on the sizes, strides and dtypes of the tensors alone, so a call like one before goes by its plan.
"""

from __future__ import annotations

from collections.abc import Hashable

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


def _given(
    z: Tensor,
    times: Tensor,
    bank: PotentialBank,
    index: int | Tensor | None,
    gates: Tensor | None,
    force: PotentialBank | None,
    tangent: Tensor | None,
) -> tuple[native.Given, Hashable] | None:
    """The tensors of a call that can go by a plan, not yet checked; and all of them that a plan depends on.

    None for others: on another device, watched by something, or with a conditioning of the user's.
    """
    # As bank.theta, which takes half a microsecond, unless it is no plain parameter.
    theta = bank._parameters.get("theta")
    if theta is None or bank.has_own_conditioning:
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
    given = (z, times, theta, None, None, force_theta, None, of_rows, gates, tangent)
    described = native.describe(given)
    return None if described is None else (given, described)


def _signature(
    described: Hashable, bank: PotentialBank, index: int | Tensor | None, force: PotentialBank | None, *plain: Hashable
) -> Hashable:
    """All that the checks, the choice of a backend and a plan look at."""
    shape = bank.shape
    common = (*plain, described, bank.num_potentials, shape.dim, shape.native)
    if force is None:
        return (*common, index if type(index) is int else None)
    of_force = (force.num_potentials, force.shape.dim, force.shape.native)
    return (*common, index if type(index) is int else None, of_force)


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
        elif (type(t) is float or type(t) is int) and isinstance(z, Tensor) and z.is_floating_point():
            times = arguments.check_times("t", t, z)
        if times is not None and (found := _given(z, times, bank, index, gates, force, tangent)) is not None:
            given, described = found
            signature = _signature(described, bank, index, force, operator, residual)
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
        found = _given(z0, moments, bank, index, gates, force, None)
        if found is not None:
            given, described = found
            plain = ("integrate", residual, row_sum, motion.substeps, motion.step)
            signature = _signature(described, bank, index, force, *plain)
            call = Call(z0, moments, bank, _NONE, force, None, residual, row_sum)
            if (before := _as_before(signature, given, call)) is not None:
                return before, call
    arguments.check_rows("z0", z0, bank)
    steps = moments.shape[0] // motion.substeps
    selection = arguments.check_selection(index, gates, z0, bank, gates_steps=steps)
    force = arguments.check_force(force, bank)
    call = Call(z0, moments, bank, selection, force, None, residual, row_sum, log_det)
    return _choose("integrate", call, backend, signature, motion), call

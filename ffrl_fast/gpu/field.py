"""``ffrl_fast::gpu_field``: what ``ffrl_fast::field`` computes, on a GPU engine; its gradient.

The time conditioning comes from outside (τ, dτ/dt are always given) and has its gradient there. The tangent's product
has no gradient here: the backends ask the reference for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ffrl_fast.gpu import whole_path
from ffrl_fast.gpu.engine import Cotangents, Engine, Forward, PathCotangents, PathEngine, Precision, Wanted
from ffrl_fast.gpu.moment import Moment, MomentForward, backward, forward, rows_of
from ffrl_fast.gpu.path import OperatorGradients, path_backward, path_forward
from ffrl_fast.native.dispatch import (
    FirstOrderOnly,
    apply_function,
    check_cotangents,
    needs_function,
    place_gradients,
    register_autograd,
    register_everywhere,
    register_vmap,
    wanted_gradients,
)
from ffrl_fast.native.problem import (
    INPUTS,
    NUM_INPUTS,
    NUM_TENSORS,
    Inputs,
    Tensors,
    empty_gradients,
    fake_empty_like,
    only,
)
from ffrl_fast.native.vmap import each_element, fold

#: The engines by name; each made when first used.
engines: dict[str, Callable[[], Engine]] = {}
_made: dict[str, Engine] = {}
_OUTPUTS = 5  # u, dt, residual, hvp, motion; then what is kept
_SUBSTEPS = 15  # the place among the inputs


def _engine(name: str) -> Engine:
    if name not in _made:
        _made[name] = engines[name]()
    return _made[name]


def _moment(i: Inputs) -> Moment:
    """The one moment of a call."""
    rows = rows_of(_unit_stride(i.z), i.theta.contiguous(), i.shape[:4], i.tau, i.dtau, i.potential, i.index, i.gates)
    force = None
    if i.force_theta is not None:
        theta = i.force_theta.contiguous()
        force = rows_of(rows.z, theta, i.shape[4:], i.force_tau, None, i.potential, i.index, i.gates)
    return Moment(i.t, rows, force, i.residual)


def _unit_stride(z: Tensor) -> Tensor:
    return z if z.stride(1) == 1 or z.shape[1] == 1 else z.contiguous()


def _moments(i: Inputs) -> Callable[[int, Tensor], Moment]:
    """The moments of a path. τ of one moment (K, 1, H) must be contiguous: moments come first here."""

    def by_moment(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.movedim(1, 0).contiguous()[:, :, None]

    tau, dtau, force_tau = by_moment(i.tau), by_moment(i.dtau), by_moment(i.force_tau)
    gates = i.gates if i.gates is None or i.gates.dim() == 2 else i.gates.movedim(1, 0).contiguous()

    def at(moment: int, z: Tensor) -> Moment:
        def here(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[moment]

        now = gates if gates is None or gates.dim() == 2 else gates[moment // i.substeps]
        return _moment(
            i._replace(
                z=z,
                t=i.t[moment : moment + 1],
                tau=here(tau),
                dtau=here(dtau),
                force_tau=here(force_tau),
                gates=now,
            )
        )

    return at


def _kept(engine: Engine, moment: Moment, precision: Precision) -> Tensors:
    """Room for what a backward of one moment needs beside the outputs: u of the networks alone where an energy was
    added to it, what the engine saves of them, u of the force networks and what it saves of those."""
    rows, force = moment.rows, moment.force
    value = (rows.z.new_empty(rows.z.shape[0]),)
    kept: Tensors = value if "energy" in rows.shape.fields else ()
    kept += engine.saved(rows, precision)
    return kept if force is None or not moment.residual else kept + value + engine.saved(force, precision)


def _keep(moment: Moment, out: MomentForward) -> list[Tensor]:
    kept = [out.network.u] if "energy" in moment.rows.shape.fields else []
    kept += out.network.saved
    return kept if out.force is None else [*kept, out.force.u, *out.force.saved]


def _restore(
    engine: Engine, moment: Moment, precision: Precision, u: Tensor, grad: Tensor, kept: list[Tensor]
) -> MomentForward:
    """The inverse of :func:`_keep`."""
    value, left = u, list(kept)
    if "energy" in moment.rows.shape.fields:
        value = left.pop(0)
    count = len(engine.saved(moment.rows, precision))
    network = Forward(value, u, grad, None, None, tuple(left[:count]))
    force = None
    if moment.force is not None and moment.residual:
        none = u.new_empty(0)
        force = Forward(left[count], none, none, None, None, tuple(left[count + 1 :]))
    return MomentForward(u, u, network, force)


def _gpu_field(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    i, (name, of_products, keep) = Inputs(*args[:NUM_INPUTS]), args[NUM_INPUTS:]
    engine, precision, none = _engine(name), Precision(of_products), i.z.new_empty(0)
    if i.substeps:
        if isinstance(engine, PathEngine) and whole_path.serves(i):
            path = whole_path.forward(engine, i, precision)
        else:
            path = path_forward(
                engine, _moments(i), _unit_stride(i.z), i.moments, i.substeps, i.step, i.residual, precision
            )
        return path.u, path.dt, none if path.residual is None else path.residual, none, path.z, []
    moment = _moment(i)
    out = forward(engine, moment, precision, keep=keep, tangent=i.tangent)
    residual, hvp = out.network.residual, out.network.hvp
    return (
        out.u,
        out.dt,
        none if residual is None else residual,
        none.clone() if hvp is None else hvp,
        out.network.grad,
        _keep(moment, out) if keep else [],
    )


def _gpu_field_fake(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    i, (name, of_products, keep) = Inputs(*args[:NUM_INPUTS]), args[NUM_INPUTS:]
    rows, dim = i.z.shape
    new = i.z.new_empty
    steps = (i.moments // i.substeps,) if i.substeps else ()
    return (
        new(*steps, rows),
        new(*steps, rows),
        new(*steps, rows) if i.residual else new(0),
        new(rows, dim) if i.tangent is not None else new(0),
        new(i.moments + 1, rows, dim) if i.substeps else new(rows, dim),
        list(_kept(_engine(name), _moment(i), Precision(of_products))) if keep and not i.substeps else [],
    )


def _wanted(flags: list[bool]) -> tuple[Wanted, Wanted]:
    """Of the potentials' engine call and of the force's, from flags in the order of ``DIFFERENTIABLE``."""
    z, _t, theta, tau, dtau, force_theta, force_tau, gates, _tangent = flags
    return Wanted(z, theta, tau, dtau, gates), Wanted(z, force_theta, force_tau, False, gates)


def _gpu_field_backward(*args: Any) -> list[Tensor]:
    """An empty ``u`` says that nothing was kept: the moment is computed again."""
    i = Inputs(*args[:NUM_INPUTS])
    u_bar, dt_bar, residual_bar, motion_bar, u, motion, kept, name, of_products, flags = args[NUM_INPUTS:]
    engine, precision = _engine(name), Precision(of_products)
    wanted, wanted_force = _wanted(flags)
    bars = [None if x is None else x.contiguous() for x in (u_bar, dt_bar, residual_bar, motion_bar)]
    if i.substeps:
        path_bars = PathCotangents(bars[3], bars[0], bars[1], bars[2])
        if isinstance(engine, PathEngine) and whole_path.serves(i):
            found = whole_path.backward(engine, i, motion, path_bars, wanted, precision)
        else:
            found = path_backward(
                engine, _moments(i), motion, i.substeps, i.step, path_bars, wanted, wanted_force, precision
            )
        if found.gates is not None and i.gates is not None and found.gates.dim() > i.gates.dim():
            found.gates = found.gates.sum(1)
    else:
        moment = _moment(i)
        moment.residual = i.residual and residual_bar is not None
        if u.shape[0] == i.z.shape[0]:
            out = _restore(engine, moment, precision, u, motion, kept)
        else:
            out = forward(engine, moment, precision, keep=True)
        cotangents = Cotangents(bars[0], bars[1], bars[3], bars[2])
        g = backward(engine, moment, precision, out, cotangents, wanted, wanted_force)
        force = g.force
        found = OperatorGradients(
            torch.zeros_like(motion) if g.network.z is None else g.network.z,
            g.network.theta,
            g.network.tau,
            g.network.dtau,
            None if force is None else force.theta,
            None if force is None else force.tau,
            g.network.gates,
            g.t,
        )
    named = (
        *(found.z, found.t, found.theta, found.tau, found.dtau),
        *(found.force_theta, found.force_tau, found.gates, None),
    )
    # What nothing reached is zero: the outputs' cotangents need not touch every input.
    room = empty_gradients(i.tensors, i.row_times, flags, lambda x: x.new_zeros(x.shape))
    return [zero if x is None else x.view(zero.shape) for zero, x in zip(room, named, strict=True) if zero is not None]


def _gpu_field_backward_fake(*args: Any) -> list[Tensor]:
    inputs = Inputs(*args[:NUM_INPUTS])
    return only(empty_gradients(inputs.tensors, inputs.row_times, args[-1], fake_empty_like))


def _flat(outputs: tuple[Any, ...]) -> Tensors:
    *first, kept = outputs
    return (*first, *kept)


def _vmap_field(
    run: Any, size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    i = fold(Inputs(*args[:NUM_INPUTS]), in_dims[:NUM_INPUTS], size)
    u, dt, residual, hvp, motion, *kept = run(*i, *args[NUM_INPUTS:])
    at = 1 if i.substeps else 0  # where the rows are

    def unfold(x: Tensor, at: int) -> Tensor:
        return x.unflatten(at, (size, x.shape[at] // size)) if x.dim() > at else x.expand(size, 0)

    there = 0 if not i.residual else at
    outputs = (unfold(u, at), unfold(dt, at), unfold(residual, at) if i.residual else residual.expand(size, 0))
    hvp = hvp.expand(size, 0) if i.tangent is None else unfold(hvp, 0)
    return (*outputs, hvp, unfold(motion, at), *kept), (at, at, there, 0, at)


def _vmap_field_op(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    def run(*folded: Any) -> Tensors:
        return _flat(torch.ops.ffrl_fast.gpu_field(*folded))

    outputs, dims = _vmap_field(run, info.batch_size, in_dims, args)
    kept = list(outputs[_OUTPUTS:])
    return (*outputs[:_OUTPUTS], kept), (*dims, [None] * len(kept))


def _vmap_backward(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[list[Tensor], list[int]]:
    """One call a mapped element: the gradients of what the rows share (parameters, one time) are asked for by element.

    What the folded forward kept does not divide by element, so its moment is computed again.
    """
    none = args[0].new_empty(0)
    results = []
    for picked in each_element(info, in_dims, args):
        *inputs, _u, motion, _kept, name, of_products, wanted = picked
        path = motion if inputs[_SUBSTEPS] else none
        results.append(torch.ops.ffrl_fast.gpu_field_backward(*inputs, none, path, [], name, of_products, wanted))
    gradients = [torch.stack(x) for x in zip(*results, strict=True)]
    return gradients, [0] * len(gradients)


register_everywhere(
    "gpu_field",
    f"({INPUTS}, str engine, str precision, bool keep) -> (Tensor u, Tensor dt, Tensor residual, Tensor hvp, "
    "Tensor motion, Tensor[] kept)",
    _gpu_field,
    _gpu_field_fake,
)
register_everywhere(
    "gpu_field_backward",
    f"({INPUTS}, Tensor? u_bar, Tensor? dt_bar, Tensor? residual_bar, Tensor? motion_bar, Tensor u, Tensor motion, "
    "Tensor[] kept, str engine, str precision, bool[] wanted) -> Tensor[] gradients",
    _gpu_field_backward,
    _gpu_field_backward_fake,
)


register_vmap("gpu_field", _vmap_field_op)
register_vmap("gpu_field_backward", _vmap_backward)


class _GpuField(torch.autograd.Function):
    """``ffrl_fast::gpu_field`` with its first-order gradient; the outputs kept for it follow the five others."""

    @staticmethod
    def forward(*args: Any) -> Tensors:
        return _flat(torch.ops.ffrl_fast.gpu_field(*args))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.save_for_backward(*inputs[:NUM_TENSORS], output[0], *output[_OUTPUTS - 1 :])
        ctx.plain = inputs[NUM_TENSORS:NUM_INPUTS]
        ctx.engine_and_precision = inputs[NUM_INPUTS : NUM_INPUTS + 2]
        ctx.mark_non_differentiable(output[3], *output[_OUTPUTS:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs, (u, motion, *kept) = ctx.saved_tensors[:NUM_TENSORS], ctx.saved_tensors[NUM_TENSORS:]
        wanted = wanted_gradients(ctx, inputs)
        wanted[-1] = False
        bars = (*cotangents[:3], cotangents[4])
        check_cotangents(bars)
        if all(x is None for x in bars):
            return (None,) * (NUM_INPUTS + 3)
        args = (*inputs, *ctx.plain, *bars, u, motion, kept, *ctx.engine_and_precision, wanted)
        backward = _GpuFieldBackward.apply if torch.is_grad_enabled() else torch.ops.ffrl_fast.gpu_field_backward
        return tuple(place_gradients(backward(*args), wanted, NUM_INPUTS + 3))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, tuple[Any, ...]]:
        outputs, dims = _vmap_field(_GpuField.apply, info.batch_size, in_dims, args)
        return outputs, (*dims, *(None for _ in outputs[_OUTPUTS:]))


class _GpuFieldBackward(FirstOrderOnly):
    @staticmethod
    def forward(*args: Any) -> Tensors:
        return tuple(torch.ops.ffrl_fast.gpu_field_backward(*args))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int, ...]]:
        gradients, dims = _vmap_backward(info, in_dims, *args)
        return tuple(gradients), tuple(dims)


def evaluate(i: Inputs, engine: str, precision: str) -> Tensors:
    """u, ∂_t u, the residual, ∇²u · tangent, and ∇u or the path; differentiable but for the tangent's product."""
    if needs_function(i.tensors):
        return apply_function(_GpuField, (*i, engine, precision, True))[:_OUTPUTS]
    return _flat(torch.ops.ffrl_fast.gpu_field(*i, engine, precision, False))[:_OUTPUTS]


register_autograd("gpu_field", _GpuField)
register_autograd("gpu_field_backward", _GpuFieldBackward)

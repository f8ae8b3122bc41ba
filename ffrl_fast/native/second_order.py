"""``ffrl_fast::curvature``: Hessian, Laplacian and log-determinant. Its gradient is the reference's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ffrl_fast import matrices, reference
from ffrl_fast.layout import NetworkShape
from ffrl_fast.native.dispatch import (
    FirstOrderOnly,
    apply_function,
    check_cotangents,
    needs_function,
    place_gradients,
    register,
    register_autograd,
    register_vmap,
    run_operator,
    wanted_gradients,
)
from ffrl_fast.native.plan import numbers, prepare
from ffrl_fast.native.problem import (
    DIFFERENTIABLE,
    INPUTS,
    NUM_INPUTS,
    NUM_TENSORS,
    Inputs,
    Tensors,
    address,
    empty,
)
from ffrl_fast.native.vmap import each_element, fold, rows_of_each

#: What ``ffrl_fast::curvature`` computes.
HESSIAN, LAPLACIAN, LOG_DET = range(3)

#: Bytes of the Hessians that are in memory at once where the caller did not ask for them.
_HESSIAN_BYTES = 64 * 2**20


def _curvature_shapes(inputs: Inputs, what: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rows, dim = inputs.z.shape
    return ((rows, dim, dim) if what == HESSIAN else (rows,)), ((rows,) if what == LOG_DET else (0,))


def _curvature_cpu(*args: Any) -> Tensors:
    inputs, (what, scale) = Inputs(*args[:NUM_INPUTS]), args[NUM_INPUTS:]
    value, sign = (empty(*shape, like=inputs.z) for shape in _curvature_shapes(inputs, what))
    if inputs.z.shape[0] == 0:
        return value, sign
    plan, given = prepare(inputs._replace(step=scale))
    to = [0, 0, 0, address(sign)]
    to[{LAPLACIAN: 0, HESSIAN: 1, LOG_DET: 2}[what]] = address(value)
    plan.curvature(plan.sizes, numbers(given), tuple(to))
    return value, sign


def _curvature_fake(*args: Any) -> Tensors:
    inputs = Inputs(*args[:NUM_INPUTS])
    value, sign = (inputs.z.new_empty(shape) for shape in _curvature_shapes(inputs, args[NUM_INPUTS]))
    return value, sign


def _rows(inputs: Inputs, at: slice) -> Inputs:
    """Some of the rows, at one moment."""
    i, own = inputs, inputs.t.shape[0] > 1
    return i._replace(
        z=i.z[at],
        t=i.t[at] if own else i.t,
        tau=i.tau[:, at] if own and i.tau is not None else i.tau,
        dtau=i.dtau[:, at] if own and i.dtau is not None else i.dtau,
        index=None if i.index is None else i.index[at],
        gates=None if i.gates is None else i.gates[at],
    )


def _vmap_curvature(
    run: Any, size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[Tensors, tuple[int, int]]:
    inputs = fold(Inputs(*args[:NUM_INPUTS]), in_dims[:NUM_INPUTS], size)
    value, sign = run(*inputs, *args[NUM_INPUTS:])
    rows = rows_of_each(args[0], in_dims[0])
    signs = (size, rows if args[NUM_INPUTS] == LOG_DET else 0)
    return (value.unflatten(0, (size, rows)), sign.unflatten(0, signs)), (0, 0)


def _vmap_curvature_op(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int, int]]:
    return _vmap_curvature(torch.ops.ffrl_fast.curvature, info.batch_size, in_dims, args)


register(
    "curvature",
    f"({INPUTS}, int what, float scale) -> (Tensor value, Tensor sign)",
    _curvature_cpu,
    _curvature_fake,
)
register_vmap("curvature", _vmap_curvature_op)


def _curvature_gradients(*args: Any) -> list[Tensor]:
    """⟨bar, dvalue⟩ for each input that is wanted: by the reference, a block of rows at a time."""
    inputs, (what, scale, bar, wanted) = Inputs(*args[:NUM_INPUTS]), args[NUM_INPUTS:]
    rows, dim = inputs.z.shape
    shape = NetworkShape.from_native(dim, inputs.shape)
    places = [place for place, want in zip(DIFFERENTIABLE, wanted, strict=True) if want]
    tensors: Any = list(inputs.tensors)
    for place in places:
        tensors[place] = tensors[place].detach().requires_grad_()
    totals = [torch.zeros_like(tensors[place]) for place in places]
    # The reference holds about six arrays of B·H·D for each potential.
    each = 6 * inputs.theta.shape[0] * max(shape.width, dim) * dim * inputs.z.itemsize
    size = max(1, _HESSIAN_BYTES // each)
    identity = torch.eye(dim, dtype=inputs.z.dtype)
    for start in range(0, rows, size):
        at = slice(start, start + size)
        # A backward may run under the autocast that the forward did not see.
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            i = _rows(Inputs(*tensors, *inputs[NUM_TENSORS:]), at)
            tau = i.tau
            if tau is None:
                theta = i.theta if i.potential < 0 else i.theta[i.potential : i.potential + 1]
                tau = reference.conditioning(i.t, theta, shape)[0]
            found = reference.hessian(i.z, i.theta, shape, tau, potential=i.potential, index=i.index, gates=i.gates)
            if what == HESSIAN:
                direction = bar[at]
            elif what == LAPLACIAN:
                direction = bar[at, None, None] * identity
            else:
                # d log|det M| = ⟨M⁻¹, dM⟩; of a singular M the gradient is not finite, and no error.
                inverse = matrices.inverse(identity + scale * found.detach())
                direction = scale * bar[at, None, None] * inverse
            parts = torch.autograd.grad(
                (found * direction).sum(), [tensors[place] for place in places], allow_unused=True
            )
        for total, part in zip(totals, parts, strict=True):
            if part is not None:
                total += part
    return totals


class _Curvature(torch.autograd.Function):
    """``ffrl_fast::curvature`` with its first-order gradient."""

    @staticmethod
    def forward(*args: Any) -> Tensors:
        return run_operator("curvature", args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.save_for_backward(*inputs[:NUM_TENSORS])
        ctx.plain = inputs[NUM_TENSORS:]
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, bar: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        length = NUM_INPUTS + 2
        if bar is None:
            return (None,) * length
        check_cotangents((bar,))
        wanted = wanted_gradients(ctx, ctx.saved_tensors)
        args = (*ctx.saved_tensors, *ctx.plain, bar, wanted)
        found = _CurvatureBackward.apply(*args) if torch.is_grad_enabled() else _curvature_gradients(*args)
        return tuple(place_gradients(found, wanted, length))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int, int]]:
        return _vmap_curvature(_Curvature.apply, info.batch_size, in_dims, args)


class _CurvatureBackward(FirstOrderOnly):
    @staticmethod
    def forward(*args: Any) -> Tensors:
        return tuple(_curvature_gradients(*args))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int, ...]]:
        """One call a mapped element, as of the field's."""
        results = [_CurvatureBackward.apply(*picked) for picked in each_element(info, in_dims, args)]
        gradients = tuple(torch.stack(x) for x in zip(*results, strict=True))
        return gradients, (0,) * len(gradients)


register_autograd("curvature", _Curvature)


def curvature(inputs: Inputs, what: int, scale: float) -> Tensors:
    """The Hessian (B, D, D), the Laplacian (B,), or log|det(I + scale ∇²u)| (B,) and the determinant's sign."""
    args = (*inputs, what, scale)
    differentiable = needs_function(inputs.tensors)
    value, sign = apply_function(_Curvature, args) if differentiable else run_operator("curvature", args)
    return value, sign

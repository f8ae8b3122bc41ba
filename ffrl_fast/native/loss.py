"""``ffrl_fast::hj_loss``: a loss and its gradients in one sweep."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ffrl_fast.backends.interface import HJGradients
from ffrl_fast.native.dispatch import (
    FirstOrderOnly,
    apply_function,
    is_direct,
    place_gradients,
    register,
    register_vmap,
    run_operator,
    which_require_grad,
)
from ffrl_fast.native.field import evaluate
from ffrl_fast.native.problem import (
    ENTRIES,
    INPUTS,
    NUM_INPUTS,
    NUM_TENSORS,
    Inputs,
    Tensors,
    address,
    addresses,
    contiguous,
    empty_gradients,
    empty_like,
    fake_empty_like,
    native_problem,
    only,
)
from ffrl_fast.native.vmap import each_element


def _empty_loss(
    inputs: Inputs,
    weight: Tensor | None,
    wanted: list[bool],
    empty_like: Callable[[Tensor], Tensor] = empty_like,
) -> tuple[Tensor, list[Tensor | None], Tensor | None]:
    d_weight = empty_like(weight) if weight is not None and wanted[-1] else None
    return inputs.z.new_empty(()), empty_gradients(inputs, wanted, empty_like), d_weight


def _hj_loss_cpu(*args: Any) -> tuple[Tensor, list[Tensor]]:
    inputs, weight, wanted = Inputs(*args[:NUM_INPUTS]), args[NUM_INPUTS], args[NUM_INPUTS + 1]
    value, gradients, d_weight = _empty_loss(inputs, weight, wanted)
    _run_loss(inputs, weight, value, gradients, d_weight)
    return value, only([*gradients, d_weight])


def _run_loss(
    inputs: Inputs,
    weight: Tensor | None,
    value: Tensor,
    gradients: list[Tensor | None],
    d_weight: Tensor | None = None,
) -> None:
    """Fills ``value`` and the gradients."""
    if inputs.z.shape[0] == 0:
        for gradient in only([*gradients, d_weight]):
            gradient.zero_()
        value.fill_(math.nan)  # the mean of nothing, as torch's
        return
    call, potential, force, _alive = native_problem(inputs)
    weight = contiguous(weight)
    ENTRIES["loss", value.dtype](
        call, potential, force, value.data_ptr(), address(weight), address(d_weight), addresses(gradients)
    )


def _hj_loss_fake(*args: Any) -> tuple[Tensor, list[Tensor]]:
    value, gradients, d_weight = _empty_loss(Inputs(*args[:NUM_INPUTS]), args[-2], args[-1], fake_empty_like)
    return value, only([*gradients, d_weight])


def _vmap_hj_loss_op(
    info: Any, in_dims: tuple[Any, ...], *args: Any
) -> tuple[tuple[Tensor, list[Tensor]], tuple[int, list[int]]]:
    values, results = zip(
        *(torch.ops.ffrl_fast.hj_loss(*picked) for picked in each_element(info, in_dims, args)), strict=True
    )
    gradients = [torch.stack(x) for x in zip(*results, strict=True)]
    return (torch.stack(values), gradients), (0, [0] * len(gradients))


# The last of ``wanted`` is the gradient of the weight.
register(
    "hj_loss",
    f"({INPUTS}, Tensor? weight, bool[] wanted) -> (Tensor value, Tensor[] gradients)",
    _hj_loss_cpu,
    _hj_loss_fake,
)
register_vmap("hj_loss", _vmap_hj_loss_op)


class _HJLoss(torch.autograd.Function):
    """``ffrl_fast::hj_loss``: the gradients come with the value; the backward scales them."""

    @staticmethod
    def forward(*args: Any) -> Tensors:
        value, gradients = run_operator("hj_loss", args)
        return value, *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        gradients = output[1:]
        # The inputs are kept only to be differentiated a second time, which is an error that must be raised.
        leaves = [x for x in (*inputs[:NUM_TENSORS], inputs[NUM_INPUTS]) if x is not None and x.requires_grad]
        ctx.save_for_backward(*gradients, *leaves)
        ctx.count, ctx.wanted = len(gradients), inputs[NUM_INPUTS + 1]
        ctx.mark_non_differentiable(*gradients)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, value_bar: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if value_bar is None:
            return (None,) * (NUM_INPUTS + 2)
        saved = ctx.saved_tensors
        gradients, leaves = saved[: ctx.count], saved[ctx.count :]
        if torch.is_grad_enabled():
            gradients = _ScaledGradients.apply(value_bar, len(gradients), *gradients, *leaves)
        elif not (is_direct(value_bar, value_bar) and value_bar.item() == 1):  # nothing to do for loss.backward()
            gradients = tuple(value_bar * x for x in gradients)
        d_weight = gradients[-1] if ctx.wanted[-1] else None
        return (*place_gradients(gradients, ctx.wanted[:-1], NUM_INPUTS), d_weight, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int, ...]]:
        (value, gradients), (dim, dims) = _vmap_hj_loss_op(info, in_dims, *args)
        return (value, *gradients), (dim, *dims)


class _ScaledGradients(FirstOrderOnly):
    """The gradients of a loss times its cotangent; takes the inputs only to be a node of their graph."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value_bar: Tensor, count: int, *args: Tensor) -> Tensors:
        return tuple(value_bar * x for x in args[:count])


def hj_loss(inputs: Inputs, weight: Tensor | None) -> Tensor:
    """mean over rows of weight · residual², () ; its gradients, where any is needed, from the same sweep."""
    wanted = which_require_grad(inputs)
    wanted.append(weight is not None and weight.requires_grad and torch.is_grad_enabled())
    if any(wanted):
        return apply_function(_HJLoss, (*inputs, weight, wanted))[0]
    square = evaluate(inputs).residual.square()
    return square.mean() if weight is None else (weight * square).mean()


def hj_value_and_grad(inputs: Inputs, weight: Tensor | None) -> tuple[Tensor, HJGradients]:
    """Value and gradients without autograd, by one direct call into the engine; times that all rows share."""
    z, theta, force_theta, gates = inputs.z, inputs.theta, inputs.force_theta, inputs.gates
    value, d_z, d_theta = z.new_empty(()), empty_like(z), empty_like(theta)
    d_force = None if force_theta is None else empty_like(force_theta)
    d_gates = None if gates is None else z.new_zeros(gates.shape)
    _run_loss(inputs, weight, value, [d_z, None, d_theta, None, None, d_force, None, d_gates, None])
    return value, HJGradients(d_z, d_theta, d_force, d_gates)

"""``ffrl_fast::hj_loss``: a loss and its gradients in one sweep."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ffrl_fast.backends.interface import HJGradients
from ffrl_fast.native import nodes
from ffrl_fast.native.dispatch import (
    FirstOrderOnly,
    apply_function,
    direct_apply,
    in_transform,
    is_batched,
    is_direct,
    place_gradients,
    register,
    register_vmap,
    requires_grad,
    run_operator,
    which_require_grad,
)
from ffrl_fast.native.field import evaluate, evaluate_directly, watched_backward
from ffrl_fast.native.plan import Plan, numbers, prepare, prepare_direct
from ffrl_fast.native.problem import (
    DIFFERENTIABLE,
    INPUTS,
    NUM_INPUTS,
    NUM_TENSORS,
    Given,
    Inputs,
    Tensors,
    address,
    addresses,
    contiguous,
    empty_gradients,
    empty_like,
    fake_empty_like,
    only,
)
from ffrl_fast.native.vmap import each_element

# Like them a value is made in half the time that its sizes, none, take to be read.
_SCALARS = {dtype: torch.empty((), dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64)}


def _empty_loss(
    given: Given,
    row_times: bool,
    weight: Tensor | None,
    wanted: list[bool],
    empty_like: Callable[[Tensor], Tensor] = empty_like,
) -> tuple[Tensor, list[Tensor | None], Tensor | None]:
    """The value, the gradients and the weight's; the last of ``wanted`` is the weight's."""
    d_weight = empty_like(weight) if weight is not None and wanted[-1] else None
    return given[0].new_empty(()), empty_gradients(given, row_times, wanted, empty_like), d_weight


def _of_nothing(value: Tensor, gradients: list[Tensor]) -> None:
    """A loss of no rows."""
    for gradient in gradients:
        gradient.zero_()
    value.fill_(math.nan)  # the mean of nothing, as torch's


def _loss_and_gradients(
    plan: Plan, given: Given, weight: Tensor | None, wanted: list[bool]
) -> tuple[Tensor, list[Tensor]]:
    """The value, and the gradients that are wanted."""
    value, gradients, d_weight = _empty_loss(given, plan.row_times, weight, wanted)
    found = only([*gradients, d_weight])
    if plan.extent.rows == 0:
        _of_nothing(value, found)
    else:
        weight = contiguous(weight)
        to = addresses(gradients)
        plan.loss(plan.sizes, numbers(given), value.data_ptr(), address(weight), address(d_weight), to)
    return value, found


def _hj_loss_cpu(*args: Any) -> tuple[Tensor, list[Tensor]]:
    return _loss_and_gradients(*prepare(Inputs(*args[:NUM_INPUTS])), *args[NUM_INPUTS:])


def _hj_loss_fake(*args: Any) -> tuple[Tensor, list[Tensor]]:
    inputs = Inputs(*args[:NUM_INPUTS])
    value, gradients, d_weight = _empty_loss(inputs.tensors, inputs.row_times, args[-2], args[-1], fake_empty_like)
    return value, only([*gradients, d_weight])


def _vmap_hj_loss_op(
    info: Any, in_dims: tuple[Any, ...], *args: Any
) -> tuple[tuple[Tensor, list[Tensor]], tuple[int, list[int]]]:
    values, results = zip(
        *(torch.ops.ffrl_fast.hj_loss(*picked) for picked in each_element(info, in_dims, args)), strict=True
    )
    gradients = [torch.stack(x) for x in zip(*results, strict=True)]
    return (torch.stack(values), gradients), (0, [0] * len(gradients))


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
        if not torch.compiler.is_compiling():
            ctx.hooked = _has_hooks()

    @staticmethod
    def backward(ctx: Any, value_bar: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if value_bar is None:
            return (None,) * (NUM_INPUTS + 2)
        gradients = _scaled(value_bar, ctx.saved_tensors, ctx.count, _is_last(ctx))
        d_weight = gradients[-1] if ctx.wanted[-1] else None
        return (*place_gradients(gradients, ctx.wanted[:-1], NUM_INPUTS), d_weight, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int, ...]]:
        # By the function, not the operator, which has no gradient of its own.
        results = zip(*(_HJLoss.apply(*picked) for picked in each_element(info, in_dims, args)), strict=True)
        outputs = tuple(torch.stack(x) for x in results)
        return outputs, (0,) * len(outputs)


class _ScaledGradients(FirstOrderOnly):
    """The gradients of a loss times its cotangent; takes the inputs only to be a node of their graph."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value_bar: Tensor, count: int, *args: Tensor) -> Tensors:
        return tuple(value_bar * x for x in args[:count])


def _has_hooks() -> bool:
    """Whether what is saved now goes through hooks: what they return may lie in memory that is theirs."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def _is_last(ctx: Any) -> bool:
    """Whether the gradients of the node may be handed out: by a backward whose graph is not kept, without hooks."""
    if torch.compiler.is_compiling() or getattr(ctx, "hooked", True):
        return False
    return not torch._C._autograd._get_current_graph_task_keep_graph()


def _scaled(value_bar: Tensor, saved: Tensors, count: int, last: bool) -> Tensors:
    """The first ``count`` of what was saved, a loss's gradients, times its cotangent.

    They themselves are handed out by the ``last`` backward alone: a graph that is kept gives each its own.
    """
    if torch.is_grad_enabled():
        scaled: Tensors = apply_function(_ScaledGradients, (value_bar, count, *saved))
        return scaled
    gradients = saved[:count]
    if not is_direct(value_bar) or is_batched(value_bar):
        return tuple([value_bar * x for x in gradients])
    if value_bar.item() == 1 and last:  # nothing to do for loss.backward()
        return gradients
    return tuple([torch.mul(x, value_bar, out=empty_like(x)) for x in gradients])


class _DirectHJLoss(torch.autograd.Function):
    """:class:`_HJLoss` where nothing watches the call: a node of few inputs, as the field's."""

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, given: Given, weight: Tensor | None, wanted: list[bool], *leaves: Tensor
    ) -> Tensor:
        value, gradients = _loss_and_gradients(plan, given, weight, wanted)
        ctx.save_for_backward(*gradients)
        # To be differentiated a second time, which is an error that must be raised; they may be changed in place.
        ctx.leaves = leaves
        ctx.hooked = _has_hooks()
        ctx.set_materialize_grads(False)
        return value

    @staticmethod
    def backward(ctx: Any, value_bar: Tensor | None) -> tuple[Tensor | None, ...]:
        count = len(ctx.needs_input_grad) - 4
        gradients = (
            (None,) * count
            if value_bar is None
            else _scaled(value_bar, (*ctx.saved_tensors, *ctx.leaves), count, _is_last(ctx))
        )
        return (None, None, None, None, *gradients)


_apply_direct_loss = direct_apply(_DirectHJLoss)
if nodes.compiled is not None:
    nodes.compiled.leave_to(watched_backward, _scaled)


def _loss_wanted(given: Given, weight: Tensor | None) -> list[bool]:
    wanted = which_require_grad(given)
    wanted.append(weight is not None and torch.is_grad_enabled() and requires_grad(weight))
    return wanted


def _of_residual(residual: Tensor | None, weight: Tensor | None) -> Tensor:
    assert residual is not None
    square = residual.square()
    return square.mean() if weight is None else (weight * square).mean()


def hj_loss_directly(plan: Plan, given: Given, weight: Tensor | None) -> Tensor:
    """:func:`hj_loss` of a prepared call that nothing watches."""
    if plan.compiled is not None:
        found: Tensor | None = nodes.compiled.hj_loss(plan.compiled, given, weight)
        return _of_residual(evaluate_directly(plan, given).residual, weight) if found is None else found
    wanted = _loss_wanted(given, weight)
    if not any(wanted):
        return _of_residual(evaluate_directly(plan, given).residual, weight)
    differentiable = [*[given[place] for place in DIFFERENTIABLE], weight]
    leaves = [x for x, want in zip(differentiable, wanted, strict=True) if want]
    value: Tensor = _apply_direct_loss(plan, given, weight, wanted, *leaves)
    return value


def hj_loss(inputs: Inputs, weight: Tensor | None) -> Tensor:
    """mean over rows of weight · residual², () ; its gradients, where any is needed, from the same sweep."""
    if is_direct(*inputs.tensors, weight):
        return hj_loss_directly(*prepare_direct(inputs), weight)
    wanted = _loss_wanted(inputs.tensors, weight)
    if not any(wanted):
        return _of_residual(evaluate(inputs).residual, weight)
    value: Tensor = apply_function(_HJLoss, (*inputs, weight, wanted))[0]
    return value


_RETURNED = (0, 2, 5, 8)  # the places among the inputs of z, theta, force_theta, gates


def hj_value_and_grad(inputs: Inputs, weight: Tensor | None) -> tuple[Tensor, HJGradients]:
    """Value and gradients without autograd; times that all rows share."""
    if is_direct(*inputs.tensors, weight):
        return hj_value_and_grad_directly(*prepare_direct(inputs), weight)
    wanted = [place in _RETURNED and inputs[place] is not None for place in DIFFERENTIABLE]
    value, *found = apply_function(_HJLoss, (*inputs, weight, [*wanted, False]))
    left = iter(found)
    d_z, d_theta = next(left), next(left)
    d_force = None if inputs.force_theta is None else next(left)
    d_gates = None if inputs.gates is None else next(left)
    if not in_transform():
        value = value.detach()
    return value, _of_tied(inputs.theta, inputs.force_theta, HJGradients(d_z, d_theta, d_force, d_gates))


def _of_tied(theta: Tensor, force_theta: Tensor | None, found: HJGradients) -> HJGradients:
    """One tensor that is the potential's and the force's has one gradient, their sum."""
    if force_theta is not theta or found.force is None:
        return found
    total = found.theta + found.force
    return found._replace(theta=total, force=total)


def hj_value_and_grad_directly(plan: Plan, given: Given, weight: Tensor | None) -> tuple[Tensor, HJGradients]:
    """:func:`hj_value_and_grad` of a prepared call that nothing watches, by one call into the engine."""
    z, theta, force_theta, gates = given[0], given[2], given[5], given[8]
    if plan.compiled is not None:
        value, *gradients = nodes.compiled.value_and_grad(plan.compiled, given, weight)
        found = HJGradients(*gradients)
        return value, found if force_theta is None else _of_tied(theta, force_theta, found)
    value, d_z, d_theta = torch.empty_like(_SCALARS[z.dtype]), empty_like(z), empty_like(theta)
    d_force = None if force_theta is None else empty_like(force_theta)
    d_gates = None if gates is None else z.new_zeros(gates.shape)
    if plan.extent.rows == 0:
        _of_nothing(value, only([d_z, d_theta, d_force, d_gates]))
    else:
        weight = contiguous(weight)
        to = (d_z.data_ptr(), 0, d_theta.data_ptr(), 0, 0, address(d_force), 0, address(d_gates), 0)
        plan.loss(plan.sizes, numbers(given), value.data_ptr(), address(weight), 0, to)
    found = HJGradients(d_z, d_theta, d_force, d_gates)
    return value, found if force_theta is None else _of_tied(theta, force_theta, found)

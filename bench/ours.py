"""ffrl_fast as it is timed: the public API, in the forms of :mod:`bench.baselines`.

An operator that the installed version does not have yet is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import ffrl_fast
from bench.problems import FlowProblem, GivenTimeBank, Problem, Work

Call = Callable[[], Any]


def _leaves(p: Problem) -> list[Tensor]:
    """z, θ, and τ and dτ/dt where they are given: what a user of the bank asks gradients of."""
    given = [p.bank.tau, p.bank.dtau] if isinstance(p.bank, GivenTimeBank) else []
    return [p.leaves["z"], p.bank.theta, *given]


def as_leaves(p: Problem, result: Any) -> Any:
    """A result with the gradient of θ taken apart, so that it can be compared. Not part of what is timed."""
    value, (z, theta, *given) = result
    return value, [z, *p.split_theta(theta), *(x[0] for x in given)]


def operator(p: Problem, work: Work) -> Call:
    """``potential_field`` or ``hj_residual``, and ``torch.autograd.grad``."""
    z, bank, leaves = p.leaves["z"], p.bank, _leaves(p)
    if work == "forward":
        rows = z.detach()

        def forward() -> Any:
            with torch.no_grad():
                return ffrl_fast.potential_field(rows, p.t, bank)[:3]

        return forward

    def bare() -> Any:
        out = ffrl_fast.potential_field(z, p.t, bank)
        return None, torch.autograd.grad((out.dt, out.grad), leaves, (p.dt_bar, p.grad_bar))

    def step() -> Any:
        out = ffrl_fast.hj_residual(z, p.t, bank)
        value = out.residual.square().mean()
        if work == "step":
            value = value + (p.grad_bar * out.grad).sum()
        return value, torch.autograd.grad(value, leaves)

    return bare if work == "operator" else step


def operator_by_hand(p: Problem, work: Work) -> Call:
    """``hj_residual`` and ``torch.autograd.grad``; the loss and its cotangents of ∇u and the residual by hand, as in
    :func:`bench.baselines.by_formulas`."""
    assert work == "step"
    z, bank, leaves = p.leaves["z"], p.bank, _leaves(p)
    rows, flat_bar = z.shape[0], p.grad_bar.flatten()

    def call() -> Any:
        out = ffrl_fast.hj_residual(z, p.t, bank)
        residual, grad = out.residual.detach(), out.grad.detach()
        residual_bar = residual * (2 / rows)
        value = torch.dot(residual, residual) / rows + torch.dot(flat_bar, grad.flatten())
        return value, torch.autograd.grad((out.residual, out.grad), leaves, (residual_bar, p.grad_bar))

    return call


def operator_compiled(p: Problem, work: Work, backend: str = "inductor") -> Call:
    """``hj_residual`` and the loss around it under torch.compile, and ``torch.autograd.grad``."""
    assert work == "step"
    leaves = _leaves(p)

    def value() -> Tensor:
        out = ffrl_fast.hj_residual(p.leaves["z"], p.t, p.bank)
        return out.residual.square().mean() + (p.grad_bar * out.grad).sum()

    compiled = torch.compile(value, fullgraph=True, dynamic=False, backend=backend)

    def call() -> Any:
        found = compiled()
        return found, torch.autograd.grad(found, leaves)

    return call


def hj_loss(p: Problem, work: Work) -> Call:
    """``hj_loss``, whose gradients are computed with its value, and ``torch.autograd.grad``."""
    assert work == "loss"
    leaves = _leaves(p)

    def call() -> Any:
        value = ffrl_fast.hj_loss(p.leaves["z"], p.t, p.bank)
        return value, torch.autograd.grad(value, leaves)

    return call


def value_and_grad(p: Problem, work: Work) -> Call:
    """``value_and_grad``: no autograd."""
    assert work == "loss" and p.time == "learned"
    z = p.leaves["z"].detach()

    def call() -> Any:
        value, gradients = ffrl_fast.value_and_grad(z, p.t, p.bank, loss="hj")
        return value, (gradients.z, gradients.theta)

    return call


def integrate(p: FlowProblem, per_row: bool = False, row_sum: bool = False) -> Call:
    """``integrate`` with its residual; ``per_row``: each row moved by a potential of its own; ``row_sum``: the paper
    code's log|1 + row sums| in the loss too.
    """
    leaves = [p.leaves["z"], p.bank.theta, *([p.force.theta] if p.force is not None else [])]
    index = p.index if per_row else p.chosen

    def call() -> Any:
        outputs: tuple[Any, ...] = ("residual", "row_sum") if row_sum else ("residual",)
        path = ffrl_fast.integrate(p.leaves["z"], p.times, p.bank, index=index, force=p.force, outputs=outputs)
        assert path.residual is not None
        value = path.residual.square().mean() + (p.end_bar * path.z[-1]).sum()
        if path.row_sum is not None:
            value = value - path.row_sum.mean()
        return value, torch.autograd.grad(value, leaves)

    return call


def flow_as_leaves(p: FlowProblem, result: Any) -> Any:
    """A result of :func:`integrate` with the gradients of θ taken apart. Not part of what is timed."""
    value, (z, *thetas) = result
    return value, [z, *(x for theta in thetas for x in p.split_theta(theta))]

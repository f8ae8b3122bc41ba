"""Every baseline computes what ffrl_fast computes: timings of different results would mean nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ffrl_fast
from bench import baselines, ours
from bench.problems import WORKS, FlowProblem, Problem, Time, Work
from bench.variants import flow_reference
from ffrl_fast.tolerances import relative_error

FLOAT64, FLOAT32 = 1e-11, 3e-5
TIMES: list[Time] = ["learned", "given"]


def by_reference(p: Problem, work: Work) -> dict[str, Tensor]:
    """The work on the reference backend."""
    with ffrl_fast.use_backend("reference"):
        if work == "forward":
            return p.named(work, ours.operator(p, work)())
        out = ffrl_fast.hj_residual(p.leaves["z"], p.t, p.bank)
        value = p.objective(work, out.dt, out.grad)
        gradients = torch.autograd.grad(value, ours._leaves(p), allow_unused=True)
        return p.named(work, ours.as_leaves(p, (value, gradients)))


def compare(found: dict[str, Tensor], exact: dict[str, Tensor], bound: float) -> None:
    assert set(found) >= set(exact) - {"value"}
    for name, value in found.items():
        assert relative_error(value, exact[name]) < bound, name


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize(
    "build",
    [
        baselines.autograd_shared_time,
        baselines.autograd_time_per_row,
        baselines.functional,
        baselines.formulas_eager,
        ours.operator,
    ],
)
def test_eager(build: Callable[..., Any], work: Work, time: Time) -> None:
    p = Problem(7, 13, time, torch.float64)
    result = build(p, work)()
    if build is ours.operator and work != "forward":
        result = ours.as_leaves(p, result)
    compare(p.named(work, result), by_reference(p, work), FLOAT64)


@pytest.mark.parametrize(("work", "time"), [*((work, "learned") for work in WORKS), ("step", "given")])
@pytest.mark.parametrize(
    "build", [baselines.functional_compiled, baselines.formulas_compiled, baselines.formulas_autograd_compiled]
)
def test_compiled(build: Callable[..., Any], work: Work, time: Time) -> None:
    torch._dynamo.reset()
    p = Problem(6, 9, time, torch.float64)
    compare(p.named(work, build(p, work, backend="aot_eager")()), by_reference(p, work), FLOAT64)


@pytest.mark.parametrize("time", TIMES)
def test_ours_compiled(time: Time) -> None:
    torch._dynamo.reset()
    p = Problem(6, 9, time, torch.float64)
    result = ours.as_leaves(p, ours.operator_compiled(p, "step", backend="aot_eager")())
    compare(p.named("step", result), by_reference(p, "step"), FLOAT64)


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("build", [baselines.jax_formulas, baselines.jax_formulas_autodiff, baselines.jax_autodiff])
def test_jax(build: Callable[..., Any], work: Work, time: Time) -> None:
    pytest.importorskip("jax")
    p = Problem(8, 9, time)
    compare(p.named(work, build(p, work)()), by_reference(Problem(8, 9, time, torch.float64), work), FLOAT32)


@pytest.mark.parametrize("entry", ["hj_loss", "value_and_grad"])
def test_direct_entries(entry: str) -> None:
    p = Problem(7, 13, dtype=torch.float64)
    result = ours.as_leaves(p, getattr(ours, entry)(p, "loss")())
    compare(p.named("loss", result), by_reference(p, "loss"), FLOAT64)


@pytest.mark.parametrize("work", WORKS)
def test_products_run(work: Work) -> None:
    baselines.products(Problem(5, 8), work)()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("build", ["autograd", "compiled", "jax", "ours"])
def test_flow(build: str, force: bool) -> None:
    dtype, bound = (torch.float32, FLOAT32) if build == "jax" else (torch.float64, FLOAT64)
    p = FlowProblem(6, 9, steps=3, with_force=force, dtype=dtype)
    if build == "jax":
        pytest.importorskip("jax")
        result = baselines.flow_jax_formulas(p)()
    elif build == "compiled":
        torch._dynamo.reset()
        result = baselines.flow_formulas_compiled(p, backend="aot_eager")()
    else:
        result = baselines.flow_autograd(p)() if build == "autograd" else ours.flow_as_leaves(p, ours.integrate(p)())
    exact = FlowProblem(6, 9, steps=3, with_force=force, dtype=torch.float64)
    with ffrl_fast.use_backend("reference"):
        reference = exact.named(ours.flow_as_leaves(exact, ours.integrate(exact)()))
    compare(p.named(result), reference, bound)


def test_reference_of_a_flow_by_blocks() -> None:
    p = FlowProblem(6, 9, steps=3, with_force=True, dtype=torch.float64)
    compare(flow_reference(p, block=4), p.named(baselines.flow_autograd(p)()), FLOAT64)


@pytest.mark.parametrize("force", [False, True])
def test_paper_code_step(force: bool) -> None:
    """Its residual is our convention "paper_code", its u_zz our Hessian times a vector of ones."""
    p = FlowProblem(6, 9, with_force=force, dtype=torch.float64)
    residual, u, u_z, u_zz = baselines.paper_code_step(p.leaves, p.times[:1].view(1, 1), row_sums=True)
    assert u_zz is not None
    out = ffrl_fast.hj_residual(
        p.leaves["z"], p.times[:1], p.bank, force=p.force, index=p.chosen, convention="paper_code", backend="reference"
    )
    ones = torch.ones(p.dim, dtype=torch.float64)
    hvp = ffrl_fast.potential_field(p.leaves["z"], p.times[:1], p.bank, index=p.chosen, tangent=ones).hvp
    assert hvp is not None
    for found, exact in (
        (residual.expand(-1 if force else 9, 1)[:, 0], out.residual),
        (u[:, 0], out.u),
        (u_z, out.grad),
        (u_zz, hvp),
    ):
        assert relative_error(found, exact) < FLOAT64


def test_paper_code_flow() -> None:
    """The flow module's value, from the public operators; its gradients exist."""
    p = FlowProblem(6, 9, steps=3, with_force=True, dtype=torch.float64)
    z, exact = p.leaves["z"].detach(), torch.zeros((), dtype=torch.float64)
    for i in range(p.steps):
        call: dict[str, Any] = {"index": p.chosen, "backend": "reference"}
        out = ffrl_fast.hj_residual(z, p.times[i], p.bank, force=p.force, convention="paper_code", **call)
        ones = torch.ones(p.dim, dtype=torch.float64)
        hvp = ffrl_fast.potential_field(z, p.times[i], p.bank, tangent=ones, **call).hvp
        assert hvp is not None
        exact = exact + (out.residual.square().mean() - torch.log(torch.abs(1 + hvp)).sum(1).mean()) / p.steps
        z = z + out.grad
    exact = exact + (p.end_bar * z).sum()
    found = p.named(baselines.flow_paper_code(p)())
    assert relative_error(found["value"], exact) < FLOAT64
    assert all(bool(x.abs().sum() > 0) for x in found.values())
    assert all(bool(x.isfinite().all()) for x in p.named(baselines.flow_paper_code(p, row_sums=False)()).values())

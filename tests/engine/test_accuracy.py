"""Every output and every gradient against automatic differentiation in float64."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import example, given, settings

import ffrl_fast
from cases import Case, by_oracle, cases, float32_errors, make, on_backend
from ffrl_fast.tolerances import (
    FINITE_DIFFERENCE,
    FLOAT32_FLOOR,
    FLOAT32_TIMES_EAGER,
    FLOAT64_AGAINST_ORACLE,
    relative_error,
)

# Sizes at which something changes: a row tile (48), a vector, a panel, the paper's D, and more rows than 2¹⁶.
EDGES = [
    Case(1, 1, 1),
    Case(49, 17, 65, depth=2, potentials=3, selection="index", force=True),
    Case(97, 64, 64, potentials=2, selection="gates", per_row_time=True, force=True),
    Case(50, 324, 324, out_activation="identity", time_embedding="separable"),
    Case(
        300,
        33,
        128,
        depth=3,
        potentials=5,
        selection="gates",
        time_embedding="separable",
        per_row_time=True,
        force=True,
    ),
]
MANY_ROWS = Case(65_537 + 48, 5, 7, potentials=3, selection="index", force=True)


@pytest.mark.parametrize("case", [*EDGES, MANY_ROWS], ids=str)
def test_float64_edges(case: Case, backend: str) -> None:
    check_float64(case, backend)


@given(case=cases())
def test_float64(case: Case, backend: str) -> None:
    check_float64(case, backend)


def check_float64(case: Case, backend: str) -> None:
    inputs = make(case)
    exact, found = by_oracle(inputs), on_backend(inputs, backend)
    errors = {name: relative_error(found[name], exact[name]) for name in exact}
    assert max(errors.values()) < FLOAT64_AGAINST_ORACLE, errors


@settings(max_examples=settings().max_examples // 3)
@given(case=cases())
@example(case=MANY_ROWS)
@example(case=Case(1, 324, 324, potentials=4, selection="index", seed=4075))
@example(case=Case(20_000, 64, 64, per_row_time=True))
@example(case=Case(2_000, 324, 324))
def test_float32_errs_no_more_than_eager(case: Case) -> None:
    for name, (eager, found) in float32_errors(case, on_backend).items():
        assert found <= FLOAT32_TIMES_EAGER * eager + FLOAT32_FLOOR, name


@given(case=cases(max_rows=6, max_size=12))
def test_fields_are_finite_differences_of_u(case: Case, backend: str) -> None:
    inputs = make(case)
    step = 1e-6

    def u(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return ffrl_fast.potential_field(z, t, inputs.bank, backend=backend, **inputs.selection).u

    with torch.no_grad():
        found = ffrl_fast.potential_field(inputs.z, inputs.t, inputs.bank, backend=backend, **inputs.selection)
        z, t = inputs.z.detach(), inputs.t.detach()
        along_t = (u(z, t + step) - u(z, t - step)) / (2 * step)
        assert torch.allclose(found.dt, along_t, rtol=0, atol=FINITE_DIFFERENCE)
        for d in range(min(case.dim, 12)):
            shift = torch.zeros(case.dim, dtype=torch.float64)
            shift[d] = step
            along_z = (u(z + shift, t) - u(z - shift, t)) / (2 * step)
            assert torch.allclose(found.grad[:, d], along_z, rtol=0, atol=FINITE_DIFFERENCE)


@pytest.mark.parametrize("unused", [("u",), ("dt",), ("grad",), ("residual",), ("dt", "grad", "residual")], ids=str)
@pytest.mark.parametrize("selection", ["int", "index", "gates"])
def test_gradients_when_some_outputs_are_unused(unused: tuple[str, ...], selection: str, backend: str) -> None:
    inputs = make(Case(53, 9, 20, 2, 3, selection, force=True))  # type: ignore[arg-type]
    for name, cotangent in zip(("u", "dt", "grad", "residual"), inputs.cotangents, strict=True):
        if name in unused:
            cotangent.zero_()

    out = ffrl_fast.hj_residual(
        inputs.z, inputs.t, inputs.bank, force=inputs.force, backend=backend, **inputs.selection
    )
    total = sum(
        (o * c).sum()
        for o, c, name in zip(out, inputs.cotangents, ("u", "dt", "grad", "residual"), strict=True)
        if name not in unused
    )
    found = torch.autograd.grad(total, list(inputs.differentiable.values()), allow_unused=True)
    exact = by_oracle(inputs)
    for name, gradient in zip(inputs.differentiable, found, strict=True):
        gradient = torch.zeros_like(exact[f"d_{name}"]) if gradient is None else gradient
        assert relative_error(gradient, exact[f"d_{name}"]) < FLOAT64_AGAINST_ORACLE, name


@pytest.mark.large
@pytest.mark.skipif("FFRL_FAST_LARGE" not in os.environ, reason="takes 10 GB of memory; FFRL_FAST_LARGE=1 runs it")
def test_more_than_two_to_the_31_elements() -> None:
    rows, dim = 2**25 + 100, 64
    bank = ffrl_fast.PotentialBank(1, dim, 4)
    # Overlapping windows: 2³¹ distinct elements read from 2²⁵ stored ones.
    z = torch.randn(rows + dim).as_strided((rows, dim), (1, 1))
    with torch.no_grad():
        out = ffrl_fast.potential_field(z, 0.5, bank, backend="cpu")
        for part in (slice(0, 50), slice(rows // 2, rows // 2 + 50), slice(rows - 50, rows)):
            exact = ffrl_fast.potential_field(z[part], 0.5, bank, backend="reference")
            assert relative_error(out.grad[part], exact.grad) < 1e-5
            assert relative_error(out.u[part], exact.u) < 1e-5

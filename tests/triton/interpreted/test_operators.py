"""The public operators on the Triton engine, its kernels interpreted: the logic in float64, the dtypes of a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings

import ffrl_fast
from cases import Case, by_oracle, cases, make, on_backend
from ffrl_fast.tolerances import BF16_PRODUCTS, FLOAT64_AGAINST_ORACLE, relative_error
from gpu_checks import check_field, check_path


@settings(max_examples=1)
@given(case=cases(max_rows=40, max_size=40).filter(lambda c: c.dim < 324 and c.width < 324))
@example(case=Case(0, 3, 4, potentials=2, selection="index", force=True))
@example(case=Case(1, 1, 1, out_activation="identity", time_embedding="none"))
@example(case=Case(65, 24, 40, potentials=3, selection="index", force=True))
@example(case=Case(20, 9, 5, 2, 3, "gates", time_embedding="separable", force=True))
@example(case=Case(18, 24, 40, per_row_time=True))
@example(case=Case(70, 130, 40, potentials=2, selection="index"))  # keeps its activations
@example(case=Case(5, 20, 400, potentials=2, selection="gates"))  # too wide to be fused
def test_float64(case: Case) -> None:
    inputs = make(case)
    exact, found = by_oracle(inputs), on_backend(inputs, "triton")
    errors = {name: relative_error(found[name], exact[name]) for name in exact}
    assert max(errors.values()) < FLOAT64_AGAINST_ORACLE, errors


@pytest.mark.parametrize(
    "case", [Case(65, 24, 40, potentials=3, selection="index", force=True), Case(33, 17, 65, 2, per_row_time=True)]
)
def test_float32(case: Case) -> None:
    check_field(case, "triton", "ieee", "cpu")


@pytest.mark.parametrize("precision", ["ieee", "bf16"])
def test_float32_along_a_path(precision: str) -> None:
    check_path(Case(20, 6, 9, potentials=2, selection="index", force=True), "triton", precision, "cpu")


@pytest.mark.parametrize("rows_in", [torch.float32, torch.bfloat16])
def test_bfloat16_products(rows_in: torch.dtype) -> None:
    made = make(Case(65, 24, 40, potentials=3, selection="index"), torch.bfloat16)
    exact = on_backend(made, "reference")
    with ffrl_fast.use_precision("bf16"):
        found = on_backend(made.to(rows_in), "triton")
    for name, value in exact.items():
        assert found[name].dtype == rows_in
        assert relative_error(found[name], value) <= BF16_PRODUCTS, name


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("case", [Case(20, 12, 17, potentials=2, selection="index"), Case(9, 5, 8, 2, 2, "gates")])
def test_tangents(case: Case, shared: bool) -> None:
    inputs = make(case)
    x = inputs.z.detach()[0] if shared else inputs.z.detach() + 1
    with torch.no_grad():
        exact, found = (
            ffrl_fast.potential_field(inputs.z, 0.4, inputs.bank, tangent=x, backend=b, **inputs.selection)
            for b in ("reference", "triton")
        )
    for name in ("u", "dt", "grad", "hvp"):
        assert relative_error(getattr(found, name), getattr(exact, name)) < FLOAT64_AGAINST_ORACLE, name


def test_paths() -> None:
    inputs = make(Case(20, 6, 9, potentials=2, selection="index", force=True))
    results = []
    for backend in ("reference", "triton"):
        path = ffrl_fast.integrate(
            inputs.z,
            [0.3, 0.9],
            inputs.bank,
            force=inputs.force,
            substeps=2,
            outputs=("residual",),
            backend=backend,
            **inputs.selection,
        )
        assert path.residual is not None
        total = path.z[-1].square().sum() + path.residual.square().sum()
        leaves = [inputs.z, inputs.bank.theta, inputs.force.theta]  # type: ignore[union-attr]
        results.append([path.z, path.residual, *torch.autograd.grad(total, leaves)])
    for exact, found in zip(*results, strict=True):
        assert relative_error(found, exact) < FLOAT64_AGAINST_ORACLE


def test_rows_that_are_views_and_the_same_bits_twice() -> None:
    inputs = make(Case(64, 24, 40, potentials=3, selection="index")).to(torch.float32)
    wide = torch.randn(64, 30)
    wide[:, 3:27] = inputs.z.detach()
    results = []
    for rows in (inputs.z.detach(), wide[:, 3:27], wide[:, 3:27]):
        z = rows.requires_grad_()
        out = ffrl_fast.hj_residual(z, 0.3, inputs.bank, backend="triton", **inputs.selection)
        results.append([*out, *torch.autograd.grad(out.residual.square().sum(), [z, inputs.bank.theta])])
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_what_it_cannot_run_it_says() -> None:
    bank = ffrl_fast.PotentialBank(1, 8, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="has D and H up to 1024, not 1025"):
        ffrl_fast.potential_field(torch.randn(2, 1025), 0.0, ffrl_fast.PotentialBank(1, 1025, 4), backend="triton")
    with pytest.raises(TypeError, match=r"z: expected dtype torch\.float64 as the bank's, found torch\.float32"):
        ffrl_fast.potential_field(torch.randn(2, 8), 0.0, bank, backend="triton")

"""Determinants and eigenvalues where a row is not finite, and of 16-bit banks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cases import Case, Inputs, make
from ffrl_fast import PotentialBank, integrate, log_det
from ffrl_fast.tolerances import relative_error

# ------------------------------------------------------------------------------------------- rows that are not finite


@pytest.mark.parametrize("selection", ["int", "index", "gates"])
@pytest.mark.parametrize("method", ["exact", "hutchinson"])
def test_a_nan_row_leaves_the_others_bit_for_bit(method: Any, selection: Any, backend: str) -> None:
    inputs = make(Case(60, 8, 20, 2, 3, selection))
    others = torch.arange(60) != 17

    def run(z: Tensor) -> list[Tensor]:
        z = z.requires_grad_()
        # Small enough that no matrix needs exchanges of rows, in which rows of a vector on the CPU take part together.
        found = log_det(
            z, 0.5, inputs.bank, step=0.1, method=method, smallest=method == "exact", num_directions=2,
            generator=torch.Generator().manual_seed(3), backend=backend, **inputs.selection,
        )  # fmt: skip
        outputs = [x for x in found if x is not None]
        return [*outputs, torch.autograd.grad(found.value.sum(), z)[0]]

    clean = inputs.z.detach()
    dirty = clean.clone()
    dirty[17, 3] = float("nan")
    for name, a, b in zip(("value", "second", "gradient"), run(clean), run(dirty), strict=False):
        assert torch.equal(a[others], b[others]), name
    *values, last = run(dirty)
    assert values[0][17].isnan()
    assert last[17].isnan().all()


@torch.no_grad()
def test_what_a_nan_row_itself_gets(backend: str) -> None:
    bank, z = PotentialBank(1, 6), torch.randn(3, 6)
    z[1, 0] = float("nan")
    assert log_det(z, 0.5, bank, smallest=True, backend=backend).smallest.isnan().tolist() == [False, True, False]  # type: ignore[union-attr]
    estimate = log_det(z, 0.5, bank, step=0.01, method="hutchinson", backend=backend)
    assert estimate.value.isnan().tolist() == [False, True, False]
    assert estimate.converged is not None and estimate.converged.tolist() == [True, False, True]


@torch.no_grad()
@pytest.mark.parametrize("step", [0.1, 5.0])
def test_a_nan_row_along_a_path(step: float, backend: str) -> None:
    """Rows that share a vector on the CPU share the choice of a factorisation, hence rounding and no more."""
    inputs = make(Case(60, 8, 20, 2, 3, "gates"))
    others = torch.arange(60) != 17
    clean = inputs.z.detach()
    dirty = clean.clone()
    dirty[17, 3] = float("nan")
    a, b = (
        integrate(z, [1.0, 2.0], inputs.bank, step=step, outputs=("u", "log_det"), backend=backend, **inputs.selection)
        for z in (clean, dirty)
    )
    assert torch.equal(a.z[:, others], b.z[:, others]) and torch.equal(a.u[:, others], b.u[:, others])
    rounding = 0 if backend == "reference" or step < 1 else 1e-13
    torch.testing.assert_close(a.log_det[:, others], b.log_det[:, others], rtol=rounding, atol=rounding)
    assert b.log_det[:, 17].isnan().all()


# -------------------------------------------------------------------------------------------------------- 16-bit banks


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("selection", ["int", "index", "gates"])
def test_determinants_of_16_bits(selection: Any, dtype: torch.dtype) -> None:
    """The reference computes them in float32: they err by what the Hessian's own rounding makes of them."""
    exact = make(Case(20, 6, 9, 1, 3, selection), dtype)
    half = exact.to(dtype)

    def run(inputs: Inputs, **arguments: Any) -> dict[str, Tensor]:
        found = log_det(
            inputs.z, 0.5, inputs.bank, step=0.1, generator=torch.Generator().manual_seed(0), backend="reference",
            **arguments, **inputs.selection,
        )  # fmt: skip
        gradients = torch.autograd.grad(found.value.sum(), [inputs.z, inputs.bank.theta])
        results = {name: x for name, x in found._asdict().items() if x is not None and name != "converged"}
        return results | dict(zip(("d_z", "d_theta"), gradients, strict=True))

    bound = 8 * torch.finfo(dtype).eps
    for options in ({"smallest": True}, {"method": "hutchinson", "num_directions": 4}):
        found, expected = run(half, **options), run(exact, **options)
        for name, x in found.items():
            assert x.dtype == dtype, name
            assert relative_error(x, expected[name]) < bound, name

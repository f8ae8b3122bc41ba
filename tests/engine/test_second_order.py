"""Hessian products, Laplacians and determinants, and the gradients of all of them."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cases import Case, Inputs, cases, float32_errors, make
from ffrl_fast import PotentialBank, autodiff, curvature, hessian, integrate, laplacian, log_det, potential_field
from ffrl_fast.native import second_order
from ffrl_fast.tolerances import (
    FINITE_DIFFERENCE,
    FLOAT32_FLOOR,
    FLOAT32_TIMES_EAGER,
    FLOAT64_AGAINST_ORACLE,
    relative_error,
)

Direction = Literal["shared", "own"]
DIRECTIONS = st.sampled_from(["shared", "own"])
SMALL = cases(max_rows=60, max_size=40).filter(lambda case: max(case.dim, case.width) <= 40)


def _tangent(inputs: Inputs, direction: Direction) -> Tensor:
    g = torch.Generator().manual_seed(inputs.case.seed + 1)
    shape = (inputs.case.dim,) if direction == "shared" else (inputs.case.rows, inputs.case.dim)
    return torch.randn(shape, generator=g, dtype=torch.float64).to(inputs.z.dtype).requires_grad_()


def _results(out: Any, inputs: Inputs, tangent: Tensor) -> dict[str, Tensor]:
    """u, ∂_t u, ∇u, ∇²u x and the gradients of ⟨cotangents, outputs⟩."""
    results = {"u": out.u, "dt": out.dt, "grad": out.grad, "hvp": out.hvp}
    hvp_bar = inputs.cotangents[2].flip(1)
    bars = [*inputs.cotangents[:3], hvp_bar]
    total = sum((o * b).sum() for o, b in zip(results.values(), bars, strict=True))
    leaves = {n: x for n, x in inputs.differentiable.items() if n != "force"} | {"tangent": tangent}
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        results[f"d_{name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return results


def on_backend(inputs: Inputs, direction: Direction, backend: str) -> dict[str, Tensor]:
    tangent = _tangent(inputs, direction)
    out = potential_field(inputs.z, inputs.t, inputs.bank, tangent=tangent, backend=backend, **inputs.selection)
    return _results(out, inputs, tangent)


def by_oracle(inputs: Inputs, direction: Direction) -> dict[str, Tensor]:
    tangent, selection = _tangent(inputs, direction), dict(inputs.selection)
    if inputs.case.selection == "int":
        selection = {"potential_index": selection["index"]}
    out = autodiff.potential_field(
        inputs.z, inputs.t.reshape(-1), inputs.bank.theta, inputs.bank.shape, tangent=tangent, **selection
    )
    return _results(out, inputs, tangent)


@given(case=SMALL, direction=DIRECTIONS)
@example(case=Case(49, 17, 65, depth=2, potentials=3, selection="index"), direction="own")
@example(case=Case(97, 64, 64, depth=3, potentials=2, selection="gates", per_row_time=True), direction="shared")
@example(case=Case(2, 30, 40), direction="own")
def test_hessian_product_and_gradients(case: Case, direction: Direction, backend: str) -> None:
    inputs = make(case)
    exact, found = by_oracle(inputs, direction), on_backend(inputs, direction, backend)
    errors = {name: relative_error(found[name], exact[name]) for name in exact}
    assert max(errors.values()) < FLOAT64_AGAINST_ORACLE, errors


@pytest.mark.parametrize("case", [Case(300, 64, 64), Case(100, 324, 324, potentials=2, selection="index")], ids=str)
def test_float32_errs_no_more_than_eager(case: Case) -> None:
    errors = float32_errors(case, lambda inputs, backend: on_backend(inputs, "own", backend))
    for name, (eager, found) in errors.items():
        assert found <= FLOAT32_TIMES_EAGER * eager + FLOAT32_FLOOR, name


@given(case=cases(max_rows=6, max_size=12).filter(lambda case: max(case.dim, case.width) <= 12))
def test_hessian_product_is_a_finite_difference(case: Case, backend: str) -> None:
    inputs = make(case)
    x, step = _tangent(inputs, "own").detach(), 1e-6

    def field(z: Tensor, tangent: Tensor | None = None) -> Any:
        return potential_field(z, inputs.t, inputs.bank, tangent=tangent, backend=backend, **inputs.selection)

    with torch.no_grad():
        difference = (field(inputs.z + step * x).grad - field(inputs.z - step * x).grad) / (2 * step)
        assert torch.allclose(field(inputs.z, x).hvp, difference, rtol=0, atol=FINITE_DIFFERENCE)


@pytest.mark.parametrize("used", [("hvp",), ("grad",), ("u", "hvp"), ("dt",)], ids=str)
@pytest.mark.parametrize("direction", ["shared", "own"])
@pytest.mark.parametrize("selection", ["int", "index", "gates"])
def test_gradients_when_some_outputs_are_unused(
    used: tuple[str, ...], direction: Direction, selection: Any, backend: str
) -> None:
    inputs = make(Case(53, 9, 20, 2, 3, selection))
    bars = dict(zip(("u", "dt", "grad", "hvp"), (*inputs.cotangents[:3], inputs.cotangents[2]), strict=True))

    def gradients(name: str) -> list[Tensor]:
        tangent = _tangent(inputs, direction)
        out = potential_field(inputs.z, inputs.t, inputs.bank, tangent=tangent, backend=name, **inputs.selection)
        total = sum((getattr(out, n) * bars[n]).sum() for n in used)
        leaves = [inputs.z, inputs.bank.theta, tangent]
        found = torch.autograd.grad(total, leaves, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]

    for found, exact in zip(gradients(backend), gradients("reference"), strict=True):
        assert relative_error(found, exact) < FLOAT64_AGAINST_ORACLE


@pytest.mark.parametrize("selection", ["int", "gates"])
@pytest.mark.parametrize("direction", ["shared", "own"])
def test_gradcheck(selection: Any, direction: Direction, backend: str) -> None:
    inputs = make(Case(5, 3, 9, 2, 2, selection))
    tangent = _tangent(inputs, direction)

    def hvp(z: Tensor, t: Tensor, theta: Tensor, tangent: Tensor, gates: Tensor | None) -> Tensor:
        chosen = {"index": 1} if gates is None else {"gates": gates}
        with torch.no_grad():
            inputs.bank.theta.set_(theta.detach())
        bank = _Shared(inputs.bank, theta)
        out = potential_field(z, t, bank, tangent=tangent, backend=backend, **chosen).hvp
        assert out is not None
        return out

    gates = inputs.selection.get("gates")
    theta = inputs.bank.theta.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(hvp, (inputs.z, inputs.t, theta, tangent, gates))


@pytest.mark.parametrize("what", ["laplacian", "log_det"])
def test_gradcheck_of_the_curvature(what: str, backend: str) -> None:
    inputs = make(Case(4, 3, 9, 2, 2, "gates"))

    def value(z: Tensor, t: Tensor, theta: Tensor, gates: Tensor) -> Tensor:
        bank = _Shared(inputs.bank, theta)
        if what == "laplacian":
            return laplacian(z, t, bank, gates=gates, backend=backend)
        return log_det(z, t, bank, gates=gates, step=0.7, backend=backend).value

    theta = inputs.bank.theta.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(value, (inputs.z, inputs.t, theta, inputs.selection["gates"]))


class _Shared(PotentialBank):
    """A bank whose theta is a tensor of the caller's."""

    def __init__(self, bank: PotentialBank, theta: Tensor) -> None:
        s = bank.shape
        super().__init__(
            bank.num_potentials, s.dim, s.width, s.depth, s.out_activation, s.time_embedding, dtype=theta.dtype
        )
        del self.theta
        self.theta = theta  # type: ignore[assignment]


# ---------------------------------------------------------------------------------------------------- the whole Hessian


def _exact_hessian(inputs: Inputs) -> Tensor:
    """(B, D, D) by torch.func."""
    selection, rows = inputs.selection, inputs.case.rows
    times = inputs.t.detach().reshape(-1).expand(rows)
    w = inputs.bank.shape.unpack(inputs.bank.theta.detach())

    def of(k: int) -> Tensor:
        def u(z: Tensor, t: Tensor) -> Tensor:
            return autodiff.potential(z[None], t[None], w, k, inputs.bank.shape)[0]

        return torch.func.vmap(torch.func.jacrev(torch.func.jacrev(u)))(inputs.z.detach(), times)

    each = torch.stack([of(k) for k in range(inputs.case.potentials)])
    if "gates" in selection:
        return torch.einsum("bk,kbij->bij", selection["gates"].detach(), each)
    index = selection["index"]
    index = torch.full((rows,), index) if isinstance(index, int) else index
    return each[index, torch.arange(rows)]


@given(case=SMALL.filter(lambda case: case.rows > 0), step=st.sampled_from([1.0, 0.1, 40.0]))
@example(case=Case(50, 64, 64, potentials=2, selection="gates"), step=30.0)
@example(case=Case(20, 65, 33, depth=3, per_row_time=True), step=5.0)
@example(case=Case(20, 170, 20), step=1.0)
def test_hessian_laplacian_and_determinant(case: Case, step: float, backend: str) -> None:
    inputs = make(case)
    exact = _exact_hessian(inputs)
    arguments = {"backend": backend, **inputs.selection}
    with torch.no_grad():
        z, t = inputs.z, inputs.t
        assert relative_error(hessian(z, t, inputs.bank, **arguments), exact) < FLOAT64_AGAINST_ORACLE
        trace = exact.diagonal(dim1=1, dim2=2).sum(1)
        found = laplacian(z, t, inputs.bank, **arguments)
        assert float((found - trace).abs().max()) < FLOAT64_AGAINST_ORACLE * max(1.0, float(exact.norm()))
        matrix = torch.eye(case.dim, dtype=torch.float64) + step * exact
        sign, value = (torch.stack(x) for x in zip(*map(torch.linalg.slogdet, matrix), strict=True))
        found_log = log_det(z, t, inputs.bank, step=step, smallest=True, **arguments)
        # A nearly singular matrix amplifies what the Hessian is off by.
        worst = 1 / torch.linalg.svdvals(matrix).amin(1)
        bound = FLOAT64_AGAINST_ORACLE * (1 + step * worst * matrix.norm(dim=(1, 2)))
        assert bool(((found_log.value - value).abs() <= bound).all())
        assert torch.equal(found_log.sign, sign)
        smallest = torch.linalg.eigvalsh(matrix).amin(1)
        torch.testing.assert_close(found_log.smallest, smallest, rtol=1e-9, atol=1e-9 * max(1.0, step))


@pytest.mark.parametrize("what", ["hessian", "laplacian", "log_det"])
@pytest.mark.parametrize("selection", ["int", "index", "gates"])
@pytest.mark.parametrize("per_row_time", [False, True])
def test_gradients_of_the_curvature(
    what: str, selection: Any, per_row_time: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of a few rows, so that their sums are tested too.
    monkeypatch.setattr(second_order, "_HESSIAN_BYTES", 2**17)
    inputs = make(Case(20, 7, 12, 2, 3, selection, per_row_time=per_row_time))
    z, t, leaves = inputs.z, inputs.t, list(inputs.differentiable.values())

    def gradients(name: str) -> tuple[Tensor, ...]:
        arguments = {"backend": name, **inputs.selection}
        if what == "hessian":
            value = (hessian(z, t, inputs.bank, **arguments) * torch.arange(49.0).reshape(7, 7)).sum((1, 2))
        elif what == "laplacian":
            value = laplacian(z, t, inputs.bank, **arguments)
        else:
            value = log_det(z, t, inputs.bank, step=0.5, **arguments).value
        return torch.autograd.grad((value * inputs.cotangents[0]).sum(), leaves)

    def oracle() -> tuple[Tensor, ...]:
        columns = []
        for unit in torch.eye(7, dtype=torch.float64):
            chosen = dict(inputs.selection)
            if selection == "int":
                chosen = {"potential_index": chosen["index"]}
            columns.append(
                autodiff.potential_field(
                    z, t.reshape(-1), inputs.bank.theta, inputs.bank.shape, tangent=unit, **chosen
                ).hvp
            )
        matrix = torch.stack(columns, 2)
        if what == "hessian":
            value = (matrix * torch.arange(49.0).reshape(7, 7)).sum((1, 2))
        elif what == "laplacian":
            value = matrix.diagonal(dim1=1, dim2=2).sum(1)
        else:
            matrix = torch.eye(7, dtype=torch.float64) + 0.5 * matrix
            value = torch.stack([torch.linalg.slogdet(m)[1] for m in matrix])
        return torch.autograd.grad((value * inputs.cotangents[0]).sum(), leaves)

    for name, found, exact in zip(inputs.differentiable, gradients(backend), oracle(), strict=True):
        assert relative_error(found, exact) < FLOAT64_AGAINST_ORACLE, name


@torch.no_grad()
def test_a_singular_step_has_minus_infinity(backend: str) -> None:
    """One feature, and the neighbours of the z where u'' = −¼: where it is that to the last bit, 1 + 4 u'' is 0."""
    bank = PotentialBank(1, 1, 1, out_activation="identity", time_embedding="none", dtype=torch.float64)
    bank.theta.data.copy_(torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]]))

    def second(z: Tensor) -> Tensor:
        return hessian(z[:, None], 0.0, bank, backend=backend)[:, 0, 0]

    low, high = 0.0, 0.5
    while math.nextafter(low, 1.0) < high:
        middle = (low + high) / 2
        low, high = (
            (middle, high) if float(second(torch.tensor([middle], dtype=torch.float64))) > -0.25 else (low, middle)
        )
    z = low + torch.arange(-200, 201, dtype=torch.float64) * 2.0**-56
    singular = second(z) == -0.25
    assert bool(singular.any())
    found = log_det(z[:, None], 0.0, bank, step=4.0, backend=backend)
    assert bool((found.value[singular] == -math.inf).all()) and bool((found.sign[singular] == 0).all())
    assert bool(found.value[~singular].isfinite().all()) and bool((found.sign[~singular] != 0).all())


def test_a_potential_without_z_changes_no_volume(backend: str) -> None:
    bank = PotentialBank(1, 3, dtype=torch.float64)
    bank.theta.data.zero_()
    found = log_det(torch.randn(4, 3, dtype=torch.float64), 0.5, bank, backend=backend)
    assert torch.equal(found.value, torch.zeros(4, dtype=torch.float64))
    assert torch.equal(found.sign, torch.ones(4, dtype=torch.float64))


def test_gradients_of_second_order_raise(backend: str) -> None:
    bank = PotentialBank(1, 4, dtype=torch.float64)
    z = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(laplacian(z, 0.5, bank, backend="reference").sum(), z, create_graph=True)
    first.sum().backward()
    if backend == "reference":
        return
    (first,) = torch.autograd.grad(laplacian(z, 0.5, bank, backend=backend).sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="first order only"):
        first.sum().backward()


# ----------------------------------------------------------------------------------------------------- along the path


@pytest.mark.parametrize("substeps", [1, 3])
@pytest.mark.parametrize("selection", ["int", "index", "gates"])
def test_densities_along_a_path(selection: Any, substeps: int, backend: str) -> None:
    inputs = make(Case(50, 6, 9, 2, 3, selection, force=True))
    times, step = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), 0.5
    leaves = [inputs.z, inputs.bank.theta]
    ones = torch.ones(6, dtype=torch.float64)

    def by_hand() -> Tensor:
        """(2, T, B): row sums and determinants."""
        z, sums = inputs.z, []
        for t in times:
            row_sum, exact = torch.zeros(50, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)
            for j in range(substeps):
                delta = step / substeps
                at = potential_field(
                    z, t + j * delta, inputs.bank, tangent=ones, backend="reference", **inputs.selection
                )
                assert at.hvp is not None
                row_sum = row_sum + torch.log((1 + delta * at.hvp).abs()).sum(1)
                determinant = log_det(
                    z, t + j * delta, inputs.bank, step=delta, backend="reference", **inputs.selection
                )
                exact = exact + determinant.value
                z = z + delta * at.grad
            sums.append(torch.stack([row_sum, exact]))
        return torch.stack(sums, 1)

    path = integrate(
        inputs.z, times, inputs.bank, force=inputs.force, step=step, substeps=substeps,
        outputs=("row_sum", "residual", "log_det"), backend=backend, **inputs.selection,
    )  # fmt: skip
    exact = by_hand()
    found = torch.stack([path.row_sum, path.log_det])
    assert relative_error(found, exact) < FLOAT64_AGAINST_ORACLE
    with torch.no_grad():
        again = integrate(
            inputs.z, times, inputs.bank, step=step, substeps=substeps, outputs=("log_det",), backend=backend,
            **inputs.selection,
        )  # fmt: skip
    assert relative_error(again.log_det, exact[1]) < FLOAT64_AGAINST_ORACLE
    bar = torch.randn_like(exact)
    gradients = (torch.autograd.grad((x * bar).sum(), leaves) for x in (found, exact))
    for one, other in zip(*gradients, strict=True):
        assert relative_error(one, other) < FLOAT64_AGAINST_ORACLE


# ----------------------------------------------------------------------------------------------------------- estimates


def test_all_sign_vectors_together_are_exact(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of xᵀ A x over all ±1 vectors is the trace, and a Krylov space of D vectors is the whole space."""
    inputs = make(Case(6, 3, 9))
    vectors = [torch.tensor(x, dtype=torch.float64) for x in itertools.product((-1.0, 1.0), repeat=3)]
    drawn = itertools.cycle(vectors)
    monkeypatch.setattr(curvature, "_signs", lambda z, generator: next(drawn).expand_as(z).contiguous())
    arguments = {"step": 0.7, "backend": backend, **inputs.selection}
    leaves = [inputs.z, inputs.bank.theta]
    exact = log_det(inputs.z, inputs.t, inputs.bank, **arguments)
    found = log_det(inputs.z, inputs.t, inputs.bank, method="hutchinson", num_directions=8, **arguments)
    assert found.converged is not None and bool(found.converged.all())
    assert relative_error(found.value, exact.value) < 1e-8
    for a, b in zip(
        torch.autograd.grad(found.value.sum(), leaves), torch.autograd.grad(exact.value.sum(), leaves), strict=True
    ):
        assert relative_error(a, b) < 1e-7


def test_the_estimate_is_unbiased_and_its_variance_known(backend: str) -> None:
    """xᵀ R x of a ±1 vector has mean tr R and variance 2 Σ_{i≠j} R_ij²; R is log|I + A| without its linear part A."""
    inputs = make(Case(8, 10, 16))
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        arguments: dict[str, Any] = {"step": 0.5, "backend": backend, **inputs.selection}
        matrix = torch.eye(10, dtype=torch.float64) + 0.5 * hessian(
            inputs.z, inputs.t, inputs.bank, backend=backend, **inputs.selection
        )
        values, vectors = torch.linalg.eigh(matrix)
        log = vectors @ (values.abs().log()[:, :, None] * vectors.mT)
        trace = log.diagonal(dim1=1, dim2=2).sum(1)
        rest = log - (matrix - torch.eye(10, dtype=torch.float64))
        variance = 2 * (rest.square().sum((1, 2)) - rest.diagonal(dim1=1, dim2=2).square().sum(1))
        draws = torch.stack(
            [
                log_det(
                    inputs.z, inputs.t, inputs.bank, method="hutchinson", num_directions=1, lanczos_steps=10,
                    generator=g, **arguments,
                ).value
                for _ in range(400)
            ]
        )  # fmt: skip
    error = (draws.mean(0) - trace) / (variance / 400).sqrt()
    assert float(error.abs().max()) < 4.5
    ratio = draws.var(0) / variance
    assert float(ratio.min()) > 0.7 and float(ratio.max()) < 1.4


def test_the_same_generator_gives_the_same_estimate(backend: str) -> None:
    inputs = make(Case(5, 6, 8))
    found = [
        log_det(
            inputs.z, inputs.t, inputs.bank, method="hutchinson", generator=torch.Generator().manual_seed(1),
            backend=backend, **inputs.selection,
        ).value
        for _ in range(2)
    ]  # fmt: skip
    assert torch.equal(*found)


def test_an_estimate_that_has_not_converged_says_so(backend: str) -> None:
    """With one eigenvalue of I + Δ ∇²u next to 0, two Lanczos steps cannot see its logarithm."""
    inputs = make(Case(40, 12, 16))
    with torch.no_grad():
        arguments: dict[str, Any] = {"backend": backend, **inputs.selection}
        smallest = torch.linalg.eigvalsh(hessian(inputs.z, inputs.t, inputs.bank, **arguments)).amin()
        step = float(-0.999999 / smallest)
        g = torch.Generator().manual_seed(0)
        hard = log_det(
            inputs.z, inputs.t, inputs.bank, step=step, method="hutchinson", lanczos_steps=2, generator=g, **arguments
        )
        easy = log_det(inputs.z, inputs.t, inputs.bank, step=0.01, method="hutchinson", generator=g, **arguments)
    assert hard.converged is not None and easy.converged is not None
    assert not bool(hard.converged.all())
    assert bool(easy.converged.all())


def test_row_sums_are_the_paper_codes(backend: str) -> None:
    inputs = make(Case(9, 5, 7))
    full = _exact_hessian(inputs)
    found = log_det(inputs.z, inputs.t, inputs.bank, step=0.3, method="row_sum", backend=backend, **inputs.selection)
    assert relative_error(found.value, torch.log((1 + 0.3 * full.sum(2)).abs()).sum(1)) < FLOAT64_AGAINST_ORACLE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "trace"}, "method: expected 'exact', 'hutchinson' or 'row_sum', found 'trace'"),
        ({"method": "hutchinson", "num_directions": 0}, "num_directions: expected an integer ≥ 1, found 0"),
        ({"method": "hutchinson", "lanczos_steps": 1.5}, "lanczos_steps: expected an integer ≥ 1, found 1.5"),
        ({"method": "row_sum", "smallest": True}, "smallest: expected method='exact', found 'row_sum'"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str, backend: str) -> None:
    with pytest.raises(ValueError, match=message):
        log_det(torch.zeros(2, 3), 0.5, PotentialBank(1, 3), backend=backend, **arguments)


@settings(max_examples=10)
@given(rows=st.integers(0, 3))
def test_few_or_no_rows(rows: int, backend: str) -> None:
    bank, z = PotentialBank(1, 9), torch.randn(rows, 9)
    assert hessian(z, 0.5, bank, backend=backend).shape == (rows, 9, 9)
    assert laplacian(z, 0.5, bank, backend=backend).shape == (rows,)
    assert log_det(z, 0.5, bank, smallest=True, backend=backend).smallest.shape == (rows,)  # type: ignore[union-attr]
    assert potential_field(z, 0.5, bank, tangent=torch.ones(9), backend=backend).hvp.shape == (rows, 9)  # type: ignore[union-attr]

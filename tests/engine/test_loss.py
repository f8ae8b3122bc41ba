"""``hj_loss``: value and gradients in one sweep equal those of the residual, squared."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given

from cases import Case, cases, make
from ffrl_fast import PotentialBank, hj_loss, hj_residual, integrate, value_and_grad
from ffrl_fast.native import plan
from ffrl_fast.tolerances import FLOAT64_AGAINST_ORACLE, relative_error


def check(case: Case, weighted: bool, backend: str) -> None:
    inputs = make(case)
    weight = torch.rand(case.rows, dtype=torch.float64).requires_grad_() if weighted else None
    leaves = list(inputs.differentiable.values()) + ([weight] if weight is not None else [])
    residual = hj_residual(
        inputs.z, inputs.t, inputs.bank, force=inputs.force, backend="reference", **inputs.selection
    ).residual
    exact = (residual.square() if weight is None else weight * residual.square()).mean()
    found = hj_loss(
        inputs.z, inputs.t, inputs.bank, force=inputs.force, weight=weight, backend=backend, **inputs.selection
    )
    assert relative_error(found, exact) < FLOAT64_AGAINST_ORACLE
    for a, b in zip(
        torch.autograd.grad(3 * found, leaves, allow_unused=True),
        torch.autograd.grad(3 * exact, leaves, allow_unused=True),
        strict=True,
    ):
        if a is None or b is None:
            assert all(x is None or not x.any() for x in (a, b))
        else:
            assert relative_error(a, b) < FLOAT64_AGAINST_ORACLE


@given(case=cases().filter(lambda case: case.rows > 0))
def test_value_and_gradients(case: Case, backend: str) -> None:
    check(case, case.seed % 2 == 0, backend)


def test_many_rows(backend: str) -> None:
    check(Case(65_537, 5, 7, potentials=3, selection="index", force=True), True, backend)


def test_without_gradients(backend: str) -> None:
    inputs = make(Case(50, 5, 7, potentials=3, selection="gates", force=True))
    with torch.no_grad():
        value = hj_loss(inputs.z, 0.5, inputs.bank, force=inputs.force, backend=backend, **inputs.selection)
    exact = hj_residual(inputs.z, 0.5, inputs.bank, force=inputs.force, **inputs.selection).residual.square().mean()
    assert not value.requires_grad
    torch.testing.assert_close(value, exact.detach())


def test_no_rows_is_nan_as_the_mean_of_nothing(backend: str) -> None:
    inputs = make(Case(0, 5, 7))
    assert hj_loss(inputs.z, 0.5, inputs.bank, backend=backend).isnan()


@pytest.mark.parametrize("weighted", [False, True])
def test_paper_code_convention(weighted: bool, backend: str) -> None:
    inputs = make(Case(12, 4, 5, force=True))
    weight = torch.rand(12, dtype=torch.float64) if weighted else None
    arguments: dict[str, Any] = {"force": inputs.force, "convention": "paper_code", "backend": backend}
    residual = hj_residual(inputs.z, 0.5, inputs.bank, **arguments).residual
    exact = residual.square() if weight is None else weight * residual.square()
    torch.testing.assert_close(hj_loss(inputs.z, 0.5, inputs.bank, weight=weight, **arguments), exact.mean())


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (torch.rand(5).double(), ValueError, r"weight: expected shape \(12,\), found \(5,\)"),
        (torch.rand(12), TypeError, "weight: expected dtype torch.float64"),
        (2.0, TypeError, "weight: expected a tensor, found float"),
    ],
    ids=["shape", "dtype", "type"],
)
def test_bad_weights(weight: Any, error: type[Exception], message: str, backend: str) -> None:
    inputs = make(Case(12, 4, 5))
    with pytest.raises(error, match=message):
        hj_loss(inputs.z, 0.5, inputs.bank, weight=weight, backend=backend)


def test_a_second_backward_on_the_native_backend_is_an_error() -> None:
    inputs = make(Case(12, 4, 5))
    value = hj_loss(inputs.z, 0.5, inputs.bank, backend="cpu")
    (d_z,) = torch.autograd.grad(value, inputs.z, create_graph=True)
    with pytest.raises(RuntimeError, match=r"first order only.*backend='reference'"):
        d_z.sum().backward()


def test_compile_and_vmap(backend: str) -> None:
    torch._dynamo.reset()
    inputs = make(Case(12, 4, 5, potentials=2))

    def loss(z: torch.Tensor) -> torch.Tensor:
        return hj_loss(z, 0.5, inputs.bank, index=1, backend=backend)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(inputs.z), inputs.bank.theta)
    (exact,) = torch.autograd.grad(loss(inputs.z), inputs.bank.theta)
    torch.testing.assert_close(found, exact)

    batches = torch.randn(3, 12, 4, dtype=torch.float64)
    by_batch = torch.func.vmap(torch.func.grad_and_value(loss))(batches)
    for i in range(3):
        for a, b in zip(torch.func.grad_and_value(loss)(batches[i]), by_batch, strict=True):
            torch.testing.assert_close(b[i], a)


@pytest.mark.parametrize(("share", "taped"), [(0.0, 0), (0.4, 2), (0.99, 5), (1.0, 6)])
def test_a_tape_holds_the_moments_that_fit(monkeypatch: pytest.MonkeyPatch, share: float, taped: int) -> None:
    """The activations of the others are computed again: the same gradients from less memory."""
    inputs = make(Case(100, 9, 20, 2, 3, "gates", force=True))
    times = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    sizes: list[int] = []

    def gradients() -> tuple[torch.Tensor, ...]:
        saved: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
            path = integrate(
                inputs.z, times, inputs.bank, force=inputs.force, outputs=("residual",), substeps=2, backend="cpu",
                **inputs.selection,
            )  # fmt: skip
        sizes.append(saved[-2].nbytes)  # the tape comes ahead of the packed weights
        total = path.z.sum() + path.residual.square().sum()
        return torch.autograd.grad(total, [inputs.z, inputs.bank.theta, inputs.force.theta])

    kept = gradients()
    monkeypatch.setattr(plan, "TAPE_LIMIT", int(share * sizes[0]))
    found = gradients()
    assert sizes[1] * 6 == sizes[0] * taped
    for a, b in zip(kept, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@given(case=cases(max_rows=60, max_size=40).filter(lambda case: case.rows > 0))
def test_value_and_grad_without_autograd(case: Case, backend: str) -> None:
    inputs = make(case)
    weight = torch.rand(case.rows, dtype=torch.float64) if case.seed % 2 else None
    arguments = {"force": inputs.force, "weight": weight, **inputs.selection}
    exact = hj_loss(inputs.z, inputs.t, inputs.bank, backend="reference", **arguments)
    leaves = {"z": inputs.z, "theta": inputs.bank.theta}
    leaves |= {"force": inputs.force.theta} if inputs.force is not None else {}
    leaves |= {"gates": inputs.selection["gates"]} if "gates" in inputs.selection else {}
    value, gradients = value_and_grad(inputs.z.detach(), inputs.t.detach(), inputs.bank, backend=backend, **arguments)
    assert relative_error(value, exact) < FLOAT64_AGAINST_ORACLE
    for name, leaf in zip(leaves, torch.autograd.grad(exact, list(leaves.values())), strict=True):
        assert relative_error(getattr(gradients, name), leaf) < FLOAT64_AGAINST_ORACLE, name


ONE_OR_ROWS: list[Any] = [0.5, torch.linspace(0.1, 1.0, 9, dtype=torch.float64)]


def _bank() -> PotentialBank:
    return PotentialBank(2, 4, dtype=torch.float64)


@pytest.mark.parametrize("t", ONE_OR_ROWS)
class TestValueAndGradIsSeen:
    """By whatever sees the other operators, and with whatever kind of parameters."""

    def test_compiled_and_mapped(self, t: Any, backend: str) -> None:
        bank, z = _bank(), torch.randn(9, 4, dtype=torch.float64)

        def of(z: torch.Tensor) -> tuple[torch.Tensor, ...]:
            value, gradients = value_and_grad(z, t, bank, index=1, backend=backend)
            return value, gradients.z, gradients.theta

        exact = of(z)
        compiled = torch.compile(of, fullgraph=True, backend="aot_eager")(z)
        mapped = torch.func.vmap(of)(torch.stack([z, 2 * z]))
        for a, b, c in zip(exact, compiled, mapped, strict=True):
            torch.testing.assert_close(b, a)
            torch.testing.assert_close(c[0], a)
            assert not a.requires_grad

    # torch's own forward mode scripts its decompositions.
    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
    def test_forward_mode(self, t: Any, backend: str) -> None:
        bank, (z, x) = _bank(), torch.randn(2, 9, 4, dtype=torch.float64)

        def value(z: torch.Tensor) -> torch.Tensor:
            return value_and_grad(z, t, bank, index=1, backend=backend)[0]

        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(z, x)
            if backend != "reference":
                with pytest.raises(NotImplementedError, match="no forward-mode derivatives"):
                    value(dual)
                return
            tangent = torch.autograd.forward_ad.unpack_dual(value(dual)).tangent
        expected = (value_and_grad(z, t, bank, index=1)[1].z * x).sum()
        torch.testing.assert_close(tangent, expected)

    def test_parameters_that_are_computed(self, t: Any, backend: str) -> None:
        class Twice(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return 2 * x

        plain, z = _bank(), torch.randn(9, 4, dtype=torch.float64)
        exact = value_and_grad(z, t, plain, index=1, backend=backend)
        parametrized, replaced = copy.deepcopy(plain), copy.deepcopy(plain)
        with torch.no_grad():
            parametrized.theta /= 2
        torch.nn.utils.parametrize.register_parametrization(parametrized, "theta", Twice())
        theta = replaced.theta.detach().clone()
        del replaced.theta
        replaced.theta = theta  # type: ignore[assignment]
        for bank in (parametrized, replaced):
            value, gradients = value_and_grad(z, t, bank, index=1, backend=backend)
            torch.testing.assert_close((value, gradients.theta), (exact[0], exact[1].theta))

    def test_a_force_that_shares_its_parameters(self, t: Any, backend: str) -> None:
        bank, z = _bank(), torch.randn(9, 4, dtype=torch.float64)
        exact = value_and_grad(z, t, bank, force=bank, index=1, backend=backend)[1]
        mapped = torch.func.vmap(lambda z: value_and_grad(z, t, bank, force=bank, index=1, backend=backend)[1].theta)
        torch.testing.assert_close(mapped(z[None])[0], exact.theta)
        torch.testing.assert_close(exact.force, exact.theta)


def test_value_and_grad_knows_one_loss(backend: str) -> None:
    with pytest.raises(ValueError, match="loss: expected 'hj', found 'mse'"):
        value_and_grad(torch.zeros(2, 3), 0.5, PotentialBank(1, 3), loss="mse", backend=backend)  # type: ignore[arg-type]


class _Own(PotentialBank):
    """τ = t·direction: a conditioning of the user's own."""

    def __init__(self) -> None:
        super().__init__(2, 3, 5, time_embedding="none", dtype=torch.float64)
        self.direction = torch.nn.Parameter(torch.randn(2, 1, 5, dtype=torch.float64))

    def conditioning(self, t: torch.Tensor, potential: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        of = self.direction if potential is None else self.direction[potential : potential + 1]
        return t[:, None] * of, of.expand(-1, t.shape[0], -1)


@pytest.mark.parametrize("time", ["one", "by row", "path"])
@pytest.mark.parametrize("index", ["int", "by row"])
def test_a_conditioning_of_ones_own(time: str, index: str) -> None:
    bank = _Own()
    z, t = torch.randn(7, 3, dtype=torch.float64), torch.rand(7, dtype=torch.float64)
    k = 1 if index == "int" else torch.randint(0, 2, (7,))

    def gradients(backend: str) -> tuple[torch.Tensor, ...]:
        if time == "path":
            path = integrate(z, [0.5, 1.5], bank, index=k, outputs=("residual",), backend=backend)
            loss = path.z.square().sum() + path.residual.square().sum()
        else:
            loss = hj_loss(z, 0.5 if time == "one" else t, bank, index=k, backend=backend)
        return loss, *torch.autograd.grad(loss, (bank.theta, bank.direction))

    for a, b in zip(gradients("cpu"), gradients("reference"), strict=True):
        assert relative_error(a, b) < FLOAT64_AGAINST_ORACLE

"""A call like one before goes by its plan: the same results and the same errors, whatever changed in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize

import ffrl_fast
from cases import Case, cases, make
from ffrl_fast import PotentialBank, calls, hj_loss, hj_residual, integrate, potential_field, value_and_grad

pytestmark = pytest.mark.usefixtures("each_kind_of_nodes")


@pytest.fixture(autouse=True)
def _no_plans() -> Iterator[None]:
    calls._seen.clear()
    yield
    calls._seen.clear()


def _bank(potentials: int = 1, **choices: Any) -> PotentialBank:
    return PotentialBank(potentials, 5, 20, dtype=torch.float64, **choices)


def _rows(count: int = 7) -> Tensor:
    return torch.randn(count, 5, dtype=torch.float64)


def _all(z: Tensor, t: Tensor, bank: PotentialBank, force: PotentialBank | None = None, **of: Any) -> list[Any]:
    """Results and gradients of every operator at one moment."""
    tangent = torch.ones_like(z.detach())
    parameters = [bank.theta] if force is None else [bank.theta, force.theta]
    leaves = [x for x in (z, t, of.get("gates"), bank.theta) if isinstance(x, Tensor) and x.requires_grad]
    u, dt, grad, _ = potential_field(z, t, bank, **of)
    hvp = potential_field(z, t, bank, tangent=tangent, **of).hvp
    residual = hj_residual(z, t, bank, force=force, **of).residual
    loss = hj_loss(z, t, bank, force=force, **of)
    value, gradients = value_and_grad(z, t, bank, force=force, **of)
    path = integrate(z, [0.5, 1.5], bank, force=force, substeps=2, outputs=("residual", "row_sum"), **of)
    assert path.residual is not None and path.row_sum is not None
    found = [u, dt, grad, hvp, residual, loss, value, *[x for x in gradients if x is not None], *path[:1], *path[3:5]]
    found += torch.autograd.grad((u * dt).sum() + grad.square().sum(), leaves, retain_graph=True)
    found += torch.autograd.grad(hvp.square().sum(), [z, bank.theta])
    for scalar in (residual.sum(), 3 * loss, path.z.sum() + path.residual.sum() + path.row_sum.sum()):
        found += torch.autograd.grad(scalar, [z, *parameters])
    return [x.detach() for x in found]


@given(case=cases(max_rows=60, max_size=40))
def test_the_same_bits(case: Case) -> None:
    calls._seen.clear()
    inputs = make(case)
    before = _all(inputs.z, inputs.t, inputs.bank, inputs.force, **inputs.selection)
    planned = case.rows == 1 or not case.per_row_time
    # value_and_grad asks as hj_loss; a path has one time for all rows always.
    assert len(calls._seen) == (5 if planned else 1)
    after = _all(inputs.z, inputs.t, inputs.bank, inputs.force, **inputs.selection)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert len(calls._seen) == (5 if planned else 1)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda z, t, bank: (z.float(), t, bank), TypeError, "z: expected dtype torch.float64"),
        (lambda z, t, bank: (z[:, :4], t, bank), ValueError, r"z: expected shape \(B, 5\)"),
        (lambda z, t, bank: (z.tolist(), t, bank), TypeError, "z: expected a tensor, found list"),
        (lambda z, t, bank: (z, t.float(), bank), TypeError, "t: expected dtype torch.float64"),
        (lambda z, t, bank: (z, "0.5", bank), TypeError, "t: expected a number or a tensor, found str"),
        (lambda z, t, bank: (z, True, bank), TypeError, "t: expected a number or a tensor, found bool"),
        (lambda z, t, bank: (z, t.expand(3), bank), ValueError, "t: expected a number or shape"),
        (lambda z, t, bank: (z, t, bank.float()), TypeError, "z: expected dtype torch.float32"),
        (lambda z, t, bank: (z, t, bank.theta), TypeError, "bank: expected a PotentialBank, found Parameter"),
    ],
)
def test_the_same_errors(change: Callable[..., tuple[Any, ...]], error: type[Exception], says: str) -> None:
    z, t, bank = _rows(), torch.tensor([0.5], dtype=torch.float64), _bank()
    for operator in (potential_field, hj_residual, hj_loss, value_and_grad):
        operator(z, t, bank)
    changed = change(z, t, bank)
    for operator in (potential_field, hj_residual, hj_loss, value_and_grad):
        with pytest.raises(error, match=says):
            operator(*changed)


def test_an_index_is_checked_every_time() -> None:
    z, bank = _rows(), _bank(2)
    index = torch.tensor([0, 1, 0, 1, 0, 1, 0])
    exact = hj_loss(z, 0.5, bank, index=index)
    with pytest.raises(IndexError, match="index: expected values in 0 … 1, found 2 in row 3"):
        hj_loss(z, 0.5, bank, index=torch.tensor([0, 1, 0, 2, 0, 1, 0]))
    assert hj_loss(z, 0.5, bank, index=index) == exact != hj_loss(z, 0.5, bank, index=1 - index)
    assert hj_loss(z, 0.5, bank, index=0) != hj_loss(z, 0.5, bank, index=1)
    for wrong, error in ((2, IndexError), (-1, IndexError), (True, TypeError), (index.int(), TypeError)):
        with pytest.raises(error, match="index: expected"):
            hj_loss(z, 0.5, bank, index=wrong)
    with pytest.raises(ValueError, match="index: the bank has 2 potentials"):
        hj_loss(z, 0.5, bank)


def test_other_arguments_are_checked_every_time() -> None:
    z, bank, force = _rows(), _bank(2), _bank(2)
    gates, tangent = torch.rand(7, 2, dtype=torch.float64), _rows()

    def run(**changed: Any) -> Tensor:
        arguments = {"gates": gates, "force": force, "weight": z[:, 0], **changed}
        field = potential_field(z, 0.5, bank, gates=arguments["gates"], tangent=arguments.pop("tangent", tangent))
        assert field.hvp is not None
        return field.hvp.sum() + hj_loss(z, 0.5, bank, **arguments) + value_and_grad(z, 0.5, bank, **arguments)[0]

    exact = run()
    for wrong, error, says in (
        ({"gates": gates[:, :1]}, ValueError, r"gates: expected shape \(7, 2\)"),
        ({"gates": gates.float()}, TypeError, r"gates: expected dtype torch\.float64"),
        ({"gates": gates.tolist()}, TypeError, "gates: expected a tensor, found list"),
        ({"tangent": tangent[:3]}, ValueError, r"tangent: expected shape \(5,\) or \(7, 5\)"),
        ({"tangent": tangent.float()}, TypeError, r"tangent: expected dtype torch\.float64"),
        ({"weight": z[:3, 0]}, ValueError, r"weight: expected shape \(7,\)"),
        ({"force": _bank(1)}, ValueError, "force: expected num_potentials = 2"),
        ({"force": _bank(2).float()}, TypeError, r"force: expected dtype torch\.float64"),
        ({"force": 3.0}, TypeError, "force: expected a PotentialBank, found float"),
        ({"index": 0}, ValueError, "index, gates: expected one of the two, found both"),
    ):
        with pytest.raises(error, match=says):
            run(**wrong)
    strided = torch.zeros(2, 7, dtype=torch.float64).t().copy_(gates)
    assert run() == exact == run(gates=strided)
    assert run(tangent=tangent[0]) != exact != run(force=_bank(2))


def test_paths_are_told_apart() -> None:
    z, bank, times = _rows(), _bank(2), torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    gates = torch.rand(7, 3, 2, dtype=torch.float64)

    def end(**changed: Any) -> Tensor:
        return integrate(z, **{"times": times, "bank": bank, "gates": gates, **changed}).z[-1]

    exact = end()
    for changed in (
        {"step": 0.5},
        {"substeps": 3},
        {"times": times[:2], "gates": gates[:, :2]},
        {"gates": gates[:, 0]},
        {"gates": None, "index": 1},
    ):
        for _ in range(2):
            found = end(**changed)
            torch.testing.assert_close(found, end(**changed, backend="reference"), rtol=1e-12, atol=1e-12)
            assert not torch.equal(found, exact)
    for wrong, error, says in (
        ({"times": times.float()}, TypeError, r"times: expected torch\.float64"),
        ({"times": times[None]}, ValueError, r"times: expected shape \(T,\)"),
        ({"times": times[:2]}, ValueError, r"gates: expected shape \(7, 2\) or \(7, 2, 2\)"),
        ({"bank": _bank(2).float()}, TypeError, "expected torch.float32"),
        ({"bank": PotentialBank(2, 4, dtype=torch.float64)}, ValueError, r"z0: expected shape \(B, 4\)"),
        ({"force": _bank(1)}, ValueError, "force: expected num_potentials = 2"),
    ):
        with pytest.raises(error, match=says):
            end(**wrong)
    assert torch.equal(end(), exact)
    log_det = integrate(z, times, bank, gates=gates, outputs=("log_det",)).log_det
    assert log_det is not None
    assert integrate(z, times, bank, gates=gates).log_det is None
    by_reference = integrate(z, times, bank, gates=gates, outputs=("log_det",), backend="reference").log_det
    torch.testing.assert_close(log_det, by_reference)


def test_layouts_are_told_apart() -> None:
    z, bank = _rows(), _bank()
    exact = potential_field(z, 0.5, bank)
    wide = torch.zeros(7, 9, dtype=torch.float64)
    wide[:, 2:7] = z
    for view in (wide[:, 2:7], z.t().contiguous().t(), z[:1].expand(7, 5), z.repeat_interleave(2, 0)[::2]):
        for _ in range(2):
            found = potential_field(view, 0.5, bank)
            same = potential_field(view.clone(), 0.5, bank)
            assert torch.equal(found.grad, same.grad)
            assert torch.equal(found.u, same.u)
    assert torch.equal(potential_field(z, 0.5, bank).grad, exact.grad)
    with pytest.raises(TypeError, match=r"z: expected a strided tensor, found torch\.sparse_coo"):
        potential_field(z.to_sparse(), 0.5, bank)


def test_a_bank_may_change_in_between() -> None:
    z, bank = _rows(), _bank()
    first = hj_loss(z, 0.5, bank)
    with torch.no_grad():
        bank.theta.mul_(2)
    assert hj_loss(z, 0.5, bank) != first
    bank.float()
    assert hj_loss(z.float(), 0.5, bank).dtype == torch.float32
    bank.theta.requires_grad_(False)
    assert not hj_loss(z.float(), 0.5, bank).requires_grad
    for other in (_bank(out_activation="identity"), _bank(time_embedding="none"), _bank(depth=2)):
        found = hj_loss(z, 0.5, other)
        torch.testing.assert_close(found, hj_loss(z, 0.5, other, backend="reference"))


def test_other_parameters_take_the_place_of_the_banks() -> None:
    """By torch.func.functional_call, and by a parametrization, whose theta is no plain parameter."""
    z, bank = _rows(), _bank()
    hj_loss(z, 0.5, bank)
    other = _bank()

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bank = bank

        def forward(self, z: Tensor) -> Tensor:
            return hj_loss(z, 0.5, self.bank)

    theta = other.theta.detach().clone().requires_grad_()
    found = torch.func.functional_call(Loss(), {"bank.theta": theta}, (z,))
    exact = hj_loss(z, 0.5, other)
    assert found == exact
    assert torch.equal(*torch.autograd.grad(found, theta), *torch.autograd.grad(exact, other.theta))

    class Half(nn.Module):
        def forward(self, theta: Tensor) -> Tensor:
            return theta / 2

    plain = _bank()
    with torch.no_grad():
        plain.theta.copy_(bank.theta / 2)
    parametrize.register_parametrization(bank, "theta", Half())
    found, exact = hj_loss(z, 0.5, bank), hj_loss(z, 0.5, plain)
    assert found == exact
    (half,) = torch.autograd.grad(found, bank.parametrizations.theta.original)
    torch.testing.assert_close(2 * half, *torch.autograd.grad(exact, plain.theta))


def test_a_named_backend_is_asked() -> None:
    z, bank = _rows().requires_grad_(), _bank()
    for _ in range(2):
        assert "FieldBackward" in potential_field(z, 0.5, bank).u.grad_fn.name()
        assert "FieldBackward" not in potential_field(z, 0.5, bank, backend="reference").u.grad_fn.name()
        with ffrl_fast.use_backend("reference"):
            assert "FieldBackward" not in potential_field(z, 0.5, bank).u.grad_fn.name()


def test_a_conditioning_of_ones_own_is_asked() -> None:
    class Own(PotentialBank):
        def conditioning(self, t: Tensor, potential: int | None = None) -> tuple[Tensor | None, Tensor | None]:
            tau = t.sin().reshape(1, -1, 1).expand(1, t.shape[0], 20)
            return tau, t.cos().reshape(1, -1, 1).expand_as(tau)

    z, own, plain = _rows(), Own(1, 5, 20, dtype=torch.float64), _bank()
    with torch.no_grad():
        plain.theta.copy_(own.theta)
    hj_loss(z, 0.5, plain)
    torch.testing.assert_close(hj_loss(z, 0.5, own), hj_loss(z, 0.5, own, backend="reference"))


def test_only_so_many_plans_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_MOST", 4)
    bank = _bank()
    for rows in range(1, 20):
        hj_loss(_rows(rows), 0.5, bank)
        assert 1 <= len(calls._seen) <= 4


# torch's own forward mode scripts its decompositions.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("trained", [True, False])
def test_forward_mode_is_an_error(trained: bool) -> None:
    """Not a tangent of zero, which it was where nothing required a gradient."""
    z, bank = _rows(), _bank()
    bank.theta.requires_grad_(trained)
    tangent = torch.ones_like(z)
    for run in (
        lambda z: potential_field(z, 0.5, bank).grad,
        lambda z: hj_loss(z, 0.5, bank),
        lambda z: integrate(z, [0.5, 1.5], bank).z,
        lambda z: ffrl_fast.laplacian(z, 0.5, bank),
    ):
        run(z)
        with pytest.raises(NotImplementedError, match="no forward-mode derivatives; run the forward with backend="):
            torch.func.jvp(run, (z,), (tangent,))
        with forward_ad.dual_level():
            run(z)
            with pytest.raises(NotImplementedError, match="no forward-mode derivatives"):
                run(forward_ad.make_dual(z, tangent))

    def by_reference(z: Tensor) -> Tensor:
        return potential_field(z, 0.5, bank, backend="reference").u

    _, found = torch.func.jvp(by_reference, (z,), (tangent,))
    torch.testing.assert_close(found, potential_field(z, 0.5, bank).grad.sum(1))


def test_batches_of_cotangents_are_an_error() -> None:
    """``torch.autograd.grad(…, is_grads_batched=True)`` has no memory to point at; a loss only scales its gradients."""
    z, bank = _rows(3).requires_grad_(), _bank()
    cotangents = torch.eye(15, dtype=torch.float64).view(15, 3, 5)
    for output in (potential_field(z, 0.5, bank).grad, integrate(z, [0.5], bank).z[1]):
        with pytest.raises(NotImplementedError, match=r"use torch\.func\.jacrev or vmap, or run the forward"):
            torch.autograd.grad(output, z, cotangents, is_grads_batched=True)
    with pytest.raises(NotImplementedError, match="no batches of cotangents"):
        torch.autograd.functional.jacobian(lambda z: ffrl_fast.laplacian(z, 0.5, bank), z, vectorize=True)
    exact = torch.autograd.functional.jacobian(
        lambda z: potential_field(z, 0.5, bank, backend="reference").grad, z, vectorize=True
    )
    found = torch.func.jacrev(lambda z: potential_field(z, 0.5, bank).grad)(z.detach())
    torch.testing.assert_close(found, exact)
    scales = torch.tensor([1.0, -2.0], dtype=torch.float64)
    (scaled,) = torch.autograd.grad(hj_loss(z, 0.5, bank), z, scales, is_grads_batched=True)
    (once,) = torch.autograd.grad(hj_loss(z, 0.5, bank), z)
    torch.testing.assert_close(scaled, scales[:, None, None] * once)

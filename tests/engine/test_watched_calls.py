"""Calls that something beside autograd takes part in, and tensors that are not what they seem: right, or an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint

from ffrl_fast import PotentialBank, hj_loss, hj_residual, integrate, laplacian, potential_field, value_and_grad

pytestmark = pytest.mark.usefixtures("each_kind_of_nodes")


def _bank(potentials: int = 1, dim: int = 5, seed: int = 0, **choices: Any) -> PotentialBank:
    torch.manual_seed(seed)
    return PotentialBank(potentials, dim, 7, dtype=torch.float64, **choices)


def _rows(count: int = 6, dim: int = 5) -> Tensor:
    return torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_paper_codes_convention_twice() -> None:
    """The force is evaluated by a call of its own, which must not go by the potential's plan."""
    z, bank, force = _rows(), _bank(3), _bank(3, seed=5)
    of: dict[str, Any] = {"force": force, "index": 1, "convention": "paper_code"}
    exact = hj_residual(z, 0.3, bank, **of, backend="reference").residual
    for _ in range(3):
        _close(hj_residual(z, 0.3, bank, **of).residual, exact)
        _close(hj_loss(z, 0.3, bank, **of), exact.square().mean())


@pytest.mark.parametrize("trained", [True, False])
def test_gradients_of_a_mapped_loss(trained: bool) -> None:
    batches, bank = torch.stack([_rows(), _rows().flip(0)]), _bank()
    bank.requires_grad_(trained)

    def total(batches: Tensor, backend: str | None = None) -> Tensor:
        return torch.func.vmap(lambda z: hj_loss(z, 0.3, bank, backend=backend))(batches).sqrt().sum()

    exact = torch.func.grad(total)(batches, "reference")
    assert exact.norm() > 0
    _close(torch.func.grad(total)(batches), exact)
    leaf = batches.clone().requires_grad_()
    leaves = (leaf, bank.theta) if trained else (leaf,)
    _close(torch.autograd.grad(total(leaf), leaves), torch.autograd.grad(total(leaf, "reference"), leaves))


@pytest.mark.parametrize("in_dim", [0, 1, 2])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_rows_mapped_at_any_dimension_with_a_time_each(in_dim: int, size: int) -> None:
    bank, force, times = _bank(1, 3), _bank(1, 3, 2), torch.rand(size, dtype=torch.float64)
    z = _rows(size * 6, 3).view(size, 6, 3)

    def loss(z: Tensor, t: Tensor, backend: str | None = None) -> Tensor:
        found = hj_residual(z, t, bank, force=force, backend=backend)
        return (found.u + found.residual).sum() + laplacian(z, t, bank, backend=backend).sum()

    mapped = torch.func.vmap(loss, in_dims=(in_dim, 0))(z.movedim(0, in_dim), times)
    _close(mapped, torch.stack([loss(z[i], times[i], "reference") for i in range(size)]))


@pytest.mark.parametrize("of", ["z", "t", "weight", "cotangent", "theta"])
def test_negated_views(of: str) -> None:
    """Their sign is a bit of the tensor, not of its memory."""
    bank, plain = _bank(1, 1), _bank(1, 1)
    z, weight, bar = _rows(6, 1), _rows(6, 1)[:, 0].abs(), _rows(6, 1)
    t = torch.tensor([0.3], dtype=torch.float64)
    negated: dict[str, Tensor] = {"z": z, "t": t, "weight": weight, "cotangent": bar, "theta": bank.theta.detach()}
    negated[of] = torch._neg_view(-negated[of])
    assert negated[of].is_neg()
    if of == "theta":
        bank.theta = nn.Parameter(negated["theta"])

    def run(bank: PotentialBank, of: dict[str, Tensor], backend: str | None = None) -> list[Tensor]:
        leaf = of["z"].detach().requires_grad_()
        grad = potential_field(leaf, of["t"], bank, backend=backend).grad
        loss = hj_loss(leaf, of["t"], bank, weight=of["weight"], backend=backend)
        value, gradients = value_and_grad(of["z"], of["t"], bank, weight=of["weight"], backend=backend)
        hessians = laplacian(of["z"], of["t"], bank, backend=backend)
        path = integrate(of["z"], of["t"], bank, backend=backend).z
        found = [*torch.autograd.grad(grad, leaf, of["cotangent"]), *torch.autograd.grad(loss, leaf)]
        return [x.resolve_neg() for x in (*found, loss, value, gradients.z, gradients.theta, hessians, path)]

    exact = run(plain, {"z": z, "t": t, "weight": weight, "cotangent": bar}, "reference")
    for _ in range(2):
        _close(run(bank, negated), exact)
    imaginary = torch.complex(torch.zeros_like(z), -z).conj().imag
    assert imaginary.is_neg()
    _close(potential_field(imaginary, 0.3, plain).u, potential_field(z, 0.3, plain).u)


def test_hooks_that_move_saved_tensors() -> None:
    bank, wide = _bank(), _rows(6, 10).requires_grad_()

    def gradients(backend: str | None = None) -> tuple[Tensor, ...]:
        total = potential_field(wide[:, :5], 0.3, bank, backend=backend).grad.square().sum()
        return torch.autograd.grad(total, (wide, bank.theta))

    for _ in range(2):
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x.clone(), lambda x: x):
            found = potential_field(wide[:, :5], 0.3, bank).grad.square().sum()
        _close(torch.autograd.grad(found, (wide, bank.theta)), gradients("reference"))


def test_a_graph_that_is_kept_gives_each_its_own_gradients() -> None:
    z, bank = _rows().requires_grad_(), _bank()
    loss = hj_loss(z, 0.3, bank)
    first = torch.autograd.grad(loss, (z, bank.theta), retain_graph=True)
    kept = [x.clone() for x in first]
    for x in first:
        x.mul_(2)
    second = torch.autograd.grad(loss, (z, bank.theta), retain_graph=True)
    _close(list(second), kept)
    for x in second:
        x.mul_(2)
    _close(list(torch.autograd.grad(loss, (z, bank.theta))), kept)


@pytest.mark.parametrize("per_row_time", [False, True])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_value_and_grad_whatever_requires_a_gradient(per_row_time: bool, backend: str | None) -> None:
    """Frozen banks, a bank that is its own force, inference mode; with a time for each row these go by autograd."""
    z, bank, force = _rows(), _bank(), _bank(seed=2)
    t: Any = torch.full((6,), 0.3, dtype=torch.float64) if per_row_time else 0.3
    weight = z[:, 0].square()

    def run(force: PotentialBank) -> Any:
        return value_and_grad(z, t, bank, force=force, weight=weight, backend=backend)

    leaf = z.clone().requires_grad_()
    loss = hj_loss(leaf, 0.3, bank, force=force, weight=weight, backend="reference")
    expected = (loss.detach(), torch.autograd.grad(loss, (leaf, bank.theta, force.theta)))
    own = hj_loss(leaf, 0.3, bank, force=bank, weight=weight, backend="reference")
    total = torch.autograd.grad(own, bank.theta)[0]
    for frozen in (False, True):
        bank.requires_grad_(not frozen)
        for _ in range(2):
            value, found = run(force)
            assert not value.requires_grad
            _close((value, found[:3]), expected)
            found = run(bank)[1]
            _close((found.theta, found.force), (total, total))
        with torch.inference_mode():
            inside = value_and_grad(z.clone(), t, bank, force=force, weight=weight.clone(), backend=backend)
        _close((inside[0].clone(), [x.clone() for x in inside[1][:3]]), expected)


def test_value_and_grad_where_something_watches() -> None:
    z, other, bank = _rows(), _rows().flip(0), _bank()
    bank.requires_grad_(False)

    def gradient(z: Tensor) -> Tensor:
        return value_and_grad(z, 0.3, bank)[1].z

    _close(make_fx(gradient)(z)(other), gradient(other))
    mapped = torch.func.vmap(gradient)(torch.stack([z, other]))
    _close(mapped, torch.stack([gradient(z), gradient(other)]))
    _close(torch.func.grad(lambda z: value_and_grad(z, 0.3, bank)[0])(z), gradient(z))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        assert gradient(mode.from_tensor(z)).shape == z.shape
    with torch.profiler.profile():
        value, found = value_and_grad(z.clone().requires_grad_(), 0.3, bank)
    assert not value.requires_grad
    _close(found.z, gradient(z))


# torch's own forward mode scripts its decompositions.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode_through_a_cotangent_or_a_value_is_an_error() -> None:
    z, bank = _rows().requires_grad_(), _bank()
    out = potential_field(z, 0.3, bank)
    with forward_ad.dual_level():
        bar = forward_ad.make_dual(torch.ones_like(out.u), torch.ones_like(out.u))
        with pytest.raises(NotImplementedError, match="no forward-mode derivatives"):
            torch.autograd.grad(out.u, z, bar)
        with pytest.raises(NotImplementedError, match="no forward-mode derivatives"):
            value_and_grad(forward_ad.make_dual(z.detach(), torch.ones_like(z)), 0.3, bank)


@pytest.mark.parametrize("of", ["weight", "gates", "t", "tangent", "index", "force"])
def test_tensors_of_another_class(of: str) -> None:
    """Without memory of their own; torch sends them through the dispatcher, a tensor at a time."""
    z, bank, force = _rows(), _bank(2), _bank(2, seed=2)
    index, gates = torch.tensor([0, 1, 0, 1, 0, 1]), torch.rand(6, 2, dtype=torch.float64)
    t, weight, tangent = torch.tensor([0.3], dtype=torch.float64), z[:, 0].square(), _rows().flip(1)
    given: dict[str, Tensor] = {"weight": weight, "gates": gates, "t": t, "tangent": tangent, "index": index}
    selection = "index" if of == "index" else "gates"

    def run(given: dict[str, Tensor], force: PotentialBank) -> list[Tensor]:
        chosen: dict[str, Any] = {selection: given[selection]}
        hvp = potential_field(z, given["t"], bank, tangent=given["tangent"], **chosen).hvp
        loss = hj_loss(z, given["t"], bank, force=force, weight=given["weight"], **chosen)
        assert hvp is not None
        return [hvp, loss, laplacian(z, given["t"], bank, **chosen)]

    exact = run(given, force)
    if of == "force":
        force.theta = nn.Parameter(TwoTensor(force.theta.detach(), force.theta.detach()))
    else:
        given[of] = TwoTensor(given[of], given[of].clone())
    for _ in range(2):
        found = run(given, force)
        _close([x.a if isinstance(x, TwoTensor) else x for x in found], exact)


def test_parameters_of_a_wrong_shape() -> None:
    z, bank = _rows(), _bank(3, time_embedding="none")
    potential_field(z, 0.3, _bank(1, time_embedding="none"), index=0)
    for shape in ((1, bank.theta.shape[1]), (3, 10), (0, 0)):
        bank.theta = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        for run in (potential_field, hj_loss, value_and_grad, laplacian):
            with pytest.raises(ValueError, match=r"bank: expected parameters theta of shape \(3, \d+\), found"):
                run(z, 0.3, bank, index=2)
        with pytest.raises(ValueError, match=r"bank: expected parameters theta of shape \(3, \d+\), found"):
            integrate(z, [0.3], bank, index=2)
        with pytest.raises(ValueError, match=r"force: expected parameters theta of shape"):
            hj_loss(z, 0.3, _bank(3), force=bank, index=2)


def test_a_time_without_dimensions() -> None:
    z, bank = _rows().requires_grad_(), _bank()
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def field(z: Tensor, t: Tensor) -> Tensor:
        return potential_field(z, t, bank).grad.square().sum()

    expected = torch.autograd.grad(
        potential_field(z, t, bank, backend="reference").grad.square().sum(), (z, t, bank.theta)
    )
    for run in (
        lambda: field(z, t),
        lambda: checkpoint(field, z, t, use_reentrant=False),
        lambda: checkpoint(field, z, t, use_reentrant=False),
    ):
        total: Any = run()
        _close(torch.autograd.grad(total, (z, t, bank.theta), create_graph=True), expected)


def test_no_plan_is_a_constant_of_a_trace() -> None:
    """A traced call does not depend on what was called before."""
    z, other, bank = _rows(), _rows().flip(0), _bank()

    def run(z: Tensor) -> Tensor:
        return potential_field(z, 0.3, bank).grad

    before: list[Callable[[Tensor], Tensor]] = [make_fx(run)(z)]
    run(z)
    before.append(make_fx(run)(z))
    for traced in before:
        _close(traced(other), run(other))

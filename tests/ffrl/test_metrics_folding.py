"""Folds of potentials made by hand, and residuals that are zero only where the path asks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ffrl.metrics.folding import path_folding, path_residual
from ffrl_fast import PotentialBank, autodiff


def separate_bumps(weight: float) -> PotentialBank:
    """u(z) = weight · Σ_d tanh(tanh z_d): its Hessian is diagonal, weight·f''(z_d)."""
    bank = PotentialBank(1, 2, out_activation="identity", time_embedding="none", dtype=torch.float64)
    with torch.no_grad():
        bank.theta.zero_()
        weights = bank.weights()
        weights.w_in[0] = torch.eye(2)
        weights.w_hid[0, 0] = torch.eye(2)
        weights.w_out[0] = weight
    return bank


def curvature(x: float) -> float:
    """f'' of f = tanh(g), g = tanh x: f₁ g₂ − 2 f f₁ g₁², f₁ = 1 − f², g₁ = 1 − g², g₂ = −2 g g₁."""
    g = math.tanh(x)
    f, g1 = math.tanh(g), 1 - g * g
    return (1 - f * f) * (-2 * g * g1) - 2 * f * (1 - f * f) * g1 * g1


def test_folds_of_a_separate_potential() -> None:
    """At x = ½ f'' = −0.84. With weight 2: 1 + 2 f'' < 0 there and about 1 far away, so the rows fold in no direction,
    in one (det < 0), in two (det > 0: a fold that the sign of the determinant hides).
    """
    assert 1 + 2 * curvature(0.5) < -0.5
    z0 = torch.tensor([[8.0, 8.0], [0.5, 8.0], [0.5, 0.5], [-8.0, 8.0]], dtype=torch.float64)
    found = path_folding(z0, [1.0], separate_bumps(2.0))
    assert found.pairs == 4
    assert found.folds == 0.5
    assert found.negative == 0.25
    assert found.smallest == pytest.approx(1 + 2 * curvature(0.5))
    shorter = path_folding(z0, [1.0], separate_bumps(2.0), step=0.25)
    assert (shorter.folds, shorter.negative) == (0, 0)
    assert shorter.smallest == pytest.approx(1 + 0.5 * curvature(0.5))


def test_sub_steps_are_steps_of_their_own() -> None:
    """Four sub-steps of ¼ do not fold where one of 1 does; the path goes on from where each ends."""
    bank, x = separate_bumps(2.0), 0.5
    z0 = torch.tensor([[x, 8.0]], dtype=torch.float64)
    least = []
    for _ in range(4):
        least.append(1 + 0.25 * 2 * curvature(x))
        g = math.tanh(x)
        x += 0.25 * 2 * (1 - math.tanh(g) ** 2) * (1 - g * g)
    found = path_folding(z0, [1.0], bank, substeps=4)
    assert found.pairs == 4
    assert found.folds == 0
    assert found.smallest == pytest.approx(min(least))


@settings(max_examples=20)
@given(
    st.integers(1, 5), st.integers(1, 6), st.sampled_from(["none", "separable", "sinusoidal"]), st.integers(0, 2**16)
)
def test_against_the_hessian_by_automatic_differentiation(rows: int, dim: int, embedding: str, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    bank = PotentialBank(2, dim, 5, 2, "identity", embedding, dtype=torch.float64)  # type: ignore[arg-type]
    bank.reset_parameters(g)
    bank.theta.data.mul_(4)
    z0 = torch.randn(rows, dim, generator=g, dtype=torch.float64)
    index = torch.randint(2, (rows,), generator=g)
    folds = negative = 0
    smallest = math.inf
    for b in range(rows):
        z = z0[b]
        for t in (1.0, 2.0, 3.0):

            def potential(x: Tensor, t: float = t, b: int = b) -> Tensor:
                time = torch.tensor([t], dtype=torch.float64)
                return autodiff.potential_field(
                    x[None], time, bank.theta.detach(), bank.shape, potential_index=int(index[b])
                ).u[0]

            values = 1 + 0.5 * torch.linalg.eigvalsh(torch.autograd.functional.hessian(potential, z))
            folds += int((values <= 0).any())
            negative += int(values.prod() < 0)
            smallest = min(smallest, values.min().item())
            z = z + 0.5 * torch.autograd.functional.jacobian(potential, z)
    found = path_folding(z0, [1.0, 2.0, 3.0], bank, index=index, step=0.5)
    assert found.pairs == 3 * rows
    assert found.folds == pytest.approx(folds / (3 * rows))
    assert found.negative == pytest.approx(negative / (3 * rows))
    assert found.smallest == pytest.approx(smallest, rel=1e-8, abs=1e-8)


class Stuttering(PotentialBank):
    """τ(t) = t/2 − sin(2πt)/4π in every unit, so dτ/dt = sin²(πt): it rests at whole t and moves between them."""

    def conditioning(self, t: Tensor, potential: int | None = None) -> tuple[Tensor, Tensor]:
        count = self.num_potentials if potential is None else 1
        tau = t / 2 - torch.sin(2 * math.pi * t) / (4 * math.pi)
        speed = torch.sin(math.pi * t) ** 2
        size = (count, len(t), self.shape.width)
        return tau[None, :, None].expand(size), speed[None, :, None].expand(size)


def test_a_residual_that_is_met_on_the_grid_alone() -> None:
    """u = tanh τ(t) without z: r = ∂_t u = (1 − tanh²τ) dτ/dt, zero at every whole t, and at t + ½, dτ/dt = 1."""
    bank = Stuttering(1, 2, 1, out_activation="identity", time_embedding="none", dtype=torch.float64)
    with torch.no_grad():
        bank.theta.zero_()
        weights = bank.weights()
        weights.w_hid[:] = 1
        weights.w_out[:] = 1
    found = path_residual(torch.randn(3, 2, dtype=torch.float64), [1.0, 2.0], bank)
    assert found.on_grid == pytest.approx(0, abs=1e-20)
    squares = [(1 - math.tanh(t / 2) ** 2) ** 2 for t in (1.5, 2.5)]
    assert found.off_grid == pytest.approx(sum(squares) / 2)


def test_a_separable_energy_is_the_same_on_and_off_the_grid() -> None:
    """u = −E t: r = −E everywhere; with a force F, r = −E + F²."""
    bank = PotentialBank(2, 3, 4, time_embedding="separable", out_activation="identity", dtype=torch.float64)
    force = PotentialBank(2, 3, 4, time_embedding="none", out_activation="identity", dtype=torch.float64)
    energies = torch.tensor([0.5, 2.0], dtype=torch.float64)
    with torch.no_grad():
        bank.theta.zero_()
        bank.weights().energy.copy_(energies)  # type: ignore[union-attr]
        force.theta.zero_()
        force.weights().b_out.fill_(0.5)
    z0, index = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 1])
    found = path_residual(z0, [1.0, 2.0], bank, index=index)
    expected = (0.25 + 3 * 4.0) / 4
    assert (found.on_grid, found.off_grid) == pytest.approx((expected, expected))
    found = path_residual(z0, [1.0, 2.0], bank, index=index, force=force)
    expected = ((-0.5 + 0.25) ** 2 + 3 * (-2 + 0.25) ** 2) / 4
    assert (found.on_grid, found.off_grid) == pytest.approx((expected, expected))


def test_residuals_by_automatic_differentiation() -> None:
    """A clocked bank with two sub-steps of ½: on the grid at t, off it at t + ¼ halfway between the points."""
    torch.manual_seed(2)
    bank = PotentialBank(1, 4, 6, out_activation="identity", dtype=torch.float64)
    z = torch.randn(5, 4, dtype=torch.float64)
    found = path_residual(z, [1.0, 2.0], bank, substeps=2)

    def square(z: Tensor, t: float) -> tuple[Tensor, Tensor]:
        time = torch.tensor([t], dtype=torch.float64)
        field = autodiff.potential_field(z, time, bank.theta, bank.shape, potential_index=0)
        return (field.dt + 0.5 * field.grad.square().sum(1)).square().mean().detach(), field.grad.detach()

    on, off = [], []
    for t in (1.0, 1.5, 2.0, 2.5):
        here, gradient = square(z, t)
        following = z + 0.5 * gradient
        on.append(here)
        off.append(square((z + following) / 2, t + 0.25)[0])
        z = following
    assert found.on_grid == pytest.approx(torch.stack(on).mean().item())
    assert found.off_grid == pytest.approx(torch.stack(off).mean().item())


def test_unusable_arguments_are_refused() -> None:
    bank, z0 = separate_bumps(1.0), torch.zeros(2, 2, dtype=torch.float64)
    for measure in (path_folding, path_residual):
        with pytest.raises(ValueError, match=r"z0: expected shape \(B, 2\) with B ≥ 1, found \(0, 2\)"):
            measure(z0[:0], [1.0], bank)
        with pytest.raises(ValueError, match=r"times: expected shape \(T,\) with T ≥ 1, found \(0,\)"):
            measure(z0, [], bank)
        with pytest.raises(ValueError, match="substeps: expected an integer ≥ 1, found 0"):
            measure(z0, [1.0], bank, substeps=0)
        with pytest.raises(ValueError, match="z0: expected paths that stay finite, found NaN"):
            measure(z0 * torch.nan, [1.0], bank)

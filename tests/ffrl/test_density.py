"""Densities along the flow where they are known in closed form."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from few import few
from ffrl import density
from ffrl.data import DIGIT_FORMAT, Digits, SequenceSampler
from ffrl.metrics.folding import path_folding
from ffrl.models import FlowModel
from ffrl.noise import Noise
from ffrl.objective import objective
from ffrl.presets import Preset
from ffrl_fast import PotentialBank, integrate, potential_field


@pytest.fixture(scope="module")
def linear_flow() -> tuple[PotentialBank, Tensor]:
    """A potential fitted to ½ zᵀAz on |z| < 3, and A: its flow is z ← (I + A) z."""
    torch.manual_seed(0)
    matrix = torch.tensor([[0.15, 0.08], [0.08, -0.1]])
    bank = PotentialBank(1, 2, width=32, out_activation="identity", time_embedding="none")
    optimizer = torch.optim.Adam(bank.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    for _ in range(1500):
        z = 1.5 * torch.randn(256, 2)
        loss = (potential_field(z, 0.0, bank).grad - z @ matrix).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return bank, matrix


def noise_of(preset: Preset) -> Noise:
    return Noise.draw(preset, DIGIT_FORMAT, 6, torch.Generator().manual_seed(5))


def test_a_gaussian_carried_by_a_linear_flow(linear_flow: tuple[PotentialBank, Tensor]) -> None:
    """N(m, S) becomes N(M m, M S Mᵀ), M = (I + A)^t; log q of the path's own points must be its density there."""
    bank, matrix = linear_flow
    mean, log_variance = torch.tensor([0.3, -0.2]), torch.log(torch.tensor([0.4, 0.25]))
    g = torch.Generator().manual_seed(1)
    z0 = mean + torch.exp(0.5 * log_variance) * torch.randn(2000, 2, generator=g)
    steps = 4
    with torch.no_grad():
        path = integrate(z0, [0.0] * steps, bank, outputs=("log_det", "row_sum"))
    log_q0 = density.gaussian_log_density(z0, mean, log_variance)
    assert path.log_det is not None and path.row_sum is not None
    exact = density.path_log_density(log_q0, path.log_det)
    surrogate = density.path_log_density(log_q0, path.row_sum)
    carried = torch.eye(2)
    for t in range(steps):
        carried = (torch.eye(2) + matrix) @ carried
        covariance = carried @ torch.diag(log_variance.exp()) @ carried.T
        truth = MultivariateNormal(carried @ mean, covariance).log_prob(path.z[t + 1])
        assert (exact[t] - truth).abs().mean() < 0.03
        # The row sums of a matrix that is not diagonal are not its eigenvalues.
        assert (surrogate[t] - truth).abs().mean() > 3 * (exact[t] - truth).abs().mean()


def test_the_prior_solves_the_heat_equation() -> None:
    """∂_t p = D ∇²p, from N(0, I): by automatic differentiation of log p, ∂_t log p = D (∇² log p + ‖∇ log p‖²)."""
    diffusion, dim = 0.7, 3
    z = torch.randn(dim, dtype=torch.float64)

    def log_p(z: Tensor, t: Tensor) -> Tensor:
        return density.gaussian_log_density(z, torch.zeros_like(z), torch.log1p(2 * diffusion * t).expand_as(z))

    t = torch.tensor(1.0, dtype=torch.float64)
    along_t = torch.func.jacrev(log_p, argnums=1)(z, t)
    first = torch.func.jacrev(log_p)(z, t)
    second = torch.func.jacrev(torch.func.jacrev(log_p))(z, t)
    assert along_t.item() == pytest.approx((diffusion * (second.trace() + first @ first)).item(), rel=1e-10)
    at_one = density.diffusion_prior_log_density(z.expand(1, 4, dim), torch.full((4,), diffusion, dtype=torch.float64))
    torch.testing.assert_close(at_one, log_p(z, t).expand(1, 4))


def preset_with(base: Preset, kind: str) -> Preset:
    return dataclasses.replace(base, density=kind, density_directions=4, flow_beta=0.5)  # type: ignore[arg-type]


def test_the_flow_kl_by_hand(digits: Digits, small_preset: Preset) -> None:
    """Row by row: log q from the Hessian by autograd."""
    preset = preset_with(small_preset, "exact")
    torch.manual_seed(0)
    model = FlowModel(preset, DIGIT_FORMAT)
    with torch.no_grad():
        model.potentials.theta.mul_(3)
        assert model.log_diffusion is not None
        model.log_diffusion.copy_(torch.tensor([-1.0, 0.2, 0.5]))
    batch = SequenceSampler(digits.train, 6, 3, 0.5, torch.Generator().manual_seed(1)).draw()
    found = objective(model, batch, preset, noise_of(preset))

    noise = torch.randn(6, 6, generator=torch.Generator().manual_seed(5))
    posterior = model.autoencoder.encode(batch.frames[:, 0])
    normal, total = torch.distributions.Normal, 0.0
    for b in range(6):
        mean, sigma = posterior.mean[b], (posterior.log_variance[b] / 2).exp()
        z, k = (mean + sigma * noise[b]).detach(), int(batch.index[b])
        log_q = normal(mean, sigma).log_prob(z).sum().item()
        variance = 1.0
        for t in range(1, 9):

            def gradient(x: Tensor, t: float = t, k: int = k) -> Tensor:
                return potential_field(x[None], float(t), model.potentials, index=k, backend="reference").grad[0]

            hessian = torch.func.jacrev(gradient)(z).detach()
            log_q -= torch.linalg.slogdet(torch.eye(6) + hessian)[1].item()
            z = (z + gradient(z)).detach()
            variance = 1 + 2 * math.exp(model.log_diffusion[k].item()) * t
            log_p = normal(0.0, math.sqrt(variance)).log_prob(z).sum().item()
            total += (log_q - log_p) / 6
    assert found.flow_kl.item() == pytest.approx(total, rel=1e-4)
    without = found.reconstruction + found.kl + 200 * found.hj
    assert found.loss.item() == pytest.approx((without + 0.5 * found.flow_kl).item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["exact", "hutchinson", "row_sum"])
def test_every_density_trains(kind: str, digits: Digits, small_preset: Preset) -> None:
    preset = preset_with(small_preset, kind)
    torch.manual_seed(0)
    model = FlowModel(preset, DIGIT_FORMAT)
    batch = SequenceSampler(digits.train, 6, 3, 0.5, torch.Generator().manual_seed(1)).draw()
    optimizer = torch.optim.Adam([*model.potentials.parameters(), model.log_diffusion], lr=0.01)
    values = []
    for _ in range(25):
        found = objective(model, batch, preset, noise_of(preset))
        optimizer.zero_grad()
        found.flow_kl.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in (model.potentials.theta, model.log_diffusion))
        optimizer.step()
        values.append(found.flow_kl.item())
    assert values[-1] < values[0]


def test_the_estimate_agrees_with_the_exact_density(digits: Digits, small_preset: Preset) -> None:
    torch.manual_seed(0)
    exact = FlowModel(preset_with(small_preset, "exact"), DIGIT_FORMAT)
    estimated = FlowModel(preset_with(small_preset, "hutchinson"), DIGIT_FORMAT)
    estimated.load_state_dict(exact.state_dict())
    estimated.potential_flow.density_directions = 64
    z, index = torch.randn(20, 6), torch.randint(0, 3, (20,))
    with torch.no_grad():
        one = exact.flow_with_residual(z, index)
        other = estimated.flow_with_residual(z, index, generator=torch.Generator().manual_seed(0))
    assert one.log_det is not None and other.log_det is not None
    error = (one.log_det - other.log_det).norm() / one.log_det.norm()
    assert error < 0.3  # of 64 directions; tests/engine/test_second_order.py has their variance


def test_volume_changes_are_those_of_the_hessian(digits: Digits, small_preset: Preset) -> None:
    torch.manual_seed(0)
    model = FlowModel(small_preset, DIGIT_FORMAT)
    with torch.no_grad():
        model.potentials.theta.mul_(8)
    changes = density.volume_changes(model, few(digits), 10)
    assert set(changes) == {"scale", "rotate", "colour"}
    z0 = torch.randn(10, 6)
    exact, row_sum, smallest, folds = model.volume_change(z0, 1)
    z = z0
    for t in range(8):
        field = potential_field(z, float(t + 1), model.potentials, index=1)

        def gradient(x: Tensor, t: int = t) -> Tensor:
            return potential_field(x[None], float(t + 1), model.potentials, index=1, backend="reference").grad[0]

        hessian = torch.stack([torch.func.jacrev(gradient)(row).detach() for row in z])
        matrix = torch.eye(6) + hessian
        torch.testing.assert_close(exact[t], torch.linalg.slogdet(matrix)[1], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(row_sum[t], (1 + hessian.sum(2)).abs().log().sum(1), rtol=1e-3, atol=1e-4)
        eigenvalues = torch.linalg.eigvalsh(matrix)
        torch.testing.assert_close(smallest[t], eigenvalues.amin(1), rtol=1e-3, atol=1e-4)
        assert torch.equal(folds[t], (eigenvalues <= 0).any(1).float())
        z = (z + field.grad).detach()
    with pytest.raises(ValueError, match="count: expected at least 1 sequence, found 0"):
        density.volume_changes(model, few(digits), 0)


def test_folding_counts_euler_steps(digits: Digits, small_preset: Preset) -> None:
    """As `path_folding`, whatever the number of sub-steps."""
    torch.manual_seed(0)
    model = FlowModel(dataclasses.replace(small_preset, substeps=3), DIGIT_FORMAT)
    with torch.no_grad():
        model.potentials.theta.mul_(20)
    z0 = torch.randn(40, 6)
    *_, folds = model.volume_change(z0, 1)
    found = path_folding(z0, [float(t) for t in range(1, 9)], model.potentials, index=1, substeps=3)
    assert 0 < found.folds < 1
    assert folds.mean().item() == pytest.approx(found.folds, abs=1e-6)


def test_the_standard_prior_by_hand(digits: Digits, small_preset: Preset) -> None:
    """The flow KL of "standard" is that of "diffusion" with D = 0, p(z_t) = N(0, I), and nothing of it is learned."""
    standard = dataclasses.replace(preset_with(small_preset, "exact"), prior="standard")
    torch.manual_seed(0)
    model = FlowModel(standard, DIGIT_FORMAT)
    assert model.log_diffusion is None
    batch, noise = SequenceSampler(digits.train, 6, 3, 0.5, torch.Generator().manual_seed(1)).draw(), noise_of(standard)
    found = objective(model, batch, standard, noise)
    posterior = model.autoencoder.encode(batch.frames[:, 0])
    sigma = (posterior.log_variance / 2).exp()
    z0 = posterior.mean + sigma * noise.posterior
    path = model.flow_with_residual(z0, batch.index)
    assert path.log_det is not None
    normal, expected = torch.distributions.Normal, 0.0
    for b in range(6):
        log_q = normal(posterior.mean[b], sigma[b]).log_prob(z0[b]).sum()
        for t in range(8):
            log_q = log_q - path.log_det[t, b]
            expected += (log_q - normal(0.0, 1.0).log_prob(path.z[t + 1, b]).sum()).item() / 6
    assert found.flow_kl.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(
        density.standard_prior_log_density(path.z[1:]),
        density.diffusion_prior_log_density(path.z[1:], torch.zeros(6)),
    )

"""FactorVAE: permuted codes, the density ratio that a network learns from them, and whose gradients go where."""

import math

import pytest
import torch

from ffrl.data import Digits
from ffrl.presets import Preset
from ffrl.systems.discriminator import Discriminator, discrimination_nats, permute_dimensions
from ffrl.systems.factor_vae import FactorVAE
from small_systems import batch_of, preset_of, system_of


def correlated(count: int, correlation: float, generator: torch.Generator) -> torch.Tensor:
    """Pairs of standard normal numbers with this correlation, (count, 2)."""
    x, y = torch.randn(2, count, generator=generator)
    return torch.stack([x, correlation * x + math.sqrt(1 - correlation**2) * y], dim=1)


def test_permuting_keeps_each_dimension_and_breaks_their_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    z = correlated(4000, 0.9, generator)
    permuted = permute_dimensions(z, torch.rand(z.shape, generator=generator))
    assert torch.equal(permuted.sort(dim=0).values, z.sort(dim=0).values)
    assert abs(torch.corrcoef(permuted.mT)[0, 1].item()) < 0.05


def test_permuting_by_hand() -> None:
    z = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    keys = torch.tensor([[0.9, 0.1], [0.2, 0.5], [0.4, 0.3]])
    assert permute_dimensions(z, keys).tolist() == [[2.0, 10.0], [3.0, 30.0], [1.0, 20.0]]


def test_the_network_learns_a_known_density_ratio() -> None:
    """Two numbers of correlation ρ have the total correlation −½ log(1 − ρ²), 0.51 nats for 0.8."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = Discriminator(2, 32)
    adam = torch.optim.Adam(network.parameters())
    for step in range(600):
        adam.param_groups[0]["lr"] = 3e-3 if step < 400 else 3e-4
        z = correlated(2000, 0.8, generator)
        permuted = permute_dimensions(z, torch.rand(z.shape, generator=generator))
        adam.zero_grad()
        discrimination_nats(network(z), network(permuted)).backward()
        adam.step()
    z = correlated(20_000, 0.8, generator)
    with torch.no_grad():
        found = network(z)
    x, y = z.double().unbind(1)
    ratio = -0.5 * math.log(1 - 0.64) - (0.64 * (x**2 + y**2) - 1.6 * x * y) / (2 * (1 - 0.64))
    assert ratio.mean().item() == pytest.approx(0.51, abs=0.02)
    assert found.mean().item() == pytest.approx(0.51, abs=0.05)
    common = (x.abs() < 1.5) & (y.abs() < 1.5)
    assert (found - ratio)[common].abs().mean().item() < 0.05


def test_the_loss_of_a_network_that_cannot_tell() -> None:
    assert discrimination_nats(torch.zeros(5), torch.zeros(7)).item() == pytest.approx(math.log(2))
    by_hand = -0.5 * math.log(torch.sigmoid(torch.tensor(1.5))) - 0.5 * math.log(1 - torch.sigmoid(torch.tensor(-0.5)))
    assert discrimination_nats(torch.tensor([1.5]), torch.tensor([-0.5])).item() == pytest.approx(by_hand)


def test_one_backward_has_the_gradients_of_two_losses(small_preset: Preset, digits: Digits) -> None:
    preset = preset_of("factor_vae", small_preset, "tc_weight=7", "beta=2")
    system = system_of(preset)
    assert isinstance(system, FactorVAE)
    batch, noise = batch_of(system, preset, digits), system.draw_noise(6, torch.Generator().manual_seed(2))
    coder, network = list(system.autoencoder.parameters()), list(system.discriminator.parameters())

    terms = system.objective(batch, noise, 1.0)
    own = terms.reconstruction + 2 * terms.kl + 7 * terms.total_correlation
    torch.testing.assert_close(terms.loss, own + terms.discrimination)
    both = torch.autograd.grad(terms.loss, [*coder, *network], retain_graph=True)
    of_coder = torch.autograd.grad(own, coder, retain_graph=True)
    of_network = torch.autograd.grad(terms.discrimination, network, retain_graph=True)
    for found, expected in zip(both, [*of_coder, *of_network], strict=True):
        torch.testing.assert_close(found, expected)
    with pytest.raises(RuntimeError, match="unused"):
        torch.autograd.grad(terms.total_correlation, network, retain_graph=True)
    with pytest.raises(RuntimeError, match="unused"):
        torch.autograd.grad(terms.discrimination, coder)


def test_the_total_correlation_reaches_the_encoder(small_preset: Preset, digits: Digits) -> None:
    preset = preset_of("factor_vae", small_preset)
    system = system_of(preset)
    batch, noise = batch_of(system, preset, digits), system.draw_noise(6, torch.Generator().manual_seed(2))
    terms = system.objective(batch, noise, 1.0)._asdict()
    gradient = torch.autograd.grad(terms["total_correlation"], list(system.autoencoder.encoder.parameters()))
    assert all(bool(x.abs().max() > 0) for x in gradient)


def test_the_network_has_a_learning_rate_of_its_own(small_preset: Preset) -> None:
    system = system_of(preset_of("factor_vae", small_preset, "discriminator_learning_rate=0.5"))
    coder, network = system.parameter_groups()
    assert "lr" not in coder
    assert (network["lr"], network["betas"]) == (0.5, (0.5, 0.9))
    assert len(coder["params"]) + len(network["params"]) == len(list(system.parameters()))

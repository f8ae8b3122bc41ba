"""The objective against a computation written out by hand, row by row and frame by frame."""

import dataclasses

import pytest
import torch
from torch import Tensor

from ffrl.data import Digits, SequenceBatch, SequenceSampler
from ffrl.models import FlowModel
from ffrl.noise import Noise
from ffrl.objective import objective
from ffrl.presets import Preset


def noise_of(preset: Preset) -> Noise:
    return Noise.draw(preset, 6, torch.Generator().manual_seed(5))


def batch_of(digits: Digits, preset: Preset) -> SequenceBatch:
    return SequenceSampler(digits.train, preset.batch_size, 3, 0.5, torch.Generator().manual_seed(1)).draw()


def potential(model: FlowModel, name: str, k: int, z: Tensor, t: Tensor) -> Tensor:
    """u^k(z, t) or F^k(z, t) of one row by the formula, differentiable by autograd."""
    bank = getattr(model, name)
    weights = {key: value[k] for key, value in bank.weights()._asdict().items() if value is not None}
    a = torch.tanh(weights["w_in"] @ z + weights["b_in"])
    c = torch.tanh(weights["w_hid"].squeeze(0) @ a + weights["b_hid"].squeeze(0))
    o = (weights["w_out"].flatten() * c).sum() + weights["b_out"].squeeze()
    u = torch.tanh(o) if bank.shape.out_activation == "tanh" else o
    return u - weights["energy"].squeeze() * t if "energy" in weights else u


def test_objective_by_hand(digits: Digits, small_preset: Preset) -> None:
    preset = dataclasses.replace(small_preset, beta=1.5, hj_weight=7.0)
    torch.manual_seed(0)
    model = FlowModel(preset)
    with torch.no_grad():
        # So that steps are long and E counts.
        model.potentials.theta.mul_(3).add_(0.1)
    batch = batch_of(digits, preset)
    found = objective(model, batch, preset, noise_of(preset))

    noise = torch.randn(6, 6, generator=torch.Generator().manual_seed(5))
    reconstruction, kl, squares = 0.0, 0.0, []
    for b in range(6):
        k = int(batch.index[b])
        head = model.autoencoder.encoder(batch.frames[b, 0].flatten())
        mean, log_variance = head[:6], head[6:]
        sigma = (log_variance / 2).exp()
        normal = torch.distributions.Normal
        kl += torch.distributions.kl_divergence(normal(mean, sigma), normal(0.0, 1.0)).sum().item() / 6
        path = [(mean + sigma * noise[b]).detach()]
        for step in range(1, 9):
            z = path[-1].clone().requires_grad_()
            t = torch.tensor(float(step), requires_grad=True)
            gradient, dt = torch.autograd.grad(potential(model, "potentials", k, z, t), (z, t))
            force = potential(model, "forces", k, z, t)
            squares.append((dt + 0.5 * gradient @ gradient + force**2).item() ** 2)
            path.append((z + gradient).detach())
        for m, frame in enumerate(batch.times[b].tolist()):
            image = torch.sigmoid(model.autoencoder.decoder(path[frame]).double())
            truth = batch.frames[b, m].flatten().double()
            nats = -(truth * image.log() + (1 - truth) * (1 - image).log()).sum().item()
            reconstruction += nats * (1.0 if frame == 0 else 8 / 3) / 6
    hj = sum(squares) / len(squares)

    assert found.reconstruction.item() == pytest.approx(reconstruction, rel=1e-5)
    assert found.kl.item() == pytest.approx(kl, rel=1e-5)
    assert found.hj.item() == pytest.approx(hj, rel=1e-4)
    assert found.initial.item() == 0
    assert found.loss.item() == pytest.approx(reconstruction + 1.5 * kl + 7 * hj, rel=1e-5)


def test_every_parameter_learns(digits: Digits, small_preset: Preset) -> None:
    model = FlowModel(small_preset)
    objective(model, batch_of(digits, small_preset), small_preset, noise_of(small_preset)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_clocked_potentials_have_an_initial_condition(digits: Digits, small_preset: Preset) -> None:
    preset = dataclasses.replace(
        small_preset,
        time_embedding="sinusoidal",
        potential_output="tanh",
        initial_weight=9.0,
        midpoint_collocation=True,
    )
    torch.manual_seed(0)
    model = FlowModel(preset)
    found = objective(model, batch_of(digits, preset), preset, noise_of(preset))
    assert found.initial.item() > 0
    expected = found.reconstruction + found.kl + 200 * found.hj + 9 * found.initial
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_hj_penalty_is_what_training_on_it_alone_reduces(digits: Digits, small_preset: Preset) -> None:
    torch.manual_seed(0)
    model = FlowModel(small_preset)
    batch = batch_of(digits, small_preset)
    optimizer = torch.optim.Adam([*model.potentials.parameters(), *model.forces.parameters()], lr=0.01)
    values = []
    for _ in range(30):
        hj = objective(model, batch, small_preset, noise_of(small_preset)).hj
        optimizer.zero_grad()
        hj.backward()
        optimizer.step()
        values.append(hj.item())
    assert values[-1] < 0.2 * values[0]

"""The objective against a computation written out by hand, row by row and frame by frame."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from ffrl.data import DIGIT_FORMAT, Digits, SequenceBatch, SequenceSampler
from ffrl.models import FlowModel
from ffrl.noise import Noise
from ffrl.objective import objective
from ffrl.presets import Preset
from ffrl_fast import hj_residual, log_det, potential_field


def noise_of(preset: Preset) -> Noise:
    return Noise.draw(preset, DIGIT_FORMAT, 6, torch.Generator().manual_seed(5))


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
    model = FlowModel(preset, DIGIT_FORMAT)
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
    model = FlowModel(small_preset, DIGIT_FORMAT)
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
        collocation_points=1,
    )
    torch.manual_seed(0)
    model = FlowModel(preset, DIGIT_FORMAT)
    found = objective(model, batch_of(digits, preset), preset, noise_of(preset))
    assert found.initial.item() > 0
    expected = found.reconstruction + found.kl + 200 * found.hj + 9 * found.initial
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_hj_penalty_is_what_training_on_it_alone_reduces(digits: Digits, small_preset: Preset) -> None:
    torch.manual_seed(0)
    model = FlowModel(small_preset, DIGIT_FORMAT)
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


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal"])
def test_likelihoods_by_hand(digits: Digits, small_preset: Preset, likelihood: str) -> None:
    preset = dataclasses.replace(small_preset, likelihood=likelihood)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = FlowModel(preset, DIGIT_FORMAT)
    batch, noise = batch_of(digits, preset), noise_of(preset)
    found = objective(model, batch, preset, noise)
    posterior = model.autoencoder.encode(batch.frames[:, 0])
    z0 = posterior.mean + (posterior.log_variance / 2).exp() * noise.posterior
    expected = 0.0
    for b in range(6):
        path = model.flow(z0[b : b + 1], int(batch.index[b]))
        for m, t in enumerate(batch.times[b].tolist()):
            image, truth = model.autoencoder.decode(path[t])[0], batch.frames[b, m]
            if likelihood == "normal":
                log_p = torch.distributions.Normal(image, 1.0).log_prob(truth) + 0.5 * math.log(2 * math.pi)
            else:
                log_p = truth * image.log() + (1 - truth) * (1 - image).log()
            expected -= log_p.sum().item() * batch.weights[m].item() / 6
    assert found.reconstruction.item() == pytest.approx(expected, rel=1e-5)


def test_substeps_are_euler_steps_of_the_flow(digits: Digits, small_preset: Preset) -> None:
    """Two sub-steps of ½ a step, and the residual at all of them, beside single steps by autograd."""
    preset = dataclasses.replace(
        small_preset, substeps=2, time_embedding="sinusoidal", density="exact", collocation_points=1
    )
    torch.manual_seed(0)
    model = FlowModel(preset, DIGIT_FORMAT)
    with torch.no_grad():
        model.potentials.theta.mul_(3)
    z, squares, volume = torch.randn(4, 6), [], []
    found = model.flow_with_residual(z, 1)
    torch.testing.assert_close(model.flow(z, 1), found.z)
    assert found.residual.shape == (16, 4) and found.log_det is not None and found.log_det.shape == (8, 4)
    for half in range(16):
        t = 1 + half / 2
        field = hj_residual(z, t, model.potentials, force=model.forces, index=1)
        squares.append(field.residual)
        volume.append(log_det(z, t, model.potentials, index=1, step=0.5).value)
        z = z + 0.5 * potential_field(z, t, model.potentials, index=1).grad
        if half % 2:
            torch.testing.assert_close(found.z[half // 2 + 1], z, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.log_det[half // 2], volume[-1] + volume[-2], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.residual, torch.stack(squares), rtol=1e-3, atol=1e-5)
    exact, _, smallest, _ = model.volume_change(found.z[0], 1)
    torch.testing.assert_close(exact, found.log_det, rtol=1e-3, atol=1e-5)
    assert smallest.shape == (8, 4)
    objective(model, batch_of(digits, preset), preset, noise_of(preset)).loss.backward()
    assert model.potentials.theta.grad is not None and model.potentials.theta.grad.isfinite().all()


@pytest.mark.parametrize("autoencoder", ["conv", "mlp"])
def test_hutchinson_takes_substeps(digits: Digits, small_preset: Preset, autoencoder: str) -> None:
    preset = dataclasses.replace(
        small_preset,
        substeps=2,
        density="hutchinson",
        autoencoder=autoencoder,
        conv_width=4,  # type: ignore[arg-type]
    )
    model = FlowModel(preset, DIGIT_FORMAT)
    found = objective(model, batch_of(digits, preset), preset, noise_of(preset))
    assert found.flow_kl.isfinite() and found.flow_kl != 0

"""The paper code's terms against its formulas, and training with them.

tests/bench/test_paper_step.py holds the whole loss and its gradients to the public code's own form.
"""

import dataclasses
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from ffrl.data import DIGIT_FORMAT, Digits, SequenceSampler
from ffrl.data.digit_dataset import DigitDataset
from ffrl.errors import UserError
from ffrl.models import FlowModel
from ffrl.models.autoencoder import Posterior
from ffrl.noise import Noise
from ffrl.objective import objective
from ffrl.paper_code import flow_terms, softmax_kl
from ffrl.presets import Preset
from ffrl.training import Budget, Trainer
from ffrl_fast import hj_residual, potential_field


@pytest.fixture
def preset(small_preset: Preset) -> Preset:
    clocked = {"time_embedding": "sinusoidal", "potential_output": "tanh", "initial_weight": 2.0}
    return dataclasses.replace(small_preset, convention="paper_code", density="row_sum", **clocked)


def model_of(preset: Preset) -> FlowModel:
    torch.manual_seed(0)
    model = FlowModel(preset, DIGIT_FORMAT)
    with torch.no_grad():
        model.potentials.theta.mul_(3)  # so that steps are long
        if model.prior_scale is not None:
            model.prior_scale.uniform_(0.5, 1.5)
    return model


def a_posterior() -> tuple[Posterior, Tensor]:
    mean, log_variance, noise = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(2))
    posterior = Posterior(mean, log_variance)
    return posterior, posterior.sample(noise)


def test_terms_by_their_formulas(preset: Preset) -> None:
    """With rows of several k, whose sums are over all rows alike."""
    model, (posterior, z0) = model_of(preset), a_posterior()
    index = torch.tensor([0, 1, 2, 1, 0])
    found = flow_terms(model, posterior, z0, index)

    z, squares, flow_kl = z0, [], 0.0
    log_q = Normal(posterior.mean, (0.5 * posterior.log_variance).exp()).log_prob(z0)
    log_p = Normal(0.0, 1.0).log_prob(z0)
    assert model.prior_scale is not None
    for t in range(1, 9):
        call = {"index": index, "backend": "reference"}
        residual = hj_residual(z, float(t), model.potentials, force=model.forces, convention="paper_code", **call)
        field = potential_field(z, float(t), model.potentials, tangent=torch.ones(6), **call)
        squares.append(residual.residual.square())
        assert field.hvp is not None
        curvature = torch.ones(5) if t == 1 else 1 / (model.prior_scale[index, t - 2] ** 2 + 1e-5)
        log_q = log_q - torch.log((1 + field.hvp).abs())
        log_p = log_p - torch.log(1 + curvature)[:, None]
        flow_kl += kl_divergence(Categorical(logits=log_p.exp()), Categorical(logits=log_q.exp())).mean()
        z = z + field.grad
    torch.testing.assert_close(found.z[-1], z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.hj, torch.stack(squares).mean(), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.flow_kl, flow_kl, rtol=1e-4, atol=0)
    gradient = potential_field(z0, 0.0, model.potentials, index=index).grad
    force = potential_field(z0, 0.0, model.forces, index=index).u
    torch.testing.assert_close(found.initial, gradient.square().mean() + force.square().mean(), rtol=1e-5, atol=0)


def test_the_softmax_kl_does_not_see_a_constant_but_is_no_symmetric() -> None:
    p, q = torch.rand(2, 3, 4, 6).log()
    assert softmax_kl(p, q) > 0
    assert softmax_kl(p, p).item() == pytest.approx(0, abs=1e-7)
    assert softmax_kl((p.exp() + 2).log(), p).item() == pytest.approx(0, abs=1e-6)
    assert softmax_kl(p, q) != pytest.approx(softmax_kl(q, p).item(), rel=1e-3)


def test_the_loss_is_their_weighted_sum_and_every_parameter_learns(digits: Digits, preset: Preset) -> None:
    preset = dataclasses.replace(preset, hj_weight=8.0, flow_beta=0.5, beta=1.5)
    model = model_of(preset)
    sampler = SequenceSampler(
        digits.train, 6, 3, 0.0, torch.Generator().manual_seed(1), whole_sequences=False, one_transformation=False
    )
    batch, noise = sampler.draw(), Noise.draw(preset, DIGIT_FORMAT, 6, torch.Generator().manual_seed(5))
    found = objective(model, batch, preset, noise)
    expected = found.reconstruction + 1.5 * found.kl + 0.5 * found.flow_kl + 8 * found.hj + 2 * found.initial
    torch.testing.assert_close(found.loss, expected)
    assert min(found.flow_kl.item(), found.hj.item(), found.initial.item()) > 0
    found.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_without_density_there_is_no_prior(preset: Preset) -> None:
    model, (posterior, z0) = model_of(dataclasses.replace(preset, density="none")), a_posterior()
    assert model.prior_scale is None and model.log_diffusion is None
    assert flow_terms(model, posterior, z0, torch.zeros(5, dtype=torch.int64)).flow_kl == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"density": "exact"}, "density: expected none or row_sum with convention paper_code, found 'exact'"),
        ({"supervision": "weak"}, "supervision: expected full with convention paper_code, found 'weak'"),
        ({"substeps": 2}, "substeps: expected 1 with convention paper_code, found 2"),
        ({"collocation_points": 1}, "collocation_points: expected 0 with convention paper_code"),
    ],
)
def test_what_the_paper_code_has_not(preset: Preset, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(preset, **change)  # type: ignore[arg-type]


def test_trained_and_resumed_to_the_same_bits(digits: Digits, preset: Preset, tmp_path: Path) -> None:
    """By convolutions, whose weights a checkpoint lays out otherwise than Adam's state does."""
    preset = dataclasses.replace(preset, autoencoder="conv", conv_width=4, ema_decay=0.0)
    data, console = DigitDataset(digits), Console(quiet=True)
    whole = Trainer(preset, Budget(iterations=4), data, tmp_path / "whole", seed=1)
    whole.train(console)
    Trainer(preset, Budget(iterations=4), data, tmp_path / "parts", seed=1).train(console, stop_at=2)
    resumed = Trainer(preset, Budget(iterations=4), data, tmp_path / "parts", seed=1)
    assert resumed.iteration == 2
    resumed.train(console)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
        assert torch.equal(resumed.average.state_dict()[name], value), name

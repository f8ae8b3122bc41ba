"""Inferred k: the straight-through sample, the objective beside the one with known k, the matching of potentials."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from few import few
from ffrl.data import DIGIT_FORMAT, NUM_STEPS, TRANSFORMATIONS, DigitDataset, Digits, SequenceSampler
from ffrl.matching import match
from ffrl.models import FlowModel, SequenceClassifier
from ffrl.models.classifier import straight_through
from ffrl.noise import Noise
from ffrl.objective import objective
from ffrl.presets import Preset
from ffrl.training import Budget, Trainer


class Certain(nn.Module):
    """A classifier that reads k off the data: which transformation turns frame 0 into the last one, renamed."""

    def __init__(self, names: tuple[int, ...]) -> None:
        super().__init__()
        self.names = names

    def forward(self, sequence: Tensor) -> Tensor:
        grey = sequence.sum(2)
        moved = (grey[:, -1] - grey[:, 0]).abs().flatten(1).sum(1)
        grown = grey[:, -1].flatten(1).sum(1) - grey[:, 0].flatten(1).sum(1)
        hue = (sequence[:, -1].argmax(1) != sequence[:, 0].argmax(1)).flatten(1).any(1)
        k = torch.where(hue, 2, torch.where(grown > 0.3 * moved, 0, 1))
        return 50.0 * nn.functional.one_hot(torch.tensor(self.names)[k], 3).float()


@pytest.fixture
def weak_preset(small_preset: Preset) -> Preset:
    return dataclasses.replace(small_preset, supervision="weak", classifier_width=16, random_start=0.0)


def sampler(digits: Digits, preset: Preset) -> SequenceSampler:
    generator = torch.Generator().manual_seed(1)
    return SequenceSampler(digits.train, preset.batch_size, 3, preset.random_start, generator, whole_sequences=True)


def test_a_straight_through_sample_is_one_hot_with_the_gradient_of_its_softmax() -> None:
    logits = torch.tensor([[0.3, -1.0, 0.5], [2.0, 2.1, -3.0]], dtype=torch.float64, requires_grad=True)
    gumbel = torch.tensor([[0.1, 1.9, 0.2], [0.0, 0.4, 1.0]], dtype=torch.float64)
    bar = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.7, 2.0]], dtype=torch.float64)
    sample = straight_through(logits, gumbel, 0.7)
    assert torch.allclose(sample, torch.tensor([[0.0, 1.0, 0.0]] * 2, dtype=torch.float64))
    soft = torch.softmax((logits + gumbel) / 0.7, dim=1)
    (found,) = torch.autograd.grad((bar * sample).sum(), logits)
    (expected,) = torch.autograd.grad((bar * soft).sum(), logits)
    assert torch.allclose(found, expected)


def test_gumbel_samples_follow_q() -> None:
    preset = Preset(supervision="weak")
    gumbel = Noise.draw(preset, DIGIT_FORMAT, 30_000, torch.Generator().manual_seed(0)).gumbel
    assert gumbel is not None
    q = torch.tensor([0.5, 0.3, 0.2])
    counts = straight_through(q.log().expand_as(gumbel), gumbel, 1.0).mean(0)
    assert torch.allclose(counts, q, atol=0.01)


def test_whole_sequences_hold_the_frames_drawn(digits: Digits, weak_preset: Preset) -> None:
    batch = sampler(digits, dataclasses.replace(weak_preset, random_start=0.7)).draw()
    assert batch.sequence is not None and batch.sequence.shape == (6, NUM_STEPS + 1, 3, 28, 28)
    for row in range(6):
        for m, t in enumerate(batch.times[row].tolist()):
            assert torch.equal(batch.frames[row, m], batch.sequence[row, t])


@pytest.mark.parametrize("density", ["none", "exact", "hutchinson"])
def test_certain_of_k_it_is_the_objective_with_known_k(digits: Digits, weak_preset: Preset, density: str) -> None:
    preset = dataclasses.replace(weak_preset, density=density, collocation_points=1)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = FlowModel(preset, DIGIT_FORMAT)
    model.classifier = Certain((0, 1, 2))  # type: ignore[assignment]
    batch, noise = sampler(digits, preset).draw(), Noise.draw(preset, DIGIT_FORMAT, 6, torch.Generator().manual_seed(5))
    inferred = objective(model, batch, preset, noise)
    model.classifier = None
    known = objective(model, batch, preset, noise)
    for name in ("reconstruction", "kl", "flow_kl", "hj"):
        assert getattr(inferred, name).item() == pytest.approx(getattr(known, name).item(), rel=1e-4), name
    assert inferred.k_kl.item() == pytest.approx(math.log(3), rel=1e-5)
    assert inferred.balance.item() == pytest.approx(0, abs=1e-5)
    assert inferred.loss.item() == pytest.approx(known.loss.item() + math.log(3), rel=1e-4)


def test_k_is_never_shown(digits: Digits, weak_preset: Preset) -> None:
    model = FlowModel(weak_preset, DIGIT_FORMAT)
    batch, noise = (
        sampler(digits, weak_preset).draw(),
        Noise.draw(weak_preset, DIGIT_FORMAT, 6, torch.Generator().manual_seed(5)),
    )
    first = objective(model, batch, weak_preset, noise)
    second = objective(model, dataclasses.replace(batch, index=batch.index.flip(0)), weak_preset, noise)
    assert torch.equal(first.loss, second.loss)


def test_one_k_for_all_costs_the_balance(digits: Digits, weak_preset: Preset) -> None:
    model = FlowModel(weak_preset, DIGIT_FORMAT)
    assert isinstance(model.classifier, SequenceClassifier)
    last = model.classifier.layers[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([100.0, 0.0, 0.0]))
    batch, noise = (
        sampler(digits, weak_preset).draw(),
        Noise.draw(weak_preset, DIGIT_FORMAT, 6, torch.Generator().manual_seed(5)),
    )
    found = objective(model, batch, weak_preset, noise)
    assert found.balance.item() == pytest.approx(math.log(3), rel=1e-5)
    assert found.loss.item() > weak_preset.balance_weight * math.log(3)


@pytest.mark.parametrize("names", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_potentials_are_matched_to_transformations(digits: Digits, weak_preset: Preset, names: tuple[int, ...]) -> None:
    model = FlowModel(weak_preset, DIGIT_FORMAT)
    model.classifier = Certain(names)  # type: ignore[assignment]
    matching = match(model, few(digits, 60, 60))
    assert matching.potentials == names
    assert matching.inferred is not None and matching.inferred.accuracy > 0.98
    assert matching.inferred.label_of == (0, 1, 2)


def test_known_k_needs_no_matching(digits: Digits, small_preset: Preset) -> None:
    matching = match(FlowModel(small_preset, DIGIT_FORMAT), few(digits, 2, 2))
    assert matching.potentials == tuple(range(len(TRANSFORMATIONS))) and matching.inferred is None


def test_training_tells_the_transformations_apart(digits: Digits, tmp_path: Path) -> None:
    preset = Preset(
        supervision="weak", latent_dim=8, hidden=(64, 32), potential_width=16, batch_size=24, classifier_width=32
    )
    trainer = Trainer(preset, Budget(iterations=500), DigitDataset(digits), tmp_path, seed=0)
    for _ in range(500):
        trainer.step()
    inferred = match(trainer.model.eval(), few(digits, 100, 100)).inferred
    assert inferred is not None and inferred.accuracy > 0.9, inferred

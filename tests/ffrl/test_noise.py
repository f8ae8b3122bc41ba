"""The random numbers of a step: shares of a batch have those of the whole, and the clock of all."""

import dataclasses

import pytest
import torch

from ffrl.data import DIGIT_FORMAT, Digits, SequenceSampler
from ffrl.errors import UserError
from ffrl.models import FlowModel
from ffrl.noise import Noise
from ffrl.objective import objective
from ffrl.presets import Preset
from ffrl_fast import hj_residual


@pytest.fixture
def clocked(small_preset: Preset) -> Preset:
    return dataclasses.replace(
        small_preset, time_embedding="sinusoidal", random_clock=True, collocation_points=3, supervision="weak"
    )


def draw(preset: Preset, rows: int = 6, seed: int = 5) -> Noise:
    return Noise.draw(preset, DIGIT_FORMAT, rows, torch.Generator().manual_seed(seed))


def test_two_shares_are_the_whole_batch(clocked: Preset) -> None:
    whole = draw(clocked)
    shares = [whole.share(number, 2) for number in (0, 1)]
    assert whole.collocation is not None and whole.gumbel is not None
    assert whole.collocation.shape == (3, 8, 6)
    for number, share in enumerate(shares):
        assert share.collocation is not None and share.gumbel is not None
        assert torch.equal(share.posterior, whole.posterior[number::2])
        assert torch.equal(share.collocation, whole.collocation[:, :, number::2])
        assert torch.equal(share.gumbel, whole.gumbel[number::2])
        assert share.clock == whole.clock


def test_clocks_are_spread_over_the_whole_sequence(clocked: Preset) -> None:
    clocks = torch.tensor([draw(clocked, 1, seed).clock for seed in range(400)])
    assert 0 <= clocks.min() < 0.3 and 7.7 < clocks.max() < 8
    assert clocks.mean() == pytest.approx(4, abs=0.4)
    assert draw(dataclasses.replace(clocked, random_clock=False)).clock == 0


def test_the_clock_moves_the_times_of_path_and_equation(digits: Digits, small_preset: Preset) -> None:
    preset = dataclasses.replace(small_preset, time_embedding="sinusoidal", random_clock=True)
    torch.manual_seed(0)
    model = FlowModel(preset, DIGIT_FORMAT)
    with torch.no_grad():
        model.potentials.theta.mul_(3)
    z0, index = torch.randn(6, 6), torch.arange(6) % 3
    late = model.flow_with_residual(z0, index, start=2.5)
    assert late.residual is not None
    torch.testing.assert_close(late.z, model.flow(z0, index, start=2.5))
    for step in range(8):
        expected = hj_residual(late.z[step], 3.5 + step, model.potentials, force=model.forces, index=index)
        torch.testing.assert_close(late.residual[step], expected.residual, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(late.z[step + 1], late.z[step] + expected.grad, rtol=1e-4, atol=1e-5)
    assert (late.z[-1] - model.flow(z0, index)[-1]).abs().max() > 1e-3

    batch = SequenceSampler(digits.train, 6, 3, 0.5, torch.Generator().manual_seed(1)).draw()
    noise = draw(preset)
    losses = [
        objective(model, batch, preset, dataclasses.replace(noise, clock=clock)).reconstruction.item()
        for clock in (0.0, 2.5, 2.5)
    ]
    assert losses[0] != losses[1] == losses[2]


def test_points_between_the_steps_by_hand(digits: Digits, small_preset: Preset) -> None:
    preset = dataclasses.replace(
        small_preset, time_embedding="sinusoidal", random_clock=True, collocation_points=2, hj_weight=7.0
    )
    torch.manual_seed(0)
    model = FlowModel(preset, DIGIT_FORMAT)
    with torch.no_grad():
        model.potentials.theta.mul_(3)
    batch, noise = SequenceSampler(digits.train, 6, 3, 0.5, torch.Generator().manual_seed(1)).draw(), draw(preset)
    found = objective(model, batch, preset, noise)
    assert noise.collocation is not None and noise.clock > 0
    z0 = model.autoencoder.encode(batch.frames[:, 0]).sample(noise.posterior)
    squares = 0.0
    for b in range(6):
        k = int(batch.index[b])
        path = model.flow(z0[b : b + 1], k, start=noise.clock)
        for step in range(8):
            for alpha in (0.0, *noise.collocation[:, step, b].tolist()):
                point = path[step] + alpha * (path[step + 1] - path[step])
                time = noise.clock + 1 + step + alpha
                r = hj_residual(point, time, model.potentials, force=model.forces, index=k).residual
                squares += r.item() ** 2
    assert found.hj.item() == pytest.approx(squares / (3 * 8 * 6), rel=1e-3)
    expected = found.reconstruction + found.kl + 7 * found.hj
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["random_clock=true"], "random_clock: expected false unless time_embedding is sinusoidal, found True"),
        (["random_clock=true", "time_embedding=none"], "random_clock: expected false unless"),
        (
            ["random_clock=true", "time_embedding=sinusoidal", "initial_weight=200"],
            "initial_weight: expected 0 with random_clock, under which no time is the initial one, found 200.0",
        ),
        (["collocation_points=-1"], "collocation_points: expected at least 0, found -1"),
        (["collocation_points=1", "hj_weight=0"], "collocation_points: expected 0 without an equation"),
    ],
)
def test_contradictions_are_refused(changes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preset().override(changes)

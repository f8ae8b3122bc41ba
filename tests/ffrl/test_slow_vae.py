"""SlowVAE: pairs of neighbouring frames, and the divergence from a Laplace transition."""

import math

import pytest
import torch
from torch.distributions import Laplace, Normal
from torch.nn.functional import binary_cross_entropy_with_logits

from few import few
from ffrl.data import Digits, find_dataset
from ffrl.data.batch import draw_times, frame_weights
from ffrl.models.autoencoder import Posterior
from ffrl.presets import Preset
from ffrl.systems.slow_vae import SlowVAE, transition_kl
from small_systems import batch_of, preset_of, system_of


def gaussian(mean: float, deviation: float) -> Posterior:
    values = torch.tensor([[mean]], dtype=torch.float64), torch.tensor([[2 * math.log(deviation)]], dtype=torch.float64)
    return Posterior(*values)


@pytest.mark.parametrize(
    ("first", "second", "rate"),
    [((0.3, 0.5), (-0.8, 0.7), 6.0), ((0.0, 1.0), (0.0, 1.0), 1.0), ((2.0, 0.1), (-1.0, 0.2), 3.0)],
)
def test_the_divergence_is_that_of_a_quadrature(
    first: tuple[float, float], second: tuple[float, float], rate: float
) -> None:
    """∫ q(z) ∫ q(z') (log q(z') − log Laplace(z' − z)) on a grid."""
    steps = torch.linspace(-9, 9, 2401, dtype=torch.float64)
    z, later = first[0] + first[1] * steps, second[0] + second[1] * steps
    q, q_later = Normal(*first).log_prob(z), Normal(*second).log_prob(later)
    prior = Laplace(z[:, None], 1 / rate).log_prob(later)
    inner = torch.trapezoid(q_later.exp() * (q_later - prior), later, dim=1)
    expected = torch.trapezoid(q.exp() * inner, z).item()
    assert transition_kl(gaussian(*first), gaussian(*second), rate).item() == pytest.approx(expected, rel=1e-5)


def test_dimensions_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (Posterior(*torch.randn(2, 4, 3, generator=generator)) for _ in range(2))
    parts = [
        transition_kl(*(Posterior(q.mean[:, [d]], q.log_variance[:, [d]]) for q in (first, second)), 6.0)
        for d in range(3)
    ]
    torch.testing.assert_close(transition_kl(first, second, 6.0), torch.stack(parts).sum(0))


def test_the_loss_by_hand(small_preset: Preset, digits: Digits) -> None:
    preset = preset_of("slow_vae", small_preset, "transition_weight=4", "transition_rate=2", "beta=3")
    system = system_of(preset)
    assert isinstance(system, SlowVAE)
    batch, noise = batch_of(system, preset, digits), system.draw_noise(6, torch.Generator().manual_seed(2))
    found = system.objective(batch, noise, 1.0)
    expected = torch.zeros(())
    for b in range(6):
        for m in (0, 2):
            q = [system.autoencoder.encode(batch.frames[b, [n]]) for n in (m, m + 1)]
            z = [posterior.sample(noise.normal[b, [m + n]]) for n, posterior in enumerate(q)]
            for n, code in enumerate(z):
                logits = system.autoencoder.decode_logits(code)[0]
                image = batch.frames[b, m + n]
                expected = expected + binary_cross_entropy_with_logits(logits, image, reduction="sum")
            expected = expected + 3 * q[0].kl_to_standard_normal()[0] + 4 * transition_kl(*q, 2.0)[0]
    torch.testing.assert_close(found.loss, expected / 12)


@pytest.mark.parametrize("data", ["digits", "sprites"])
def test_its_frames_are_neighbours(data: str, digits: Digits) -> None:
    dataset = few(digits) if data == "digits" else find_dataset("sprites", None)
    steps = dataset.num_steps
    sampler = dataset.sampler(300, 3, 0.5, torch.Generator().manual_seed(0), neighbours=True)
    plan = sampler.plan()
    times = plan.times
    assert times.shape == (300, 4)
    assert torch.equal(times[:, 1::2], times[:, ::2] + 1)
    assert times[:, ::2].unique().tolist() == list(range(steps))
    batch = sampler.render(plan.share(0, 60))
    assert batch.frames.shape[:2] == (5, 4)
    assert batch.weights.tolist() == [steps / 2] * 4


def test_about_as_many_frames_as_others_have() -> None:
    for random_frames, frames in ((1, 2), (2, 2), (3, 4), (8, 8)):
        assert draw_times(5, 8, random_frames, torch.Generator(), neighbours=True).shape == (5, frames)
        assert frame_weights(8, random_frames, neighbours=True).shape == (frames,)

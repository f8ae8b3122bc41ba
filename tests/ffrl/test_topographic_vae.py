"""The Topographic VAE: rolls inside capsules, the sums of squares that they tie together, and what follows of them."""

import math
from dataclasses import replace

import pytest
import torch

from ffrl.data import Digits
from ffrl.presets import Preset
from ffrl.systems.capsules import roll, roll_along, topographic_sums
from ffrl.systems.topographic_vae import TopographicVAE
from small_systems import batch_of, frames_of, preset_of, system_of


def small(preset: Preset) -> tuple[Preset, TopographicVAE]:
    chosen = preset_of("topographic_vae", preset)
    system = system_of(chosen)
    assert isinstance(system, TopographicVAE)
    return chosen, system


def test_the_roll_stays_inside_each_capsule() -> None:
    code = torch.tensor([1.0, 2, 3, 4, 5, 6])
    assert roll(code, 1, 3).tolist() == [3, 1, 2, 6, 4, 5]
    assert roll(code, -1, 2).tolist() == [2, 1, 4, 3, 6, 5]
    assert roll_along(code[None], 2, 3)[:, 0].tolist() == [[1, 2, 3, 4, 5, 6], [3, 1, 2, 6, 4, 5], [2, 3, 1, 5, 6, 4]]


def test_the_sums_by_brute_force() -> None:
    """(W u²)_t[c, i] = Σ_s Σ_j u_s²[c, i − (t − s) − j]."""
    squares = torch.rand(4, 2, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = topographic_sums(squares, 5).view(4, 2, 2, 5)
    capsules = squares.view(4, 2, 2, 5)
    for t in range(4):
        for i in range(5):
            expected = sum(capsules[s, :, :, (i - (t - s) - j) % 5] for s in range(4) for j in (-1, 0, 1))
            torch.testing.assert_close(found[t, :, :, i], expected)


def test_the_sums_of_one_frame_are_those_of_three_neighbours() -> None:
    squares = torch.tensor([[[1.0, 10.0, 100.0, 1000.0]]])
    assert topographic_sums(squares, 4)[0, 0].tolist() == [1011, 111, 1110, 1101]


def test_what_rolls_on_has_codes_that_roll_on(small_preset: Preset) -> None:
    """With z and u rolled by a place a frame, so is t."""
    _, system = small(small_preset)
    generator = torch.Generator().manual_seed(0)
    z, u = (roll_along(torch.randn(2, 6, generator=generator), 8, 3) for _ in range(2))
    t = system.capsules(z, u.square())
    torch.testing.assert_close(t, roll_along(t[0], 8, 3))


def test_the_scale_of_every_frame_is_a_roll_of_the_first_whatever_u_is() -> None:
    squares = torch.rand(9, 4, 12, generator=torch.Generator().manual_seed(0))
    sums = topographic_sums(squares, 4)
    torch.testing.assert_close(sums, roll_along(sums[0], 8, 4))


def test_its_prior_is_a_students_t(small_preset: Preset) -> None:
    """With μ = 0 the variance of t is E z² · E 1/χ²_ν = 1 / (ν − 2), ν = 3 neighbours · 9 frames, for capsules of 9."""
    preset, system = small(replace(small_preset, latent_dim=9))
    system.preset = replace(preset, capsule_length=9)
    with torch.no_grad():
        system.mean.zero_()
        z, u = torch.randn(2, 9, 20_000, 9, generator=torch.Generator().manual_seed(0))
        t = system.capsules(z, u.square())
    assert t.var().item() == pytest.approx(1 / 25, rel=0.02)


def test_its_path_is_the_roll_of_its_first_code(small_preset: Preset, digits: Digits) -> None:
    _, system = small(small_preset)
    frames = frames_of(digits)
    codes = system.codes(frames)
    path = system.own_path(frames, 0)
    for t in range(9):
        torch.testing.assert_close(path[t].view(3, 2, 3), codes[0].view(3, 2, 3).roll(t, dims=2))
    assert torch.equal(system.own_path(frames, 2), path)


def test_codes_are_those_of_expected_squares(small_preset: Preset, digits: Digits) -> None:
    _, system = small(small_preset)
    frames = frames_of(digits)
    mean, log_variance = system.autoencoder.encode(frames.flatten(0, 1))
    squares = mean[:, 6:] ** 2 + torch.exp(log_variance[:, 6:])
    sums = topographic_sums(squares.view(9, 3, 6), 3)
    expected = (mean[:, :6].view(9, 3, 6) + 30) / torch.sqrt(sums + 1e-6)
    torch.testing.assert_close(system.codes(frames), expected)


def test_the_loss_is_blind_to_k_and_the_mean_over_all_frames(small_preset: Preset, digits: Digits) -> None:
    preset, system = small(small_preset.override(["beta=2"]))
    batch, noise = batch_of(system, preset, digits), system.draw_noise(6, torch.Generator().manual_seed(2))
    found = system.objective(batch, noise, 1.0)
    assert torch.equal(system.objective(replace(batch, index=batch.index.flip(0)), noise, 1.0).loss, found.loss)
    assert batch.sequence is not None
    reconstruction = kl = torch.zeros(())
    for b in range(6):
        mean, log_variance = system.autoencoder.encode(batch.sequence[b])
        sample = mean + torch.exp(0.5 * log_variance) * noise.normal[b]
        sums = topographic_sums(sample[:, None, 6:] ** 2, 3)[:, 0]
        logits = system.autoencoder.decode_logits((sample[:, :6] + 30) / torch.sqrt(sums + 1e-6))
        image = torch.distributions.Bernoulli(logits=logits, validate_args=False)
        reconstruction = reconstruction - image.log_prob(batch.sequence[b]).sum() / 54
        kl = kl + 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum() / 54
    torch.testing.assert_close(found.reconstruction, reconstruction)
    torch.testing.assert_close(found.kl + found.scale_kl, kl)
    torch.testing.assert_close(found.loss, reconstruction + 2 * kl)
    assert math.isclose(system.mean.item(), -30)

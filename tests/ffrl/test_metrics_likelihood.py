"""The joint bound where the likelihood is known in closed form, and the caps that nothing passes."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, MultivariateNormal, Normal

from ffrl.data import DIGIT_FORMAT, Digits, render_sequences
from ffrl.metrics.likelihood import (
    CapPassedError,
    SequenceModel,
    joint_bound,
    log_likelihood_caps,
    of_flow_model,
    refuse_above_cap,
)
from ffrl.models import FlowModel
from ffrl.presets import Preset

DIM, PIXELS, STEPS = 2, 5, 3


class LinearSequences:
    """z_0 ~ N(0, I), z_t = ((1 + k/4) A)ᵗ z_0, x_t ~ N(C z_t, I): all Gaussian, so log p(x_0…x_T | k) is known."""

    def __init__(self, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.decoder = 0.7 * torch.randn(PIXELS, DIM, generator=g, dtype=torch.float64)
        self.turn = torch.eye(DIM, dtype=torch.float64) + 0.3 * torch.randn(DIM, DIM, generator=g, dtype=torch.float64)

    def jacobian(self, k: int) -> Tensor:
        """Of all frames with respect to z_0, ((T + 1)·PIXELS, DIM)."""
        step = (1 + k / 4) * self.turn
        return torch.cat([self.decoder @ torch.linalg.matrix_power(step, t) for t in range(STEPS + 1)])

    def flow(self, z0: Tensor, index: Tensor, steps: int) -> Tensor:
        path = [z0]
        for _ in range(steps):
            path.append((1 + index[:, None] / 4) * (path[-1] @ self.turn.T))
        return torch.stack(path)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """A guess from x_0 alone, too wide."""
        gram = self.decoder.T @ self.decoder + torch.eye(DIM, dtype=torch.float64)
        mean = images @ self.decoder @ torch.linalg.inv(gram)
        return mean, torch.zeros_like(mean) + math.log(0.4)

    def model(self, **changes: Any) -> SequenceModel:
        return SequenceModel(self.encode, self.flow, lambda z: z @ self.decoder.T)._replace(**changes)

    def draw(self, index: Tensor, seed: int = 1) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        z = self.flow(torch.randn(len(index), DIM, generator=g, dtype=torch.float64), index, STEPS)
        return z @ self.decoder.T + torch.randn(STEPS + 1, len(index), PIXELS, generator=g, dtype=torch.float64)

    def log_likelihood(self, frames: Tensor, index: Tensor) -> Tensor:
        """x_0…x_T ~ N(0, G Gᵀ + I)."""
        found = []
        for b, k in enumerate(index.tolist()):
            g = self.jacobian(k)
            covariance = g @ g.T + torch.eye(len(g), dtype=torch.float64)
            found.append(MultivariateNormal(torch.zeros(len(g)).double(), covariance).log_prob(frames[:, b].flatten()))
        return torch.stack(found)


@pytest.fixture(scope="module")
def linear() -> LinearSequences:
    return LinearSequences()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_bound_reaches_the_closed_form(linear: LinearSequences) -> None:
    index = torch.tensor([0, 1, 2, 0, 1, 2])
    frames = linear.draw(index)
    truth = linear.log_likelihood(frames, index)
    found = joint_bound(linear.model(), frames, index, samples=20_000, likelihood="normal", generator=generator())
    # The standard error of log (1/S Σw) is about sqrt(1/effective − 1/S).
    noise = (1 / found.effective - 1 / 20_000).clamp(min=0).sqrt()
    assert ((found.rows - truth).abs() < 4 * noise + 1e-9).all()
    assert noise.max() < 0.05
    one = joint_bound(linear.model(), frames, index, samples=1, likelihood="normal", generator=generator())
    assert (one.rows - truth).abs().max() > 1


def test_it_rises_with_samples_and_stays_below(linear: LinearSequences) -> None:
    """In expectation: means over 400 repetitions of one sequence, each row its own noise."""
    repetitions = 400
    index = torch.ones(1, dtype=torch.int64)
    frames = linear.draw(index)
    truth = linear.log_likelihood(frames, index).item()
    many, rows = index.expand(repetitions), frames.expand(-1, repetitions, -1)
    means, errors = [], []
    for samples in (1, 4, 16, 64):
        found = joint_bound(linear.model(), rows, many, samples=samples, likelihood="normal", generator=generator(3))
        means.append(found.mean)
        errors.append(found.standard_error)
    for i in range(3):
        assert means[i + 1] - means[i] > 2 * math.hypot(errors[i], errors[i + 1])
    for mean, error in zip(means, errors, strict=True):
        assert mean < truth + 3 * error


def test_the_exact_posterior_needs_one_sample() -> None:
    """Where q is p(z_0|x_0…x_T) every weight is p(x_0…x_T) itself."""
    linear = LinearSequences()
    linear.turn = torch.diag(torch.tensor([0.9, 1.2], dtype=torch.float64))
    linear.decoder = torch.linalg.qr(linear.decoder)[0]
    index = torch.tensor([0, 0, 0])
    frames = linear.draw(index)
    g = linear.jacobian(0)
    precision = (g.T @ g).diagonal() + 1

    def posterior(images: Tensor) -> tuple[Tensor, Tensor]:
        mean = frames.transpose(0, 1).flatten(1) @ g / precision
        return mean, -precision.log().expand_as(mean)

    found = joint_bound(
        linear.model(encode=posterior), frames, index, samples=3, likelihood="normal", generator=generator()
    )
    torch.testing.assert_close(found.rows, linear.log_likelihood(frames, index), rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(found.effective, torch.full((3,), 3.0, dtype=torch.float64))


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 300))
def test_chunks_do_not_change_it(rows: int, samples: int, elements: int) -> None:
    linear = LinearSequences()
    index = torch.arange(rows) % 3
    frames = linear.draw(index)
    whole, parts = (
        joint_bound(
            linear.model(),
            frames,
            index,
            samples=samples,
            likelihood="normal",
            generator=generator(),
            elements_at_once=n,
        )
        for n in (2**20, elements)
    )
    torch.testing.assert_close(whole.rows, parts.rows, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(whole.effective, parts.effective, rtol=1e-8, atol=1e-8)


def test_memory_is_bounded(linear: LinearSequences) -> None:
    """No call of the decoder gets more than it may; a sequence is never divided."""
    seen = []

    def decode(z: Tensor) -> Tensor:
        seen.append(len(z) * PIXELS)
        return z @ linear.decoder.T

    index = torch.zeros(7, dtype=torch.int64)
    frames = linear.draw(index)
    one_sequence = (STEPS + 1) * PIXELS
    for elements, most in ((3 * one_sequence, 3 * one_sequence), (20 * one_sequence, 14 * one_sequence), (1, 20)):
        seen.clear()
        joint_bound(
            linear.model(decode=decode),
            frames,
            index,
            samples=11,
            likelihood="normal",
            generator=generator(),
            elements_at_once=elements,
        )
        assert max(seen) == most
        assert sum(seen) == 7 * 11 * one_sequence


def digits_and_model(digits: Digits, preset: Preset) -> tuple[FlowModel, Tensor, Tensor]:
    torch.manual_seed(0)
    model = FlowModel(preset, DIGIT_FORMAT).eval().requires_grad_(False)
    index = torch.tensor([0, 1, 2, 1])
    grey = digits.held_out[:4]
    frames = torch.stack([render_sequences(grey[b : b + 1], int(k))[:, 0] for b, k in enumerate(index)], dim=1)
    return model, frames, index


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal"])
def test_a_flow_model_by_hand(likelihood: Any, digits: Digits, small_preset: Preset) -> None:
    """Sequence by sequence and sample by sample with torch.distributions."""
    model, frames, index = digits_and_model(digits, small_preset)
    found = joint_bound(
        of_flow_model(model, likelihood), frames, index, samples=3, likelihood=likelihood, generator=generator(5)
    )
    g = generator(5)
    noise = torch.stack([torch.randn(4, small_preset.latent_dim, generator=g) for _ in range(3)])
    posterior = model.autoencoder.encode(frames[0])
    for b in range(4):
        sigma = (posterior.log_variance[b] / 2).exp()
        weights = []
        for s in range(3):
            z0 = posterior.mean[b] + sigma * noise[s, b]
            path = model.flow(z0[None], int(index[b]))[:, 0]
            weight = Normal(0.0, 1.0).log_prob(z0).sum() - Normal(posterior.mean[b], sigma).log_prob(z0).sum()
            for t in range(9):
                image = model.autoencoder.decode(path[t])
                given_z = (
                    Normal(image, 1.0).log_prob(frames[t, b])
                    if likelihood == "normal"
                    else Bernoulli(image, validate_args=False).log_prob(frames[t, b])
                )
                weight = weight + given_z.sum()
            weights.append(weight)
        by_hand = torch.stack(weights).double().logsumexp(0) - math.log(3)
        assert found.rows[b].item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert (found.rows < found.caps).all()
    assert found.mean == pytest.approx(found.rows.mean().item())
    assert found.per_frame == pytest.approx(found.mean / 9)
    assert found.cap_per_frame == pytest.approx(found.caps.mean().item() / 9)
    assert found.standard_error == pytest.approx(found.rows.std().item() / 2)
    for part in ("lower bound of log p(x_0…x_8 | k)", "9 frames", "3 importance samples", "not a sum of log p(x_t)"):
        assert part in found.meaning
    assert ("no density of grey images" in found.meaning) == (likelihood == "bernoulli")


def test_caps_of_known_images(digits: Digits) -> None:
    """−½ pixels log 2π: −2161.3 a frame of 3×28×28, −11291.9 of 3×64×64. Bernoulli: the digits' grey entropy."""
    frames = render_sequences(digits.held_out[:50], 1)
    assert (log_likelihood_caps(frames, "normal") / 9).tolist() == pytest.approx([-2161.3] * 50, abs=0.05)
    wide = log_likelihood_caps(torch.zeros(2, 1, 3, 64, 64), "normal") / 2
    assert wide.item() == pytest.approx(-11291.9, abs=0.05)
    x = frames.double().transpose(0, 1).flatten(1)
    entropy = -torch.special.entr(x).sum(1) - torch.special.entr(1 - x).sum(1)
    torch.testing.assert_close(log_likelihood_caps(frames, "bernoulli"), entropy)
    assert log_likelihood_caps((frames > 0.5).float(), "bernoulli").tolist() == [0] * 50


def test_a_perfect_decoder_meets_the_caps_and_none_passes(digits: Digits) -> None:
    frames = render_sequences(digits.held_out[:3], 0)[:1]
    still = SequenceModel(
        lambda images: (images.flatten(1)[:, :2] * 0, images.flatten(1)[:, :2] * 0),
        lambda z0, index, steps: z0.expand(steps + 1, -1, -1),
        lambda z: frames[0].repeat(len(z) // 3, 1, 1, 1),
    )
    index = torch.zeros(3, dtype=torch.int64)
    found = joint_bound(still, frames, index, samples=2, likelihood="normal", generator=generator())
    torch.testing.assert_close(found.rows, found.caps)
    logits = still._replace(decode=lambda z: torch.logit(still.decode(z)).clamp(-100, 100))
    found = joint_bound(logits, frames, index, samples=2, likelihood="bernoulli", generator=generator())
    torch.testing.assert_close(found.rows, found.caps, rtol=1e-5, atol=1e-5)


def test_what_passes_its_cap_is_refused(linear: LinearSequences) -> None:
    with pytest.raises(CapPassedError, match=r"table 3, normal: expected at most -2161\.3 nats, found -2112"):
        refuse_above_cap(-2112.0, -2161.3, "table 3, normal")
    with pytest.raises(CapPassedError, match="found nan"):
        refuse_above_cap(torch.tensor([-9.0, math.nan]), torch.tensor([-5.0, -5.0]), "bound")
    with pytest.raises(CapPassedError, match=r"expected at most -5 nats, found -4\.9"):
        refuse_above_cap(torch.tensor([-9.0, -4.9]), -5.0, "bound")
    refuse_above_cap(torch.tensor([-9.0, -5.0]), -5.0, "bound")
    nan = linear.model(decode=lambda z: z @ linear.decoder.T * torch.nan)
    index = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(CapPassedError, match=r"log Π_t p\(x_t\|z_t\), normal: expected at most .* found nan"):
        joint_bound(nan, linear.draw(index), index, samples=1, likelihood="normal", generator=generator())


def test_one_sequence_has_no_standard_error(linear: LinearSequences) -> None:
    index = torch.zeros(1, dtype=torch.int64)
    found = joint_bound(
        linear.model(), linear.draw(index), index, samples=1, likelihood="normal", generator=generator()
    )
    assert math.isnan(found.standard_error)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.samples = 2  # type: ignore[misc]


def test_unusable_arguments_are_refused(linear: LinearSequences) -> None:
    index = torch.zeros(2, dtype=torch.int64)
    frames = linear.draw(index)
    usual: dict[str, Any] = {
        "frames": frames,
        "index": index,
        "samples": 1,
        "likelihood": "normal",
        "generator": generator(),
    }
    for change, error, message in (
        ({"likelihood": "laplace"}, ValueError, "likelihood: expected 'bernoulli' or 'normal', found 'laplace'"),
        ({"likelihood": "bernoulli"}, ValueError, r"frames: expected values in \[0, 1\]"),
        ({"frames": frames[0]}, ValueError, r"frames: expected shape \(T \+ 1, B, …\), nowhere 0, found \(2, 5\)"),
        ({"frames": frames[:, :0]}, ValueError, r"frames: .*found \(4, 0, 5\)"),
        ({"index": index[:1]}, ValueError, r"index: expected shape \(2,\), found \(1,\)"),
        ({"index": index.int()}, TypeError, "index: expected torch.int64, found torch.int32"),
        ({"samples": 0}, ValueError, "samples: expected at least 1, found 0"),
        ({"elements_at_once": 0}, ValueError, "elements_at_once: expected at least 1, found 0"),
    ):
        with pytest.raises(error, match=message):
            joint_bound(linear.model(), **{**usual, **change})

"""What the table measures of a system, against the measures of flows and against sums made by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from few import few
from ffrl.bounds import NOISE_SEED
from ffrl.data import DigitDataset, Digits
from ffrl.evaluation import equivariance_errors
from ffrl.metrics import likelihood
from ffrl.models import FlowModel
from ffrl.presets import Preset
from ffrl.systems import Comparable, System, build
from ffrl.table import errors as table_errors
from ffrl.table.bound import bound_of_system
from ffrl.table.errors import TransitionErrors, fit_transitions, transition_errors


@pytest.fixture
def data(digits: Digits) -> DigitDataset:
    return few(digits, 12, 7)


def system(preset: Preset, data: DigitDataset, *settings: str) -> System:
    torch.manual_seed(1)
    model = build(preset.override(list(settings)), data.format)
    for parameter in model.parameters():
        parameter.data.mul_(1.5)  # of an untrained model codes and steps are small
    return model.eval().requires_grad_(False)


def test_a_flow_has_the_errors_of_its_evaluation(small_preset: Preset, data: DigitDataset) -> None:
    model = system(small_preset, data)
    assert isinstance(model, FlowModel)
    potentials = (2, 0, 1)
    expected = equivariance_errors(model, data, 5, potentials)
    for k, name in enumerate(data.transformations):
        found = transition_errors(model, data, k, 5, potentials[k])
        assert found.own == pytest.approx(expected[name].flow, rel=1e-6) and found.sequences == 5
        for reference in ("standing_still", "pixel_identity", "black", "reconstruction"):
            assert getattr(found, reference) == pytest.approx(getattr(expected[name], reference), rel=1e-6)
        assert found.counted == "own" and found.ratio == pytest.approx(expected[name].ratio)
        assert abs(found.own / found.standing_still - 1) > 1e-4  # the flow does something


def test_fitted_transitions_by_hand(small_preset: Preset, data: DigitDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_errors, "FITTING_SEQUENCES", 9)
    model = system(small_preset, data, "system=vae")
    k = 1
    found = transition_errors(model, data, k)
    assert found.own is None and found.sequences == 7
    fitted = dict(zip(("constant", "affine"), fit_transitions(model, data, k), strict=True))
    for part, count, prefix in (("held_out", 7, ""), ("train", 9, "training_")):
        frames = data.fixed("held_out" if part == "held_out" else "train", k, 0, count)
        z0 = model.codes(frames)[0]
        for name, transition in fitted.items():
            images = model.decode(transition.path(z0, 8))
            sums = [(frames[t, n] - images[t, n]).abs().sum().item() for t in range(1, 9) for n in range(count)]
            assert getattr(found, f"{prefix}{name}") == pytest.approx(sum(sums) / count, rel=1e-5)
    train = model.codes(data.fixed("train", k, 0, 9)).double()
    step = sum(t * (train[t, n] - train[0, n]) for t in range(1, 9) for n in range(9)) / (
        9 * sum(t * t for t in range(9))
    )
    torch.testing.assert_close(fitted["constant"].path(torch.zeros(1, 6), 1)[1, 0], step.float())


class Pixels(Comparable):
    """Codes are a block of the pixels themselves, and decoding puts them back."""

    supervision, sees = "none", None

    def codes(self, frames: Tensor) -> Tensor:
        return frames.flatten(2)

    def decode(self, codes: Tensor) -> Tensor:
        return codes.unflatten(-1, (3, 28, 28))

    def own_path(self, frames: Tensor, k: int) -> Tensor | None:
        return None

    def log_weights(self, frames: Tensor, k: int, generator: torch.Generator) -> Tensor:
        return frames.new_zeros(frames.shape[1], dtype=torch.float64)


def test_references_of_a_perfect_autoencoder(data: DigitDataset) -> None:
    found = transition_errors(Pixels(), data, 0, 4)
    assert (
        found.reconstruction == 0 and found.standing_still == pytest.approx(found.pixel_identity) and found.own is None
    )
    frames = data.fixed("held_out", 0, 0, 4)
    assert found.black == pytest.approx(frames[1:].sum().item() / 4, rel=1e-5)


ERRORS = TransitionErrors(
    own=None, constant=6.0, affine=5.0, standing_still=10.0, pixel_identity=8.0, black=7.0, reconstruction=3.0,
    training_constant=2.0, training_affine=2.5, sequences=4,
)  # fmt: skip


def test_training_sequences_decide_which_fitted_transition_counts() -> None:
    assert (ERRORS.counted, ERRORS.error, ERRORS.ratio) == ("constant", 6.0, 0.6)
    assert ERRORS.over_pixels == pytest.approx(6 / 7)
    better = replace(ERRORS, training_affine=1.9)
    assert (better.counted, better.error) == ("affine", 5.0)
    own = replace(better, own=9.0)
    assert (own.counted, own.error, own.ratio) == ("own", 9.0, 0.9)


def test_the_bound_of_a_flow_is_the_joint_bound(small_preset: Preset, data: DigitDataset) -> None:
    model = system(small_preset, data)
    assert isinstance(model, FlowModel)
    found = bound_of_system(model, data, "bernoulli", samples=5, count=3, potentials=(2, 0, 1))
    rows, effective = [], []
    for k, potential in enumerate((2, 0, 1)):
        expected = likelihood.joint_bound(
            likelihood.of_flow_model(model, "bernoulli"),
            data.fixed("held_out", k, 0, 3),
            torch.full((3,), potential),
            samples=5,
            likelihood="bernoulli",
            generator=torch.Generator().manual_seed(NOISE_SEED),
        )
        rows.append(expected.rows)
        effective.append(expected.effective)
    torch.testing.assert_close(found.rows, torch.cat(rows), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.effective, torch.cat(effective), rtol=1e-2, atol=0)
    assert found.frames == 9 and found.per_frame == pytest.approx(found.mean / 9)


def test_the_bound_of_independent_frames_is_one_of_log_p(small_preset: Preset, data: DigitDataset) -> None:
    model = system(small_preset, data, "system=vae")
    one, many = (bound_of_system(model, data, "bernoulli", samples, 2).mean for samples in (1, 200))
    assert one < many < 0


class Impossible(Pixels):
    def log_weights(self, frames: Tensor, k: int, generator: torch.Generator) -> Tensor:
        return frames.new_full((frames.shape[1],), 1.0, dtype=torch.float64)


def test_a_bound_above_its_cap_is_refused(data: DigitDataset) -> None:
    with pytest.raises(likelihood.CapPassedError, match="mean of the joint bound with 3 samples: expected at most"):
        bound_of_system(Impossible(), data, "bernoulli", 3, 2)


def test_the_mean_over_samples_is_one_of_weights(data: DigitDataset) -> None:
    class Drawn(Pixels):
        def log_weights(self, frames: Tensor, k: int, generator: torch.Generator) -> Tensor:
            noise = torch.rand(frames.shape[1], dtype=torch.float64, generator=generator)
            return noise - 10_000.0 * (k + 1)

    found = bound_of_system(Drawn(), data, "bernoulli", samples=4, count=2)
    for k in range(3):
        generator = torch.Generator().manual_seed(NOISE_SEED)
        draws = [torch.rand(2, dtype=torch.float64, generator=generator) for _ in range(4)]
        for n in range(2):
            w = [math.exp(draw[n]) for draw in draws]
            assert found.rows[2 * k + n].item() == pytest.approx(math.log(sum(w) / 4) - 10_000.0 * (k + 1), abs=1e-8)
            assert found.effective[2 * k + n].item() == pytest.approx(sum(w) ** 2 / sum(x * x for x in w), rel=1e-6)

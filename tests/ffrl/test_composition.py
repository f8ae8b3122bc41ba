"""The measures of composition on flows whose every error is known by hand."""

import pytest
import torch

from conveyor import STEPS, UNIT, Conveyor, Values
from few import few
from ffrl.composition import composition, extrapolation, superposition, switches
from ffrl.data import DIGIT_FORMAT, Digits, FactorDataset, Sprites
from ffrl.data import dataset as dataset_module
from ffrl.evaluation import equivariance_errors
from ffrl.models import FlowModel
from ffrl.presets import Preset


@pytest.fixture
def data() -> FactorDataset:
    return FactorDataset(Values(), ("a", "b"), STEPS)


def test_an_ideal_flow_has_no_errors_and_references_are_those_of_the_data(data: FactorDataset) -> None:
    found = composition(Conveyor(), data, 1, 50)
    assert list(found.superposition.values) == ["a + b"] and list(found.switch.values) == ["a → b", "b → a"]
    assert not (found.superposition.left_out or found.switch.left_out or found.extrapolation.left_out)
    both = found.superposition.values["a + b"]
    # Standing still misses both channels by t values at t = 1…4.
    assert both.standing_still == pytest.approx(2 * 10 * UNIT, rel=1e-5)
    assert both.pixel_identity == pytest.approx(both.standing_still, rel=1e-6)
    assert (both.flow, both.reconstruction, both.sequences) == (
        pytest.approx(0, abs=1e-5),
        pytest.approx(0, abs=1e-5),
        50,
    )
    for switch in found.switch.values.values():
        # From the middle on, t − 2 = 1, 2 values of one channel.
        for error in (switch.running, switch.restarted):
            assert error.standing_still == pytest.approx(3 * UNIT, rel=1e-5)
            assert error.flow == pytest.approx(0, abs=1e-5)
    for error in found.extrapolation.values.values():
        # t = 5, 6 beside z_4.
        assert error.standing_still == pytest.approx(3 * UNIT, rel=1e-5)
        assert error.ratio == pytest.approx(0, abs=1e-4)


def test_black_is_the_brightness_of_the_true_frames(data: FactorDataset) -> None:
    for name, moves in (("a + b", torch.ones(4, 2, dtype=torch.int64)),):
        (frames,) = data.composed_sequences("held_out", moves, 20)
        black = superposition(Conveyor(), data, 20).values[name].black
        assert black == pytest.approx(frames[1:].double().sum().item() / 20, rel=1e-6)


def test_a_slow_flow_falls_behind_by_hand(data: FactorDataset) -> None:
    found = composition(Conveyor(speed=0.75), data, 1, 20)
    assert found.superposition.values["a + b"].ratio == pytest.approx(0.25, rel=1e-4)
    # 2 steps of a leave ½ behind in a; b falls behind by ¼ and ½ more.
    running = found.switch.values["a → b"].running
    assert running.flow == pytest.approx((2 * 0.5 + 0.25 + 0.5) * UNIT, rel=1e-4)
    assert running.standing_still == pytest.approx((2 * 0.5 + 1 + 2) * UNIT, rel=1e-4)
    # At t = 5, 6 the flow is 5/4, 6/4 behind; what stands still at z_4, which is 1 behind, 2 and 3.
    beyond = found.extrapolation.values["a"]
    assert (beyond.flow, beyond.standing_still) == pytest.approx((2.75 * UNIT, 5 * UNIT), rel=1e-4)


def test_the_clock_runs_on_or_restarts(data: FactorDataset) -> None:
    """Moves by the clock: 1, 2, 3, 4 units at the times 1…4, where the truth moves by 1."""
    found = switches(Conveyor(speed=0.0, drift=1.0), data, 20).values["b → a"]
    # After two steps b is 3 units on, 1 too far. Then a goes on by 3, 7 (running) or 1, 3 (restarted) beside 1, 2.
    assert found.running.flow == pytest.approx((2 * 1 + 2 + 5) * UNIT, rel=1e-4)
    assert found.restarted.flow == pytest.approx((2 * 1 + 0 + 1) * UNIT, rel=1e-4)
    # Later times go on from T: 5 and 6.
    beyond = extrapolation(Conveyor(speed=0.0, drift=1.0), data, 20).values["a"]
    assert beyond.flow == pytest.approx((15 - 5 + 21 - 6) * UNIT, rel=1e-4)


def test_reconstruction_is_the_decoders_own_error(data: FactorDataset) -> None:
    found = composition(Conveyor(blur=0.1), data, 1, 20)
    both = found.superposition.values["a + b"]
    assert both.reconstruction == pytest.approx(4 * 2 * 0.1 * UNIT, rel=1e-3)
    assert both.reconstruction_ratio == pytest.approx(both.reconstruction / both.standing_still)
    assert found.switch.values["a → b"].running.reconstruction == pytest.approx(2 * 2 * 0.1 * UNIT, rel=1e-3)
    assert found.extrapolation.values["b"].reconstruction == pytest.approx(2 * 2 * 0.1 * UNIT, rel=1e-3)


def test_finer_steps_count_from_the_models_own(data: FactorDataset) -> None:
    """With n sub-steps the clock of a step shows (n − 1)/2n more in the mean."""
    found = composition(Conveyor(speed=0.0, drift=1.0), data, 2, 20).finer["a"]
    for error, ahead in ((found.own, 1 / 4), (found.finer, 7 / 16)):
        # Σ_t of what it is ahead at t: Σ_{i ≤ t} (i − 1 + ahead) = 0, 1, 3, 6 and t · ahead.
        assert error == pytest.approx((10 + 10 * ahead) * UNIT, rel=1e-4)
    assert found.ratio == pytest.approx(found.finer / found.own)
    assert composition(Conveyor(speed=0.5), data, 1, 20).finer["b"].ratio == pytest.approx(1)


def test_potentials_stand_for_transformations_in_any_order(data: FactorDataset) -> None:
    straight, crossed = (
        composition(Conveyor(0.75), data, 1, 9),
        composition(Conveyor(0.75, swapped=True), data, 1, 9, (1, 0)),
    )
    assert crossed == straight
    assert composition(Conveyor(0.75, swapped=True), data, 1, 9) != straight


def test_chunking_does_not_matter(digits: Digits, small_preset: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = FlowModel(small_preset, DIGIT_FORMAT).eval().requires_grad_(False)
    model.potentials.theta.mul_(3)
    whole = composition(model, few(digits), model.substeps, 5).as_json()
    monkeypatch.setattr(dataset_module, "ELEMENTS_AT_ONCE", 1)
    parts = composition(model, few(digits), model.substeps, 5).as_json()
    for kind in ("single", "finer"):
        for name, numbers in whole[kind].items():
            assert parts[kind][name] == pytest.approx(numbers, rel=1e-5), (kind, name)
    for kind in ("superposition", "extrapolation"):
        for name, numbers in whole[kind]["values"].items():
            assert parts[kind]["values"][name] == pytest.approx(numbers, rel=1e-5), (kind, name)
    for name, switch in whole["switch"]["values"].items():
        for clock, numbers in switch.items():
            assert parts["switch"]["values"][name][clock] == pytest.approx(numbers, rel=1e-5), (name, clock)
    assert set(whole["superposition"]["values"]) == {"scale + rotate", "scale + colour", "rotate + colour"}
    assert len(whole["switch"]["values"]) == 6 and set(whole["extrapolation"]["values"]) == {
        "scale",
        "rotate",
        "colour",
    }
    assert whole["single"]["scale"]["flow"] == pytest.approx(
        equivariance_errors(model, few(digits), 5)["scale"].flow, rel=1e-5
    )


def test_what_does_not_fit_is_named_and_the_rest_measured(small_preset: Preset) -> None:
    data = FactorDataset(Sprites(), ("scale", "orientation"), 5)
    model = FlowModel(small_preset, data.format).eval().requires_grad_(False)
    found = composition(model, data, model.substeps, 3)
    assert list(found.extrapolation.values) == ["orientation"]
    reason = found.extrapolation.left_out["scale"]
    assert reason == "sprites: expected held-out sequences along which scale goes up by 7 (it has 6 values), found none"
    assert found.extrapolation.as_json(lambda error: {})["left_out"] == {"scale": reason}
    assert list(found.superposition.values) == ["scale + orientation"] and len(found.switch.values) == 2


def test_one_step_has_no_half(small_preset: Preset) -> None:
    data = FactorDataset(Values(), ("a", "b"), 1)
    found = composition(Conveyor(), data, 1, 3)
    assert set(found.switch.left_out) == {"a → b", "b → a"} and set(found.extrapolation.left_out) == {"a", "b"}
    assert "values: expected at least 2 steps, to be halved, found 1" in found.switch.left_out["a → b"]
    assert found.superposition.values["a + b"].ratio == pytest.approx(0, abs=1e-4)

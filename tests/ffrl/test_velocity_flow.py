"""Free velocities: no gradients of anything, and nothing that only a potential has is computed or claimed of them."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from few import few
from ffrl.cli import main
from ffrl.data import DIGIT_FORMAT, Digits, SequenceSampler
from ffrl.density import volume_changes
from ffrl.errors import UserError
from ffrl.models import FlowModel
from ffrl.models.velocity_flow import VelocityFlow
from ffrl.noise import Noise
from ffrl.objective import objective
from ffrl.presets import Preset


@pytest.fixture
def velocity_preset(small_preset: Preset) -> Preset:
    return dataclasses.replace(small_preset, flow="velocity")


def model_of(preset: Preset) -> FlowModel:
    torch.manual_seed(0)
    return FlowModel(preset, DIGIT_FORMAT)


def test_only_a_potential_has_a_symmetric_jacobian(small_preset: Preset, velocity_preset: Preset) -> None:
    asymmetry = []
    for preset in (small_preset, velocity_preset):
        model = model_of(preset).double()

        def step(z: Tensor, model: FlowModel = model) -> Tensor:
            return model.flow(z[None], 1, steps=1)[1, 0] - z

        jacobian = torch.autograd.functional.jacobian(step, torch.randn(6, dtype=torch.float64))
        asymmetry.append(((jacobian - jacobian.T).norm() / jacobian.norm()).item())
    assert asymmetry[0] < 1e-12
    assert asymmetry[1] > 0.3


def test_the_path_by_hand(velocity_preset: Preset) -> None:
    model = model_of(velocity_preset)
    dynamics = model.dynamics
    assert isinstance(dynamics, VelocityFlow)
    z = torch.randn(4, 6)
    index = torch.tensor([2, 0, 0, 1])
    found = model.flow(z, index, steps=3, substeps=2)
    for b, k in enumerate(index.tolist()):
        row = z[b]
        for half in range(6):
            hidden = torch.tanh(row @ dynamics.w1[k] + dynamics.b1[k, 0])
            row = row + 0.5 * (hidden @ dynamics.w2[k] + dynamics.b2[k, 0])
            if half % 2:
                torch.testing.assert_close(found[(half + 1) // 2, b], row)
        torch.testing.assert_close(model.flow(z[b : b + 1], k, steps=3, substeps=2), found[:, b : b + 1])


def test_gates_add_velocities_and_no_clock_is_read(velocity_preset: Preset) -> None:
    model = model_of(velocity_preset)
    z, gates = torch.randn(4, 6), torch.tensor([[1.0, 0.0, 1.0]]).repeat(4, 1)
    both = model.flow(z, gates=gates, steps=1)
    single = [model.flow(z, k, steps=1)[1] - z for k in (0, 2)]
    torch.testing.assert_close(both[1] - z, single[0] + single[1])
    assert torch.equal(model.flow(z, 1, start=7), model.flow(z, 1))


@pytest.mark.parametrize("supervision", ["full", "weak"])
def test_a_training_step_has_no_equation(digits: Digits, velocity_preset: Preset, supervision: str) -> None:
    preset = dataclasses.replace(velocity_preset, supervision=supervision, classifier_width=16)  # type: ignore[arg-type]
    model = model_of(preset)
    sampler = SequenceSampler(
        digits.train, 6, 3, 0.5, torch.Generator().manual_seed(1), whole_sequences=supervision == "weak"
    )
    noise = Noise.draw(preset, DIGIT_FORMAT, 6, torch.Generator().manual_seed(5))
    found = objective(model, sampler.draw(), preset, noise)
    assert found.hj.item() == found.initial.item() == found.flow_kl.item() == 0
    weights = found.k_kl + preset.balance_weight * found.balance
    assert found.loss.item() == pytest.approx((found.reconstruction + found.kl + weights).item(), rel=1e-6)
    found.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("density=exact", "density: expected none with flow velocity, which has no Hessian, found 'exact'"),
        ("time_embedding=sinusoidal", "time_embedding: expected no clock with flow velocity, found 'sinusoidal'"),
        ("collocation_points=2", "collocation_points: expected 0 without an equation .*, found 2"),
        ("random_clock=true", "random_clock: expected false unless time_embedding is sinusoidal, found True"),
        ("initial_weight=1", "initial_weight: expected 0 unless"),
    ],
)
def test_what_only_potentials_have_is_refused(velocity_preset: Preset, change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        velocity_preset.override([change])


def test_asking_for_its_potential_is_an_error(digits: Digits, velocity_preset: Preset) -> None:
    model = model_of(velocity_preset)
    with pytest.raises(UserError, match="flow: expected potential, found velocity"):
        _ = model.potentials
    with pytest.raises(UserError, match="flow: expected potential, found velocity"):
        volume_changes(model, few(digits), 3)


TINY = ("--iterations", "4", "--set", "hidden=16,8", "--set", "latent_dim=4", "--set", "batch_size=6")


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        (["flow=velocity"], {"volume_change", "path_residual"}),
        (["hj_weight=0", "time_embedding=none"], {"path_residual"}),
    ],
)
def test_an_evaluation_says_what_does_not_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], missing: set[str]
) -> None:
    settings = [argument for change in changes for argument in ("--set", change)]
    for command in (
        ["train", "--out", str(tmp_path), *TINY, *settings],
        ["evaluate", str(tmp_path), "--sequences", "10", "--samples", "1"],
    ):
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code in (0, None)
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert set(found["missing"]) == missing
    for name in ("volume_change", "path_residual"):
        assert (found[name] is None) == (name in missing)
        assert (f"{name}: not measured: " in printed) == (name in missing)
    assert found["equivariance_error"]["scale"]["sequences"] == 10

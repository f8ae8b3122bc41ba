"""Flows backwards: solved where they can be, and an honest report where they cannot."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ffrl.data import DIGIT_FORMAT
from ffrl.inversion import MOST_ITERATIONS, TOLERANCE, inverted_path, stepped_back
from ffrl.models import FlowModel
from ffrl.presets import Preset
from ffrl.round_trip import joined, round_trip
from ffrl_fast import PotentialBank, integrate, log_det, potential_field

MOMENTS = torch.arange(1.0, 5.0, dtype=torch.float64)


def bank_of(scale: float, dim: int = 4) -> PotentialBank:
    torch.manual_seed(3)
    bank = PotentialBank(2, dim, width=16, out_activation="identity").double().requires_grad_(False)
    bank.theta.mul_(scale)
    return bank


def there(bank: PotentialBank, rows: int, step: float = 1.0) -> Tensor:
    z0 = torch.randn(rows, bank.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return integrate(z0, MOMENTS, bank, index=1, step=step).z


def smallest_of(bank: PotentialBank, path: Tensor, step: float) -> float:
    found = [log_det(z, t, bank, index=1, step=step, smallest=True) for z, t in zip(path[:-1], MOMENTS, strict=True)]
    return min(one.smallest.min().item() for one in found if one.smallest is not None)


@pytest.mark.parametrize(("scale", "step"), [(1.0, 1.0), (1.2, 1.0), (3.0, 0.05)])
def test_an_invertible_flow_is_inverted(scale: float, step: float) -> None:
    bank = bank_of(scale)
    path = there(bank, 50, step)
    assert smallest_of(bank, path, step) > 0.05
    found = inverted_path(path[-1], MOMENTS, bank, index=1, step=step)
    assert (found.z - path).abs().max() < 1e-8
    assert found.residual.max() <= TOLERANCE * (1 + path.norm(dim=2).max())
    assert found.iterations.shape == found.residual.shape == (4, 50)
    assert found.iterations.max() < 10, "Newton's method converges quadratically"
    stepped = stepped_back(path[-1], MOMENTS, bank, index=1, step=step)
    assert torch.equal(stepped[-1], path[-1])
    assert (stepped[0] - path[0]).norm(dim=1).mean() > 1e3 * (found.z[0] - path[0]).norm(dim=1).mean()


def test_stepping_back_is_the_step_with_the_gradient_where_it_ends() -> None:
    bank = bank_of(1.0)
    end = there(bank, 5)[-1].requires_grad_()
    (gradient,) = torch.autograd.grad(potential_field(end, MOMENTS[3], bank, index=1, backend="reference").u.sum(), end)
    end, expected = end.detach(), end.detach() - 0.5 * gradient
    torch.testing.assert_close(stepped_back(end, MOMENTS[3:], bank, index=1, step=0.5)[0], expected)


def test_a_folding_flow_is_reported() -> None:
    bank = bank_of(6.0)
    path = there(bank, 200)
    assert smallest_of(bank, path, 1.0) < -1
    found = inverted_path(path[-1], MOMENTS, bank, index=1)
    solved = found.z[0].isfinite().all(dim=1)
    returned = (found.z[0] - path[0]).norm(dim=1) < 1e-6
    elsewhere = solved & ~returned
    assert returned.any() and elsewhere.any() and (~solved).any()
    assert found.iterations.max() <= MOST_ITERATIONS
    # Another start leads to the same end, by another way.
    again = integrate(found.z[0][elsewhere], MOMENTS, bank, index=1).z
    assert (again[-1] - path[-1][elsewhere]).abs().max() < 1e-6
    for row in (~solved).nonzero().squeeze(1).tolist():
        stopped = int(found.z[:, row].isnan().any(dim=1).sum()) - 1
        assert found.z[: stopped + 1, row].isnan().all() and found.z[stopped + 1 :, row].isfinite().all()
        assert found.residual[:stopped, row].isnan().all() and (found.iterations[:stopped, row] == 0).all()
        assert found.residual[stopped, row] > TOLERANCE * (1 + found.z[stopped + 1, row].norm())


def test_rows_do_not_depend_on_each_other() -> None:
    bank = bank_of(6.0)
    end = there(bank, 20)[-1]
    together = inverted_path(end, MOMENTS, bank, index=1)
    for row in range(20):
        alone = inverted_path(end[row : row + 1], MOMENTS, bank, index=1)
        torch.testing.assert_close(alone.z[:, 0], together.z[:, row], rtol=0, atol=1e-6, equal_nan=True)


def test_no_rows_and_coarse_numbers() -> None:
    bank = bank_of(1.0)
    assert inverted_path(torch.empty(0, 4, dtype=torch.float64), MOMENTS, bank, index=0).z.shape == (5, 0, 4)
    with pytest.raises(TypeError, match=r"end: expected torch\.float64, found torch\.float32"):
        inverted_path(torch.zeros(1, 4), MOMENTS, bank, index=0)
    with pytest.raises(TypeError, match=r"bank: expected torch\.float64, found torch\.float32"):
        inverted_path(torch.zeros(1, 4, dtype=torch.float64), MOMENTS, bank.float(), index=0)


def model_of(preset: Preset, scale: float) -> FlowModel:
    torch.manual_seed(0)
    model = FlowModel(preset, DIGIT_FORMAT).eval().requires_grad_(False)
    model.potentials.theta.mul_(scale)
    return model


@pytest.mark.parametrize("substeps", [1, 3])
def test_a_round_trip_follows_the_models_flow_and_leaves_the_model_alone(small_preset: Preset, substeps: int) -> None:
    model = model_of(replace(small_preset, substeps=substeps), 1.5)
    z0 = torch.randn(30, 6)
    trip = round_trip(model, z0, 2, 5)
    assert model.potentials.theta.dtype == torch.float32
    assert trip.there.shape == (5 * substeps + 1, 30, 6) and trip.there.dtype == torch.float64
    torch.testing.assert_close(trip.there[::substeps].float(), model.flow(z0, 2, steps=5), rtol=1e-4, atol=1e-5)
    assert trip.moments[substeps].item() == 2 and trip.moments[-1].item() == 5 + (substeps - 1) / substeps
    volume = model.volume_change(z0, 2, steps=5)[2]
    smallest = trip.smallest.unflatten(0, (5, substeps)).amin(dim=1)
    torch.testing.assert_close(smallest.float(), volume, rtol=1e-3, atol=1e-4)
    assert trip.returned.all() and trip.solved.all() and not trip.folding.any()
    assert trip.error.max() < 1e-8 < trip.stepped_error.min()


def test_round_trips_are_joined_row_by_row(small_preset: Preset) -> None:
    model, z0 = model_of(small_preset, 8.0), torch.randn(9, 6)
    whole = round_trip(model, z0, 0, 4)
    parts = joined([round_trip(model, z0[:5], 0, 4), round_trip(model, z0[5:], 0, 4)])
    torch.testing.assert_close(parts.there, whole.there)
    torch.testing.assert_close(parts.smallest, whole.smallest)
    assert torch.equal(parts.folding, (whole.smallest <= 0).any(dim=0)) and whole.folding.any()
    assert torch.equal(parts.returned | (parts.solved & ~parts.returned), parts.solved)

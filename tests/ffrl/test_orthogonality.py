"""Cosines between flows whose directions are known, and those of random directions."""

import math

import pytest
import torch

from conveyor import STEPS, Conveyor, Values
from ffrl.data import FactorDataset
from ffrl.orthogonality import pair_cosines, random_directions


@pytest.fixture
def data() -> FactorDataset:
    return FactorDataset(Values(), ("a", "b"), STEPS)


def test_random_directions_in_closed_form() -> None:
    assert random_directions(1).mean == pytest.approx(1) and random_directions(1).quantile == 1
    assert random_directions(2).mean == pytest.approx(2 / math.pi)
    assert random_directions(3).mean == pytest.approx(1 / 2)
    # In the plane the angle is uniform; in space the cosine is.
    assert random_directions(2).quantile == pytest.approx(math.cos(math.radians(0.05 * 90)))
    assert random_directions(3).quantile == pytest.approx(0.95)


def test_random_directions_are_those_of_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 200_000, 32, generator=generator)
    cosines = torch.nn.functional.cosine_similarity(a, b)
    expected = random_directions(32)
    assert cosines.abs().mean().item() == pytest.approx(expected.mean, rel=0.01)
    assert cosines.abs().quantile(0.95).item() == pytest.approx(expected.quantile, rel=0.01)
    assert cosines.std().item() == pytest.approx(expected.sd, rel=0.01)


def test_flows_of_different_codes_are_orthogonal(data: FactorDataset) -> None:
    gradients, displacements = pair_cosines(Conveyor(speed=0.5), data, (0, 1), 20)
    for found, pairs in ((gradients, 2 * STEPS * 20), (displacements, 20)):
        assert (found.mean, found.mean_absolute, found.sd) == (0, 0, 0)
        assert (found.pairs, found.still) == (pairs, 0)


class Turned(Conveyor):
    """The first flow moves the first code; the second both, and the second code backwards after the first step."""

    def flow(self, z0, index=None, *, gates=None, steps=None, start=0, substeps=None):  # type: ignore[no-untyped-def]
        assert gates is None
        path = [z0]
        for t in range(start + 1, start + steps + 1):
            step = (1.0, 0.0) if index == 0 else (1.0, 1.0) if t == 1 else (1.0, -1.0)
            path.append(path[-1] + torch.tensor(step))
        return torch.stack(path)


def test_angles_are_asked_for_at_the_time_of_each_step(data: FactorDataset) -> None:
    gradients, displacements = pair_cosines(Turned(), data, (0, 1), 10)
    # Always 45 degrees, to one side or to the other.
    assert gradients.mean == pytest.approx(math.sqrt(0.5), rel=1e-5)
    # In all (4, 0) and (4, 1 − 3).
    assert displacements.mean == pytest.approx(4 / math.hypot(4, 2), rel=1e-5)
    swapped, _ = pair_cosines(Turned(), data, (0, 1), 10, (1, 0))
    assert swapped.mean == pytest.approx(gradients.mean, rel=1e-5)


def test_flows_that_stand_still_have_no_direction(data: FactorDataset) -> None:
    gradients, displacements = pair_cosines(Conveyor(speed=0.0), data, (0, 1), 3)
    assert gradients.mean is gradients.mean_absolute is gradients.sd is None
    assert (gradients.pairs, gradients.still) == (0, 2 * STEPS * 3) and displacements.still == 3
    one, _ = pair_cosines(Conveyor(speed=-1.0, drift=1.0), data, (0, 1), 1)
    # Their first step, at t = 1, is 0.
    assert (one.pairs, one.still) == (2 * STEPS - 2, 2)

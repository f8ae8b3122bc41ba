"""What all data sets have in common: samplers in shares, fixed sequences in chunks, and what a preset asks of them."""

from dataclasses import replace

import pytest
import torch

from few import few
from ffrl.data import Dataset, Digits, Factor, FactorDataset, FactorImages, find_dataset, render_sequences
from ffrl.data import dataset as dataset_module
from ffrl.errors import UserError
from ffrl.presets import PRESETS, Preset, find_preset


class Numbered(FactorImages):
    """Each image is one grey value, the number of its state."""

    name = "numbered"
    factors = (Factor("a", 5), Factor("b", 4), Factor("angle", 6, cyclic=True))
    image_shape = (1, 2, 2)

    def images(self, states: torch.Tensor) -> torch.Tensor:
        values = states @ torch.tensor([24, 6, 1])
        return values.to(torch.uint8)[:, None, None, None].expand(-1, *self.image_shape)

    def checksum(self) -> str:
        return "numbered"


@pytest.fixture(params=["digits", "numbered"])
def data(request: pytest.FixtureRequest, digits: Digits) -> Dataset:
    return few(digits) if request.param == "digits" else FactorDataset(Numbered(), ("a", "angle"), 3)


def draws(data: Dataset, batch_size: int = 12, frames: int = 2, seed: int = 0, whole: bool = False):  # type: ignore[no-untyped-def]
    return data.sampler(batch_size, frames, 0.5, torch.Generator().manual_seed(seed), whole)


def test_batches_have_the_promised_shapes_and_weights(data: Dataset) -> None:
    sampler = draws(data)
    batch = sampler.render(sampler.plan())
    assert batch.frames.shape == (12, 3, *data.image_shape)
    assert batch.frames.dtype == torch.float32 and batch.frames.min() >= 0 and batch.frames.max() <= 1
    assert (batch.times[:, 0] == 0).all() and batch.times.max() <= data.num_steps
    assert batch.weights.sum().item() == pytest.approx(data.num_steps + 1)
    assert batch.index.bincount().tolist() == [12 // len(data.transformations)] * len(data.transformations)


def test_shares_of_a_plan_are_its_rows(data: Dataset) -> None:
    sampler = draws(data)
    plan = sampler.plan()
    whole = sampler.render(plan)
    for number in range(2):
        part = sampler.render(plan.share(number, 2))
        assert torch.equal(part.frames, whole.frames[number::2])
        assert torch.equal(part.index, whole.index[number::2])


def test_one_transformation_a_batch(data: Dataset) -> None:
    sampler = data.sampler(12, 2, 0.5, torch.Generator().manual_seed(0), one_transformation=True)
    batches = [sampler.render(sampler.plan()).index for _ in range(20)]
    assert all(index.shape == (12,) and index.unique().numel() == 1 for index in batches)
    assert {int(index[0]) for index in batches} == set(range(len(data.transformations)))


def test_whole_sequences_hold_the_frames_drawn(data: Dataset) -> None:
    plain, whole = draws(data), draws(data, whole=True)
    expected, found = plain.render(plain.plan()), whole.render(whole.plan())
    assert found.sequence is not None and found.sequence.shape[1] == data.num_steps + 1
    assert torch.equal(found.frames, expected.frames)
    rows = torch.arange(12)[:, None]
    assert torch.equal(found.sequence[rows, found.times], found.frames)


def test_state_continues_the_draws(data: Dataset) -> None:
    first, second = draws(data), draws(data, seed=9)
    first.plan()
    second.load_state_dict(first.state_dict())
    expected, found = first.render(first.plan()), second.render(second.plan())
    assert torch.equal(found.frames, expected.frames) and torch.equal(found.times, expected.times)


@pytest.mark.parametrize("part", ["train", "held_out"])
def test_chunks_are_the_fixed_sequences(data: Dataset, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    k, count = 1, data.count(part, 1)  # type: ignore[arg-type]
    (whole,) = data.sequences(part, k)  # type: ignore[arg-type]
    assert whole.shape == (data.num_steps + 1, count, *data.image_shape)
    one = whole[:, 0].numel()
    monkeypatch.setattr(dataset_module, "ELEMENTS_AT_ONCE", 3 * one)
    chunks = list(data.sequences(part, k))  # type: ignore[arg-type]
    assert all(chunk.numel() <= 3 * one for chunk in chunks)
    assert torch.equal(torch.cat(chunks, dim=1), whole)
    few_only = torch.cat(list(data.sequences(part, k, 2)), dim=1)  # type: ignore[arg-type]
    assert torch.equal(few_only, whole[:, :2])
    with pytest.raises(ValueError, match="count: expected at least 1 sequence, found 0"):
        list(data.sequences(part, k, 0))  # type: ignore[arg-type]


def test_fixed_digits_start_from_the_plain_digit(digits: Digits) -> None:
    (found,) = few(digits).sequences("held_out", 2, 3)
    assert torch.equal(found, render_sequences(digits.held_out[:3], 2))


def test_fixed_sequences_of_factors_move_one_factor() -> None:
    data = FactorDataset(Numbered(), ("a", "angle"), 3)
    (frames,) = data.sequences("held_out", 0)
    values = (frames[:, :, 0, 0, 0] * 255).round()
    assert (values.diff(dim=0) == 24).all()
    (frames,) = data.sequences("held_out", 1)
    values = (frames[:, :, 0, 0, 0] * 255).round()
    assert torch.isin(values.diff(dim=0), torch.tensor([1.0, -5.0])).all()


def test_a_sampler_of_factors_wants_frames_that_there_are() -> None:
    with pytest.raises(ValueError, match="random_frames: expected 1 to 3, found 4"):
        draws(FactorDataset(Numbered(), ("a",), 3), frames=4)


@pytest.mark.parametrize(
    ("name", "data_name"), [("mnist-paper", "digits"), ("shapes", "shapes"), ("sprites", "sprites")]
)
def test_presets_fit_the_data_they_are_for(name: str, data_name: str) -> None:
    find_preset(name).require_fit(find_dataset(data_name))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_of_the_paper_fit_sizes_and_steps_of_its_sets(name: str) -> None:
    sides = {
        "mnist-paper": (28, 8, 3),
        "shapes3d-paper": (64, 7, 5),
        "falcor3d-paper": (128, 4, 7),
        "isaac3d-paper": (128, 3, 8),
    }
    if name in sides:
        side, steps, count = sides[name]
        data = few_of(side, steps, count)
        preset = find_preset(name)
        preset.require_fit(data)
        assert preset.random_frames == steps, "all frames are decoded"
        assert (preset.batch_size, preset.learning_rate, preset.potential_output) == (128, 1e-4, "tanh")


def few_of(side: int, steps: int, count: int) -> Dataset:
    class Empty(FactorImages):
        name = "empty"
        factors = tuple(Factor(str(k), steps + 1) for k in range(count))
        image_shape = (3, side, side)

        def images(self, states: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(states), *self.image_shape, dtype=torch.uint8)

        def checksum(self) -> str:
            return "empty"

    return FactorDataset(Empty(), tuple(str(k) for k in range(count)), steps)


@pytest.mark.parametrize(
    ("changes", "side", "message"),
    [
        ({"batch_size": 2}, 28, "batch_size: expected at least 3, a row for each transformation of empty, found 2"),
        ({"random_frames": 5}, 28, "random_frames: expected at most 4, the steps of empty, found 5"),
        ({"autoencoder": "conv"}, 128, "side is a multiple of 4, at most 64, found 128x128 in empty"),
        ({"autoencoder": "conv"}, 30, "side is a multiple of 4, at most 64, found 30x30 in empty"),
        ({"autoencoder": "conv_large"}, 28, "side is a multiple of 16, at most 128, found 28x28 in empty"),
    ],
)
def test_a_preset_that_does_not_fit_says_so(changes: dict[str, object], side: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(Preset(), **changes).require_fit(few_of(side, 4, 3))  # type: ignore[arg-type]

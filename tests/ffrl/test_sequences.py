"""The sampler of training batches."""

import pytest
import torch

from ffrl.data import NUM_STEPS, Digits, SequenceSampler, render


def sampler(grey: torch.Tensor, batch_size: int = 12, random_start: float = 0.5, seed: int = 0) -> SequenceSampler:
    return SequenceSampler(grey, batch_size, 3, random_start, torch.Generator().manual_seed(seed))


def test_rows_are_equal_per_transformation_and_frames_distinct(digits: Digits) -> None:
    batch = sampler(digits.train).draw()
    assert batch.index.bincount().tolist() == [4, 4, 4]
    assert batch.frames.shape == (12, 4, 3, 28, 28)
    assert (batch.times[:, 0] == 0).all()
    for times in batch.times[:, 1:].tolist():
        assert len(set(times)) == 3
        assert set(times) <= set(range(1, NUM_STEPS + 1))


def test_a_remainder_is_shared_out_at_random(digits: Digits) -> None:
    draws = sampler(digits.train, batch_size=8)
    counts = [tuple(draws.draw().index.bincount(minlength=3).tolist()) for _ in range(20)]
    assert set(counts) == {(3, 3, 2), (3, 2, 3), (2, 3, 3)}


def test_weighted_frames_count_as_all_frames(digits: Digits) -> None:
    assert sampler(digits.train).draw().weights.sum().item() == pytest.approx(NUM_STEPS + 1)


def test_every_epoch_shows_every_digit_once() -> None:
    grey = torch.arange(24, dtype=torch.uint8)[:, None, None].expand(24, 28, 28)
    draws = sampler(grey, batch_size=6, random_start=0.0)
    seen = [int(value) for _ in range(4) for value in (draws.draw().frames[:, 0, 0, 14, 14] * 255).round().tolist()]
    assert sorted(seen) == list(range(24))


def test_without_random_start_frames_are_those_of_the_plain_sequence(digits: Digits) -> None:
    grey = digits.train[:1]
    batch = sampler(grey, batch_size=3, random_start=0.0).draw()
    for row, k in enumerate(batch.index.tolist()):
        states = torch.zeros(4, 3)
        states[:, k] = batch.times[row].float()
        torch.testing.assert_close(batch.frames[row], render(grey.expand(4, 28, 28), states))


def test_random_start_moves_the_other_factors_and_never_its_own(digits: Digits) -> None:
    """Colour at t = 0 is red in every row of transformation colour, and not in all rows of the others."""
    batch = sampler(digits.train, batch_size=96, random_start=1.0).draw()
    only_red = batch.frames[:, 0, 1:].amax(dim=(1, 2, 3)) == 0
    assert only_red[batch.index == 2].all()
    assert not only_red[batch.index != 2].all()


def test_state_continues_the_draws(digits: Digits) -> None:
    first = sampler(digits.train)
    first.draw()
    state = first.state_dict()
    expected = first.draw()
    second = sampler(digits.train, seed=99)
    second.load_state_dict(state)
    found = second.draw()
    assert torch.equal(found.frames, expected.frames)
    assert torch.equal(found.times, expected.times)


def test_fewer_digits_than_a_batch() -> None:
    assert sampler(torch.zeros(5, 28, 28, dtype=torch.uint8)).draw().frames.shape[0] == 12


@pytest.mark.parametrize(
    ("batch_size", "random_frames", "random_start", "message"),
    [(0, 3, 0.5, "batch_size"), (12, 9, 0.5, "random_frames"), (12, 3, 1.5, "random_start")],
)
def test_wrong_arguments_are_named(batch_size: int, random_frames: int, random_start: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SequenceSampler(torch.zeros(5, 28, 28), batch_size, random_frames, random_start, torch.Generator())

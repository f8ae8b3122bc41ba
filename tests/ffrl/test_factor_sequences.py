"""Sequences in which one factor moves, and what is held out of training."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from ffrl.data import DSprites, Factor, FactorImages, FactorSequences
from ffrl.data.factor_sequences import HELD_OUT_SHARE, Part, held_out_lines
from ffrl.data.factors import rows_of
from ffrl.errors import UserError
from samples import write_dsprites


class Numbers(FactorImages):
    """Images of one pixel in three channels that spell the row number."""

    name = "numbers"
    image_shape = (3, 1, 1)

    def __init__(self, *factors: Factor) -> None:
        self.factors = factors

    def images(self, states: Tensor) -> Tensor:
        rows = rows_of(states, self.sizes)
        return torch.stack([rows // 65_536, rows // 256 % 256, rows % 256], dim=1).to(torch.uint8)[:, :, None, None]

    def checksum(self) -> str:
        return "numbers"


NUMBERS = Numbers(
    Factor("kind", 2),
    Factor("turn", 9, cyclic=True, period=8),
    Factor("size", 6),
    Factor("hue", 10, cyclic=True),
    Factor("x", 12),
)
MOVING = ("turn", "size", "x")


def sequences(
    part: Part = "train",
    *,
    images: FactorImages = NUMBERS,
    moving: Sequence[str] = MOVING,
    num_steps: int = 5,
    seed: int = 0,
) -> FactorSequences:
    return FactorSequences(images, moving, num_steps, part, torch.Generator().manual_seed(seed))


def require_one_moving_factor(drawn: FactorSequences, index: Tensor, states: Tensor) -> None:
    steps = states.diff(dim=1)
    for row, k in enumerate(index.tolist()):
        column = drawn.images.column(drawn.moving[k])
        factor = drawn.images.factors[column]
        others = [other for other in range(states.shape[2]) if other != column]
        assert (steps[row][:, others] == 0).all()
        values = states[row, :, column]
        expected = values[0] + torch.arange(drawn.num_steps + 1)
        if factor.cyclic:
            expected %= factor.distinct
        assert torch.equal(values, expected)
        assert int(values.max()) < factor.size


@pytest.mark.parametrize("part", ["train", "held_out"])
def test_exactly_one_factor_moves_by_one_value_a_step(part: Part) -> None:
    drawn = sequences(part)
    batch = drawn.draw(600)
    assert batch.states.shape == (600, 6, 5)
    assert batch.states.dtype == torch.int64
    require_one_moving_factor(drawn, batch.index, batch.states)


@given(st.data())
def test_exactly_one_factor_moves_for_factors_of_any_size(data: st.DataObject) -> None:
    num_steps = data.draw(st.integers(1, 4))
    factors = []
    for name in "abcd":
        cyclic = data.draw(st.booleans())
        size = data.draw(st.integers(2 if cyclic else num_steps + 1, 7))
        factors.append(Factor(name, size, cyclic, data.draw(st.integers(2, size)) if cyclic else None))
    moving = data.draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True))
    images = Numbers(*factors)
    try:
        train = sequences("train", images=images, moving=moving, num_steps=num_steps)
    except UserError as error:
        # Held-out lines of few long factors can cross every line that there is.
        assert "expected enough combinations" in str(error)
        assume(False)
    held_out = sequences("held_out", images=images, moving=moving, num_steps=num_steps)
    batches = [drawn.draw(30) for drawn in (train, held_out)]
    for drawn, batch in zip((train, held_out), batches, strict=True):
        require_one_moving_factor(drawn, batch.index, batch.states)
    trained, unseen = (set(rows_of(batch.states, images.sizes).flatten().tolist()) for batch in batches)
    assert not trained & unseen


def test_cyclic_factors_wrap_after_their_period() -> None:
    """The ninth turn shows the first again, so that the eighth is followed by the first, and the ninth never shown."""
    drawn = sequences(moving=("turn",))
    turns = drawn.draw(400).states[:, :, 1]
    assert set(turns.flatten().tolist()) == set(range(8))
    assert (turns.diff(dim=1).unique().tolist()) == [-7, 1]


def test_cyclic_factors_may_go_round_more_than_once() -> None:
    batch = sequences(moving=("turn",), num_steps=20).draw(10)
    assert torch.equal(batch.states[:, 8:], batch.states[:, :13])


def test_starts_cover_every_value_that_leaves_room() -> None:
    drawn = sequences(num_steps=5)
    batch = drawn.draw(3000)
    starts = batch.states[:, 0]
    assert set(starts[batch.index == 0, 1].tolist()) == set(range(8))
    assert set(starts[batch.index == 1, 2].tolist()) == {0}
    assert set(starts[batch.index == 2, 4].tolist()) == set(range(7))
    assert set(starts[batch.index == 0, 3].tolist()) == set(range(10))
    assert set(starts[batch.index == 0, 0].tolist()) == {0, 1}


def test_counts_are_those_of_all_starts_that_avoid_the_held_out_lines() -> None:
    """By looking at every possible start one by one."""
    factors = NUMBERS.factors
    lines = held_out_lines(factors, [1, 2, 4])
    held_out = torch.stack(lines).any(dim=0)
    train, unseen = sequences("train"), sequences("held_out")
    for k, column in enumerate([1, 2, 4]):
        counts = {"train": 0, "held_out": 0}
        factor = factors[column]
        for start in torch.cartesian_prod(*(torch.arange(factor.distinct) for factor in factors)).tolist():
            values = [start[column] + step for step in range(6)]
            if not factor.cyclic and values[-1] >= factor.size:
                continue
            visited = [(*start[:column], value % factor.distinct, *start[column + 1 :]) for value in values]
            counts["train"] += not any(held_out[state] for state in visited)
            counts["held_out"] += all(lines[k][state] for state in visited)
        assert (train.count(k), unseen.count(k)) == (counts["train"], counts["held_out"])


def test_no_frame_of_any_held_out_sequence_is_in_any_trained_one() -> None:
    train, unseen = sequences("train"), sequences("held_out")
    shown = [
        {
            int(row)
            for k in range(len(MOVING))
            for row in rows_of(drawn.fixed(k, drawn.count(k)).states, NUMBERS.sizes).flatten()
        }
        for drawn in (train, unseen)
    ]
    assert not shown[0] & shown[1]
    assert len(shown[0]) > 0.5 * 2 * 8 * 6 * 10 * 12
    assert len(shown[1]) > 0.5 * HELD_OUT_SHARE * 2 * 8 * 6 * 10 * 12


def test_split_never_changes() -> None:
    lines = torch.stack(held_out_lines(NUMBERS.factors, [1, 2, 4]))
    assert lines.sum(dim=(1, 2, 3, 4, 5)).tolist() == [19 * 8, 26 * 6, 13 * 12]
    assert (
        hashlib.sha256(lines.numpy().tobytes()).hexdigest()
        == "7907e17eefaa9334b2fda83963ba6a649a969246ebc9f96260833295338d2798"
    )


def test_split_does_not_depend_on_the_order_of_the_moving_factors() -> None:
    one, other = (held_out_lines(NUMBERS.factors, columns) for columns in ([1, 2, 4], [4, 1, 2]))
    assert torch.equal(torch.stack(one), torch.stack(other).roll(-1, dims=0))


def test_lines_are_whole() -> None:
    for mask, column in zip(held_out_lines(NUMBERS.factors, [1, 2, 4]), [1, 2, 4], strict=True):
        assert torch.equal(mask.any(dim=column), mask.all(dim=column))


def test_rows_are_equal_for_each_factor() -> None:
    assert sequences().draw(12).index.bincount().tolist() == [4, 4, 4]
    assert sorted(sequences().draw(10).index.bincount().tolist()) == [3, 3, 4]
    drawn = sequences()
    assert {int(drawn.draw(1).index) for _ in range(40)} == {0, 1, 2}


def test_fixed_sequences_are_different_and_always_the_same() -> None:
    drawn = sequences("held_out", seed=1)
    before = drawn.generator.get_state()
    batch = drawn.fixed(2, 20)
    assert torch.equal(drawn.generator.get_state(), before)
    assert torch.equal(batch.states, sequences("held_out", seed=2).fixed(2, 20).states)
    assert torch.equal(batch.states[:7], drawn.fixed(2, 7).states)
    assert len(batch.states[:, 0].unique(dim=0)) == 20
    assert (batch.index == 2).all()
    assert len(drawn.fixed(2, 10**9).states) == drawn.count(2)


def test_frames_are_the_images_of_states() -> None:
    drawn = sequences()
    states = drawn.draw(6).states
    frames = drawn.frames(states)
    assert frames.shape == (6, 6, 3, 1, 1)
    weights = torch.tensor([65_536, 256, 1])
    assert torch.equal((frames[..., 0, 0].to(torch.int64) * weights).sum(dim=-1), rows_of(states, NUMBERS.sizes))
    assert torch.equal(drawn.frames(states[:, [0, 3]]), frames[:, [0, 3]])


def test_frames_of_a_file(tmp_path: Path) -> None:
    data = DSprites(write_dsprites(tmp_path / "sprites.npz"))
    drawn = FactorSequences(data, ("scale", "orientation"), 2, "train", torch.Generator().manual_seed(0))
    states = drawn.draw(4).states
    assert torch.equal(drawn.frames(states)[2, 1], data.images(states[2, 1:2])[0])


def test_state_continues_the_draws() -> None:
    first = sequences()
    first.draw(7)
    state = first.state_dict()
    expected = [first.draw(7), first.draw(5)]
    second = sequences(seed=99)
    second.load_state_dict(state)
    for batch in expected:
        found = second.draw(len(batch.index))
        assert torch.equal(found.index, batch.index)
        assert torch.equal(found.states, batch.states)


def test_same_seed_same_draws_other_seed_others() -> None:
    one, same, other = (sequences(seed=seed).draw(30).states for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("factor", "num_steps", "message"),
    [
        (Factor("x", 5), 5, r"expected at least 6 values of x \(not cyclic\) to move 5 steps, found 5"),
        (Factor("x", 1, cyclic=True), 5, r"expected at least 2 values of x \(cyclic\) to move 5 steps, found 1"),
    ],
)
def test_factors_without_room_are_refused(factor: Factor, num_steps: int, message: str) -> None:
    images = Numbers(Factor("a", 9), Factor("b", 9), factor)
    with pytest.raises(UserError, match=f"numbers: {message}"):
        sequences(images=images, moving=("x",), num_steps=num_steps)


def test_too_few_combinations_are_refused() -> None:
    images = Numbers(Factor("x", 6), Factor("y", 6))
    with pytest.raises(UserError, match=r"numbers: expected enough combinations .* too few for x to move 5 steps"):
        sequences(images=images, moving=("x", "y"), num_steps=5)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="num_steps: expected at least 1, found 0"):
        sequences(num_steps=0)
    with pytest.raises(ValueError, match=r"moving: expected different names of factors.*\['x', 'x'\]"):
        sequences(moving=("x", "x"))
    with pytest.raises(ValueError, match="moving: expected different names"):
        sequences(moving=())
    with pytest.raises(ValueError, match=r"factor: expected one of .*found 'z'"):
        sequences(moving=("z",))
    with pytest.raises(ValueError, match="part: expected train or held_out, found 'test'"):
        sequences("test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size: expected at least 1, found 0"):
        sequences().draw(0)

"""True sequences along which several transformations move: their states, their starts, and what has no room."""

import pytest
import torch
from torch import Tensor

from few import few
from ffrl.data import Dataset, Digits, Factor, FactorDataset, FactorImages, Sprites, render
from ffrl.data import dataset as dataset_module
from ffrl.data.factor_sequences import held_out_lines
from ffrl.errors import NoRoomError


class States(FactorImages):
    """Images of one pixel in three channels that show the values of the three factors."""

    name = "states"
    factors = (Factor("x", 9), Factor("y", 7), Factor("angle", 7, cyclic=True, period=6))
    image_shape = (3, 1, 1)

    def images(self, states: Tensor) -> Tensor:
        self.require_states(states)
        return states.to(torch.uint8)[:, :, None, None]

    def checksum(self) -> str:
        return "states"


MOVING = ("x", "angle", "y")
COLUMNS = [0, 2, 1]


@pytest.fixture
def states() -> FactorDataset:
    return FactorDataset(States(), MOVING, 3)


def shown(data: FactorDataset, part: str, moves: Tensor) -> Tensor:
    """The states of all sequences, (S + 1, N, 3)."""
    frames = torch.cat(list(data.composed_sequences(part, moves)), dim=1)  # type: ignore[arg-type]
    return (frames[..., 0, 0] * 255).round().to(torch.int64)


def test_digits_move_state_by_state_from_the_plain_digit(digits: Digits) -> None:
    moves = torch.tensor([[1, 0, 2], [0, 5, 0], [9, 0, 1]])
    (found,) = few(digits).composed_sequences("held_out", moves, 4)
    states = torch.tensor([[0, 0, 0], [1, 0, 2], [1, 5, 2], [10, 5, 3]])
    for t, state in enumerate(states):
        assert torch.equal(found[t], render(digits.held_out[:4], state.repeat(4, 1)))


@pytest.mark.parametrize("part", ["train", "held_out"])
def test_one_that_moves_by_one_has_its_fixed_sequences(part: str, digits: Digits, states: FactorDataset) -> None:
    for data in (few(digits), states):
        for k in range(len(data.transformations)):
            moves = torch.zeros(data.num_steps, len(data.transformations), dtype=torch.int64)
            moves[:, k] = 1
            found = torch.cat(list(data.composed_sequences(part, moves)), dim=1)  # type: ignore[arg-type]
            expected = torch.cat(list(data.sequences(part, k)), dim=1)  # type: ignore[arg-type]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
            assert data.count_composed(part, moves) == data.count(part, k)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["train", "held_out"])
def test_starts_are_all_that_the_part_allows(part: str, states: FactorDataset) -> None:
    """By looking at every state one by one."""
    moves = torch.tensor([[1, 1, 0], [0, 4, 0], [2, 3, 0]])
    lines = held_out_lines(States.factors, COLUMNS)
    expected = set()
    for start in torch.cartesian_prod(torch.arange(9), torch.arange(7), torch.arange(6)).tolist():
        x, y, angle = start
        path = [start, [x + 1, y, (angle + 1) % 6], [x + 1, y, (angle + 5) % 6], [x + 3, y, (angle + 8) % 6]]
        if x + 3 > 8:
            continue
        if part == "train":
            allowed = not any(line[tuple(state)] for line in lines for state in path)
        else:
            # y does not move: its held-out lines are no place to start from.
            allowed = bool(lines[0][x, y, angle] or lines[1][x, y, angle])
        if allowed:
            expected.add(tuple(map(tuple, path)))
    found = shown(states, part, moves)
    assert {tuple(map(tuple, path)) for path in found.movedim(1, 0).tolist()} == expected
    assert found.shape[1] == len(expected) > 0


def test_order_never_changes_and_chunks_are_its_parts(
    digits: Digits, states: FactorDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    data: Dataset
    for data in (few(digits), states):
        moves = torch.tensor([[1, 1, 0], [0, 1, 1]])
        (whole,) = data.composed_sequences("held_out", moves)
        monkeypatch.setattr(dataset_module, "ELEMENTS_AT_ONCE", 2 * whole[:, 0].numel())
        chunks = list(data.composed_sequences("held_out", moves))
        assert len(chunks) > 1 and all(chunk.shape[1] <= 2 for chunk in chunks)
        torch.testing.assert_close(torch.cat(chunks, dim=1), whole, rtol=0, atol=1e-6)
        three = torch.cat(list(data.composed_sequences("held_out", moves, 3)), dim=1)
        torch.testing.assert_close(three, whole[:, :3], rtol=0, atol=1e-6)
        monkeypatch.undo()


def test_no_room_is_named() -> None:
    data = FactorDataset(Sprites(), ("scale", "x"), 5)
    moves = torch.ones(6, 2, dtype=torch.int64)
    message = (
        r"sprites: expected held-out sequences along which scale goes up by 6 \(it has 6 values\) and x goes up by 6 \("
    )
    with pytest.raises(NoRoomError, match=message):
        data.count_composed("held_out", moves)
    with pytest.raises(NoRoomError, match="sprites: expected trained sequences along which scale goes up by 600"):
        list(data.composed_sequences("train", torch.tensor([[600, 0]])))


@pytest.mark.parametrize(
    ("moves", "message"),
    [
        (torch.ones(2, 2, dtype=torch.int64), r"moves: expected int64 \(S, 3\) with S ≥ 1, found torch.int64 \(2, 2\)"),
        (torch.ones(0, 3, dtype=torch.int64), r"moves: expected int64 \(S, 3\) with S ≥ 1"),
        (torch.ones(2, 3), r"moves: expected int64 \(S, 3\) with S ≥ 1, found torch.float32"),
        (torch.tensor([[1, 0, -1]]), r"moves: expected numbers ≥ 0, some of them above, found \[\[1, 0, -1\]\]"),
        (torch.zeros(2, 3, dtype=torch.int64), "moves: expected numbers ≥ 0, some of them above"),
    ],
)
def test_wrong_moves_are_named(moves: Tensor, message: str, digits: Digits, states: FactorDataset) -> None:
    for data in (few(digits), states):
        with pytest.raises(ValueError, match=message):
            data.composed("held_out", moves, 0, 1)
        with pytest.raises(ValueError, match=message):
            data.count_composed("held_out", moves)

"""States, rows and what an address of images has to be."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffrl.data import Factor, Sprites
from ffrl.data.factors import file_checksum, rows_of, states_of

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=6)


@given(SIZES)
def test_rows_are_numbered_with_the_last_factor_fastest(sizes: list[int]) -> None:
    combinations = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).reshape(-1, len(sizes))
    rows = torch.arange(len(combinations))
    assert torch.equal(rows_of(combinations, sizes), rows)
    assert torch.equal(states_of(rows, sizes), combinations)


def test_distinct_values_of_a_factor() -> None:
    assert Factor("x", 4).distinct == 4
    assert Factor("hue", 10, cyclic=True).distinct == 10
    assert Factor("orientation", 40, cyclic=True, period=39).distinct == 39


@pytest.mark.parametrize(
    ("size", "cyclic", "period", "message"),
    [
        (0, False, None, "factor x: expected a size of at least 1, found 0"),
        (4, False, 3, "factor x: expected a period of 1 to 4, and only if cyclic, found 3"),
        (4, True, 5, "factor x: expected a period of 1 to 4, and only if cyclic, found 5"),
    ],
)
def test_impossible_factors_are_refused(size: int, cyclic: bool, period: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Factor("x", size, cyclic, period)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (torch.zeros(2, 6), r"states: expected int64 \(N, 6\), found torch.float32 \(2, 6\)"),
        (torch.zeros(2, 5, dtype=torch.int64), r"states: expected int64 \(N, 6\), found torch.int64 \(2, 5\)"),
        (torch.tensor([[0, 0, 6, 0, 0, 0]]), r"states: expected scale within 0…5, found 6…6"),
        (torch.tensor([[0, 0, 0, 0, 0, -1]]), r"states: expected y within 0…31, found -1…-1"),
    ],
)
def test_wrong_states_are_named(states: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sprites().images(states)


def test_no_states_give_no_images() -> None:
    assert Sprites().images(torch.empty(0, 6, dtype=torch.int64)).shape == (0, 1, 64, 64)


def test_columns_are_found_by_name() -> None:
    assert Sprites().column("orientation") == 3
    with pytest.raises(ValueError, match=r"factor: expected one of colour, shape, .*, found 'hue'"):
        Sprites().column("hue")


def test_checksum_of_files_is_that_of_their_contents(tmp_path: Path) -> None:
    """SHA-256 of "abc", from FIPS 180-2."""
    (tmp_path / "one").write_bytes(b"ab")
    (tmp_path / "two").write_bytes(b"c")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_checksum([tmp_path / "one", tmp_path / "two"]) == expected

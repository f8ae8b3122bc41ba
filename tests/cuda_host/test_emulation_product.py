"""A kernel with everything in it: right in every order, its traffic exact, and each planted fault found."""

from __future__ import annotations

import numpy as np
import pytest

import demo_product
from cuda_host import Emulation, EmulationError, Mutation, build, mutants
from demo_product import CHUNK, SOURCE, TILE, TOLERANCE

#: Each must be found by a wrong result or an error in one of ten orders.
FAULTS = [
    *mutants(SOURCE, "__syncthreads();"),
    *mutants(SOURCE, "cuda_host::cp_async_wait(1);"),
    *mutants(SOURCE, "cuda_host::cp_async_wait(0);"),
    *mutants(SOURCE, "cuda_host::cp_async_commit();"),
    Mutation(SOURCE, "cp_async_wait(1)", "cp_async_wait(2)"),
    Mutation(SOURCE, "first + row < rows", "first + row <= rows"),
    Mutation(SOURCE, "at + word < words", "at + word <= words"),
    Mutation(SOURCE, "inside ? 16 : 0", "inside ? 16 : 4"),
    Mutation(SOURCE, "first_column + lane < columns", "first_column + lane <= columns"),
    Mutation(SOURCE, "first_row + row < rows &&", "first_row + row <= rows &&"),
    Mutation(SOURCE, "size_t(first + row) * words", "size_t(first + row) * (words + 4)"),
    Mutation(SOURCE, "lane % 16 * kPitch", "lane % 16 * (kPitch - 4)"),
    Mutation(
        SOURCE, "row_sums + size_t(first_row + row) * gridDim.x", "row_sums + size_t(first_row + row) * gridDim.y"
    ),
    Mutation(SOURCE, "other > 0", "other > 1"),
    Mutation(SOURCE, "2 * 2 * kTile * kPitch * sizeof", "2 * 2 * (kTile - 1) * kPitch * sizeof"),
]


@pytest.fixture(scope="module")
def demo() -> Emulation:
    return Emulation(build([SOURCE]))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(("rows", "columns", "inner"), [(32, 32, 32), (1, 1, 8), (45, 70, 104), (33, 64, 40)])
def test_product(demo: Emulation, bf16: bool, rows: int, columns: int, inner: int) -> None:
    first, *others = (demo_product.run(demo, bf16, rows, columns, inner, seed) for seed in range(10))
    assert first.error < TOLERANCE[bf16]
    for other in others:
        assert np.array_equal(other.c, first.c)
        assert np.array_equal(other.row_sums, first.row_sums)


def test_traffic(demo: Emulation) -> None:
    rows, columns, inner = 45, 70, 52
    traffic = demo_product.run(demo, False, rows, columns, inner).traffic
    row_blocks, column_blocks = -(-rows // TILE), -(-columns // TILE)
    size = 4 * inner
    assert inner % CHUNK and row_blocks != column_blocks
    a, b, c, row_sums = (traffic[name] for name in ("a", "b", "c", "row_sums"))
    assert (a.loaded, a.loaded_distinct, a.loaded_by_block) == (column_blocks * rows * size, rows * size, TILE * size)
    assert (b.loaded, b.loaded_distinct, b.loaded_by_block) == (
        row_blocks * columns * size,
        columns * size,
        TILE * size,
    )
    assert (c.stored, c.stored_distinct, c.stored_by_block) == (4 * rows * columns, 4 * rows * columns, 4 * TILE * TILE)
    assert row_sums.stored == row_sums.stored_distinct == 4 * rows * column_blocks
    assert not (a.stored or b.stored or c.loaded or row_sums.loaded)


def _found(library: Emulation, bf16: bool, seed: int) -> bool:
    try:
        return demo_product.run(library, bf16, 45, 70, 104, seed).error > TOLERANCE[bf16]
    except EmulationError:
        return True


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_planted_faults_are_found(fault: Mutation) -> None:
    library = Emulation(build([SOURCE], mutations=[fault], flags=["-O1"]))
    found = [_found(library, bf16=False, seed=seed) for seed in range(10)]
    print(f"{fault}: found in {sum(found)} of 10 orders")
    assert any(found)

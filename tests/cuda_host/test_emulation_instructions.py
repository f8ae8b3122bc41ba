"""The emulated instructions against numpy."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from cuda_host import Emulation, EmulationError, build
from emulation_probes import SOURCE

LANES = np.arange(32)
GROUP, T = LANES // 4, LANES % 4


@pytest.fixture(scope="module")
def probes() -> Emulation:
    return Emulation(build([SOURCE]))


def _d_fragments(d: np.ndarray) -> np.ndarray:
    """(32, 4) of a (16, 8) matrix."""
    return np.stack([d[GROUP + 8 * (i // 2), 2 * T + i % 2] for i in range(4)], axis=1)


def test_tf32_product(probes: Emulation) -> None:
    rng = np.random.default_rng(0)
    a, b, d = (rng.standard_normal(shape, dtype=np.float32) for shape in ((16, 8), (8, 8), (16, 8)))
    a_fragments = np.stack([a[GROUP + 8 * (i % 2), T + 4 * (i // 2)] for i in range(4)], axis=1)
    b_fragments = np.stack([b[T + 4 * i, GROUP] for i in range(2)], axis=1)
    got = np.ascontiguousarray(_d_fragments(d))
    probes.call("run_product_tf32", a_fragments, b_fragments, got, 32)

    def truncated(x: np.ndarray) -> np.ndarray:
        return (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)

    assert np.array_equal(got, _d_fragments((d + truncated(a) @ truncated(b)).astype(np.float32)))
    assert not np.array_equal(got, _d_fragments((d + a.astype(float) @ b).astype(np.float32)))


def test_bf16_product(probes: Emulation) -> None:
    rng = np.random.default_rng(1)
    # Halves of random numbers are bf16 numbers.
    a, b = (rng.standard_normal(shape, dtype=np.float32).view(np.uint32) >> 16 for shape in ((16, 16), (16, 8)))
    d = rng.standard_normal((16, 8), dtype=np.float32)

    def pair(m: np.ndarray, low: tuple[np.ndarray, np.ndarray], high: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return (m[low] | m[high] << 16).astype(np.uint32)

    def a_pair(i: int) -> np.ndarray:
        row, column = GROUP + 8 * (i % 2), 2 * T + 8 * (i // 2)
        return pair(a, (row, column), (row, column + 1))

    a_fragments = np.stack([a_pair(i) for i in range(4)], axis=1)
    b_fragments = np.stack([pair(b, (2 * T + 8 * i, GROUP), (2 * T + 8 * i + 1, GROUP)) for i in range(2)], axis=1)
    got = np.ascontiguousarray(_d_fragments(d))
    probes.call("run_product_bf16", a_fragments, b_fragments, got)
    a_values, b_values = ((x.astype(np.uint32) << 16).view(np.float32).astype(np.float64) for x in (a, b))
    assert np.array_equal(got, _d_fragments((d + a_values @ b_values).astype(np.float32)))


def test_a_product_needs_the_whole_warp(probes: Emulation) -> None:
    with pytest.raises(EmulationError, match=r"mma\.m16n8k8\.tf32: needs 32 lanes, its warp has 31"):
        probes.call("run_product_tf32", *(np.zeros(128, np.float32) for _ in range(3)), 31)
    probes.reset()


def test_ldmatrix(probes: Emulation) -> None:
    halves = np.arange(32 * 8, dtype=np.uint16).reshape(4, 8, 8)  # matrix, row, column
    got = np.zeros((6, 32, 4), np.uint32)
    probes.call("run_load_matrices", halves, got)
    for form, (count, transposed) in enumerate([(1, False), (2, False), (4, False), (1, True), (2, True), (4, True)]):
        matrices = halves.transpose(0, 2, 1) if transposed else halves
        pairs = matrices[:count, GROUP, 2 * T].astype(np.uint32) | matrices[:count, GROUP, 2 * T + 1] << np.uint32(16)
        assert np.array_equal(got[form, :, :count], pairs.T)
        assert not got[form, :, count:].any()


@pytest.mark.parametrize("width", [4, 8, 32])
@pytest.mark.parametrize("by", [0, 1, 3, 17])
def test_shuffles(probes: Emulation, by: int, width: int) -> None:
    values = np.random.default_rng(2).permutation(32).astype(np.int32)
    got = np.zeros((4, 32), np.int32)
    probes.call("run_shuffles", values, got, by, width)
    segment, inner = LANES // width * width, LANES % width
    of_xor = LANES ^ by
    assert np.array_equal(got[0], values[segment + by % width])
    assert np.array_equal(got[1], np.where(of_xor < segment + width, values[of_xor], values))
    assert np.array_equal(got[2], np.where(inner + by < width, values[np.minimum(LANES + by, 31)], values))
    assert np.array_equal(got[3], np.where(inner >= by, values[np.maximum(LANES - by, 0)], values))


@pytest.mark.parametrize("seed", range(3))
def test_votes_of_half_warps(probes: Emulation, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.integers(0, 2, 16), np.full(16, seed % 2)]).astype(np.int32)
    got = np.zeros((3, 32), np.uint32)
    probes.reset(seed)
    probes.call("run_votes", values, got)
    for half in (slice(0, 16), slice(16, 32)):
        assert (got[0, half] == sum(1 << int(lane) for lane in LANES[half] if values[lane])).all()
        assert (got[1, half] == values[half].any()).all()
        assert (got[2, half] == values[half].all()).all()


@pytest.mark.parametrize("bytes_wanted", [0, 2, 4, 7, 13, 16])
def test_copies_fill_with_zeros(probes: Emulation, bytes_wanted: int) -> None:
    # 16-byte elements, so that numpy aligns them.
    source = np.random.default_rng(3).integers(1, 255, 32, dtype=np.uint8).view(np.complex128).view(np.uint8)
    got = np.zeros((3, 16), np.uint8)
    with probes.watch(source=source) as traffic:
        probes.call("run_copy_sizes", source, got, bytes_wanted)
    assert np.array_equal(got, np.tile(np.where(np.arange(16) < bytes_wanted, source[:16], 0), (3, 1)))
    assert (traffic["source"].loaded, traffic["source"].loaded_distinct) == (3 * bytes_wanted, bytes_wanted)


def test_copies_land_at_their_wait(probes: Emulation) -> None:
    source, got = np.arange(1, 9, dtype=np.float32), np.zeros((3, 2), np.float32)
    probes.reset()
    probes.call("run_copy_groups", source, got)
    assert np.array_equal(got, [[np.nan, np.nan], [1, np.nan], [1, 5]], equal_nan=True)
    probes.reset(copies_land_late=False)
    probes.call("run_copy_groups", source, got)
    assert np.array_equal(got, [[1, 5]] * 3)


def test_roundings(probes: Emulation) -> None:
    library = ctypes.CDLL(str(probes.path))
    library.approximate_tanh.restype = ctypes.c_float
    library.rounded_tf32.restype = library.packed_bf16.restype = ctypes.c_uint32
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(4).standard_normal(500).astype(np.float32)
    ties = np.array([0x3F801000, 0x3F803000, 0x3F808000, 0x3F818000, 0x7F800000], np.uint32).view(np.float32)
    for x in np.concatenate([values, ties]):
        exact = np.tanh(np.float64(x))
        assert abs(library.approximate_tanh(ctypes.c_float(x)) - exact) <= 2.0**-11 * abs(exact) * (1 + 1e-4)
        low = library.packed_bf16(ctypes.c_float(x), ctypes.c_float(-x)) & 0xFFFF
        assert low == int(torch.tensor(x).bfloat16().view(torch.int16)) & 0xFFFF
        assert library.packed_bf16(ctypes.c_float(x), ctypes.c_float(-x)) >> 16 == low ^ 0x8000
        if np.isfinite(x):
            tf32 = np.uint32(library.rounded_tf32(ctypes.c_float(x))).view(np.float32)
            assert abs(np.float64(tf32) - x) <= 2.0**-11 * abs(x)
    assert library.rounded_tf32(ctypes.c_float(ties[0])) == 0x3F802000  # ties go away from zero

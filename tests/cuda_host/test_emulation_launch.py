"""Launches on fibers: what they promise, and what they report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cuda_host import Emulation, EmulationError, Mutation, build, mutants
from emulation_probes import FAULT_NUMBERS, SOURCE, aligned

FAULTS = {
    "BarrierOfOneWarp": r"deadlock: \[warp 0 lanes ffffffff: wait at __syncthreads\] "
    r"\[warp 1 lanes ffffffff: have returned\]",
    "BarrierOfHalfAWarp": r"deadlock: \[warp 0 lanes 0000ffff: wait at __syncthreads\] "
    r"\[warp 0 lanes ffff0000: __syncwarp\]",
    "DifferentInstructions": r"deadlock: \[warp 0 lanes 0000ffff: __syncwarp\] \[warp 0 lanes ffff0000: __any_sync\]",
    "NotInOwnMask": r"__syncwarp: lane \d+ is not in its own mask 0000ffff",
    "ShuffleFromOutside": "__shfl_sync: reads lane 20, which is not in mask 0000ffff",
    "ReturnedLane": r"deadlock: \[warp 0 lanes ffffffdf: __shfl_sync\] \[warp 0 lanes 00000020: have returned\]",
    "MisalignedCopy": "thread 0: cp.async 16: shared address .* is not aligned to 16 bytes",
    "MisalignedSource": "thread 0: cp.async 16: global address .* is not aligned to 16 bytes",
    "TooManySourceBytes": "cp.async 16: source bytes must be 0 to 16, found 20",
    "CopyOutsideShared": "cp.async 16: the 16 bytes at .* are not in the block's shared memory",
    "MatrixOutsideShared": "ldmatrix.x4: the 16 bytes at .* are not in the block's shared memory",
    "WriteBeyondShared": "write outside dynamic shared memory of 256 bytes, at byte 25[6-9]",
    "WriteBeforeShared": "write outside dynamic shared memory of 256 bytes, at byte -",
    "WriteBeyondStatic": "write outside static shared memory 'table' of 16 bytes, at byte 1[6-9]",
    "LoadBeyondBuffer": "load of 4 bytes at byte 400 of 'buffer', which has 400",
    "StoreBeforeBuffer": "store of 4 bytes at .*, below every registered buffer",
}
INVALID_VALUE, INVALID_CONFIGURATION, INVALID_DEVICE = 1, 9, 101  # of cudaError_t


@pytest.fixture
def probes() -> Emulation:
    return Emulation(build([SOURCE]))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", range(3))
def test_faults_are_reported(probes: Emulation, fault: str, seed: int) -> None:
    buffer = aligned(100)
    with pytest.raises(EmulationError, match=FAULTS[fault]) as raised, probes.watch(seed, buffer=buffer):
        probes.call("run_faulty", buffer, 100, FAULT_NUMBERS[fault])
    assert str(raised.value).startswith("block (0, 0, 0): ")
    with probes.watch(seed, buffer=buffer):  # and the next launch is as good as new
        assert probes.call("run_faulty", buffer, 100, 0) == 0


def test_reading_beyond_shared_memory_gives_nan(probes: Emulation) -> None:
    buffer = np.zeros(4, np.float32)
    assert probes.call("run_faulty", buffer, 4, FAULT_NUMBERS["ReadBeyondShared"]) == 0
    assert np.isnan(buffer[0])


def test_built_in_variables(probes: Emulation) -> None:
    out = np.zeros((12, 60), np.int32)
    probes.call("run_built_in", out)
    assert np.array_equal(out, 1000 * np.arange(12)[:, None] + np.arange(60))


def test_shared_memory_is_poisoned_for_every_block(probes: Emulation) -> None:
    out = np.zeros(6, np.float32)
    probes.call("run_unwritten", out)
    assert np.isnan(out).all()


def test_blocks_run_in_random_order(probes: Emulation) -> None:
    last = set()
    for seed in range(20):
        probes.reset(seed)
        out = np.full(1, -1, np.int32)
        probes.call("run_last_block", out, 3)
        last.add(int(out[0]))
    assert last == {0, 1, 2}


def test_a_seed_repeats_and_another_differs(probes: Emulation) -> None:
    results = []
    for seed in (*range(8), *range(8)):
        out = np.zeros(64, np.int32)
        probes.reset(seed)
        probes.call("run_exchange", out, False)
        results.append(out.tolist())
    assert results[:8] == results[8:]
    assert any(r != list(range(32)) * 2 for r in results), "a missing barrier shows in no order of the warps"
    for seed in range(8):
        out = np.zeros(64, np.int32)
        probes.reset(seed)
        probes.call("run_exchange", out, True)
        assert out.tolist() == list(range(32)) * 2


@pytest.mark.parametrize(
    ("blocks", "threads", "shared", "allowed", "error"),
    [
        (1, 1, 48 * 1024, 0, 0),
        (1, 1, 48 * 1024 + 4, 0, INVALID_VALUE),
        (1, 1, 227 * 1024, 227 * 1024, 0),
        (1, 1, 227 * 1024, 100 * 1024, INVALID_VALUE),
        (1, 1, 4, 227 * 1024 + 1, INVALID_VALUE),
        (1, 1025, 4, 0, INVALID_CONFIGURATION),
        (0, 1, 4, 0, INVALID_CONFIGURATION),
        (1, 0, 4, 0, INVALID_CONFIGURATION),
    ],
)
def test_launch_limits(probes: Emulation, blocks: int, threads: int, shared: int, allowed: int, error: int) -> None:
    out = np.zeros(3, np.float32)
    arguments = ("run_with_limits", out, blocks, threads, shared, allowed)
    if error == 0:
        assert probes.call(*arguments) == 0
        assert np.isnan(out).all()
        return
    with pytest.raises(EmulationError, match=r"launch: expected|dynamic shared memory"):
        probes.call(*arguments)
    assert not out.any()


def test_the_machine_can_be_another(probes: Emulation) -> None:
    out = np.zeros(4, np.int32)
    assert probes.call("read_attributes", out) == INVALID_DEVICE
    assert out[:3].tolist() == [132, 227 * 1024, 9]
    probes.reset(max_shared_bytes=99 * 1024, multiprocessors=70, compute_capability=120)
    probes.call("read_attributes", out)
    assert out[:3].tolist() == [70, 99 * 1024, 12]
    with pytest.raises(EmulationError, match="cudaFuncSetAttribute: 102400 bytes of dynamic shared memory, at most"):
        probes.call("run_with_limits", np.zeros(3, np.float32), 1, 1, 4, 100 * 1024)


def test_memory_functions(probes: Emulation) -> None:
    source, out = np.arange(1, 6, dtype=np.int32), np.full(5, -1, np.int32)
    assert probes.call("copy_and_clear", source, out, 5) == 0
    assert out.tolist() == [0, 2, 3, 4, 5]


def test_a_mutation_names_what_it_does_not_find() -> None:
    with pytest.raises(ValueError, match=r"probes.cu: 'nowhere to be found' #0 -> '': expected 1 occurrences, found 0"):
        build([SOURCE], mutations=[Mutation(SOURCE, "nowhere to be found", "")])
    with pytest.raises(ValueError, match="expected 'nowhere to be found', found none"):
        mutants(SOURCE, "nowhere to be found")


def test_a_plain_shared_variable_does_not_compile(tmp_path: Path) -> None:
    source = tmp_path / "plain.cu"
    source.write_text("__global__ void kernel() { __shared__ float x[4]; }\n")
    with pytest.raises(RuntimeError, match="use_FFRL_SHARED_or_FFRL_STATIC_SHARED"):
        build([source])


def test_two_libraries_keep_apart(probes: Emulation) -> None:
    other = Emulation(build([Path(__file__).with_name("demo.cu")]))
    with pytest.raises(EmulationError):
        probes.call("run_with_limits", np.zeros(3, np.float32), 0, 1, 4, 0)
    assert probes.failure
    assert not other.failure

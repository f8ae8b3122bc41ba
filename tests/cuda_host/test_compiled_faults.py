"""Faults planted in the compiled CUDA kernels: the PTX interpreter reports each, or its results are wrong."""

from __future__ import annotations

import functools
import importlib.util
import linecache
import shutil
from collections.abc import Iterator

import pytest

import ptx
from cuda_host import ROOT
from cuda_kernels import BOUNDS, EVERYTHING, STREAMED, Case, Question, Results, errors
from cuda_ptx import by_source_line, by_symbol, execute
from ffrl_fast.gpu.engine import Precision, Wanted
from ptx.mutate import Mutant

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ffrl_fast._cuda") is None or shutil.which("nvcc") is None,
        reason="this build has no CUDA kernels, or nvcc is not on the PATH",
    ),
]

TF32 = Precision.TF32
#: Every way through the kernels.
CASES = {
    Case(33, 24, 40, networks=2, selection="index", moments=2, force=24, precision=TF32): EVERYTHING,
    Case(40, 24, 40, networks=2, selection="gates", precision=TF32): EVERYTHING,
    Case(20, 100, 100, networks=2, selection="gates", precision=TF32): EVERYTHING,
    # 130: a bound that is looser by one lets the first entry of a warp's tile of 32 columns through.
    Case(70, 150, 130, 2, 2, "index", shared_bytes=STREAMED, precision=TF32): EVERYTHING,
    Case(70, 40, 40, 1, 2, "gates", moments=2, force=9, shared_bytes=STREAMED, precision=TF32): EVERYTHING,
    Case(2130, 3, 4, moments=2, precision=TF32): EVERYTHING,  # two warps, activations in registers
    Case(17, 130, 24, moments=1, precision=TF32): EVERYTHING,  # the compiler takes 128 columns of z at a time
    # Tile after tile in a block; without dL/dz a tile ends with no product, thus without a product's barrier.
    Case(4250, 3, 4, row_times=True, shared_bytes=40 * 1024, precision=TF32): Wanted(z=False),
}
#: Lines of the source with a bound or a stride, of each file that writes to global memory.
WRONG_BY_ONE = {
    "a comparison looser by one": (
        "if (row < 0 || n >= dim) return;",
        "to(r, n) = row >= 0 && n < columns ? load_global(from + row * stride + n) : 0.f;",
        "for (int d = lane_; d < dim; d += 32)",
        "if (y >= m.height || x >= m.width) return;",
    ),
    "an immediate factor or shift larger by one": (
        "if (row_[r] >= 0) store_global(to + std::int64_t(row_[r]) * dim + d, z_[r * pitch_ + d]);",
        "float* const to = d_z + std::int64_t(row) * dim + n;",
        "float& so_far = to[std::int64_t(y) * m.width + x];",
        "float& sum_so_far = to[std::int64_t(m0 + m) * width + n0 + n];",
    ),
}


@functools.cache
def asked() -> list[tuple[Question, Wanted, Results]]:
    questions = [(Question(case), wanted) for case, wanted in CASES.items()]
    return [(question, wanted, question.exact()) for question, wanted in questions]


def reported(text: str) -> bool:
    module = by_symbol(ptx.Module(text))
    for question, wanted, exact in asked():
        try:
            found, record = execute(question, seed=1, instead=module, wanted=wanted)
        except ptx.Fault:
            return True
        worst = errors(found, {name: exact[name] for name in found}).values()
        if record.races or not max(worst) < BOUNDS[TF32]:
            return True
    return False


def planted(*kinds: str) -> Iterator[tuple[str, str, Mutant]]:
    """What is wrong, the text of the line of the source, and the fault; one for each line, wherever it was inlined."""
    for mutant in ptx.mutate.mutants_by_source(by_source_line(TF32), kinds, wrappers="instructions.cuh"):
        what, place, _ = mutant.description.split(", ")
        name, number = place.split(":")
        yield what, linecache.getline(str(ROOT / "kernels/cuda" / name), int(number)).strip(), mutant


def test_without_a_fault_nothing_is_reported() -> None:
    assert not reported(by_source_line(TF32))


def test_every_barrier_and_wait_that_is_taken_out_is_reported() -> None:
    faults = [mutant for _, _, mutant in planted("barrier", "wait")]
    assert len(faults) > 17
    assert [x.description for x in faults if not reported(x.ptx)] == []


def test_bounds_and_strides_that_are_wrong_by_one_show() -> None:
    faults = [(what, line, x) for what, line, x in planted("predicate", "stride") if line in WRONG_BY_ONE[what]]
    assert {(what, line) for what, line, _ in faults} == {
        (w, line) for w, lines in WRONG_BY_ONE.items() for line in lines
    }
    assert [x.description for _, _, x in faults if not reported(x.ptx)] == []

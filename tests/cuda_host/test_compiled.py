"""The CUDA engine with its kernels compiled by nvcc and executed in the PTX interpreter, against float64.

The host code is the project's own. Executed, not run on a GPU: see docs/gpu.md for what this cannot see.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import shutil

import pytest
import torch

import ptx
from cuda_kernels import BOUNDS, EVERYTHING, STREAMED, Case, Question, errors
from cuda_ptx import by_source_line, by_symbol, execute, modules
from ffrl_fast.gpu.engine import Precision, Wanted

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ffrl_fast._cuda") is None or shutil.which("nvcc") is None,
    reason="this build has no CUDA kernels, or nvcc is not on the PATH",
)


CASES = [
    Case(33, 24, 40, networks=3, selection="index"),
    Case(20, 24, 40, networks=2, selection="gates", row_times=True),
    Case(1, 1, 1),
    Case(17, 12, 9, tangent=True),
    Case(70, 150, 140, depth=2, networks=2, selection="index", shared_bytes=STREAMED),
    Case(33, 24, 40, networks=2, selection="index", moments=3, force=24),
    Case(17, 20, 100, moments=2),
    Case(18, 20, 12, networks=2, selection="gates by step", moments=4, substeps=2, shared_bytes=STREAMED),
]


@functools.cache
def outcome(case: Case, precision: Precision) -> tuple[list[str], dict[str, float], set[str]]:
    """The races, the errors and the kernels of a case."""
    question = Question(dataclasses.replace(case, precision=precision))
    found, record = execute(question)
    return record.races, errors(found, question.exact()), {name for name, _ in record.launches}


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_kernel(case: Case, precision: Precision) -> None:
    races, worst, _ = outcome(case, precision)
    assert races == []
    assert max(worst.values()) < BOUNDS[precision], worst


def test_every_kernel_is_among_them() -> None:
    """Of the templates that the modules hold each was launched by some case above."""
    assert set(modules()) == set().union(*(outcome(c, p)[2] for c in CASES for p in Precision))


def test_products_are_made_by_the_matrix_units() -> None:
    for precision, shape in ((Precision.TF32, "m16n8k8.tf32"), (Precision.BF16, "m16n8k16.bf16")):
        _, record = execute(Question(Case(33, 24, 40, precision=precision)))
        for name, launch in record.launches:
            if "path_kernel" in name or "backward_kernel" in name:
                assert launch.matrix[shape] > 0, name


def test_every_barrier_and_wait_of_the_source_that_is_taken_out_is_reported() -> None:
    """One line of the source at a time, in all places that it was inlined into; every way through the kernels."""
    tf32 = Precision.TF32
    cases = {
        Case(33, 24, 40, networks=2, selection="index", moments=2, force=24, precision=tf32): EVERYTHING,
        Case(40, 24, 40, networks=2, selection="gates", precision=tf32): EVERYTHING,
        Case(20, 100, 100, networks=2, selection="gates", precision=tf32): EVERYTHING,
        Case(70, 150, 140, 2, 2, "index", shared_bytes=STREAMED, precision=tf32): EVERYTHING,
        Case(70, 40, 40, 1, 2, "gates", moments=2, force=9, shared_bytes=STREAMED, precision=tf32): EVERYTHING,
        Case(2130, 3, 4, moments=2, precision=tf32): EVERYTHING,  # two warps, activations in registers
        # Tile after tile in a block; without dL/dz a tile ends with no product, thus without a product's barrier.
        Case(4250, 3, 4, row_times=True, shared_bytes=40 * 1024, precision=tf32): Wanted(z=False),
    }
    questions = [(Question(case), wanted) for case, wanted in cases.items()]
    exact = [question.exact() for question, _ in questions]

    def reported(module: dict[str, ptx.Module]) -> bool:
        for (question, wanted), right in zip(questions, exact, strict=True):
            try:
                found, record = execute(question, seed=1, instead=module, wanted=wanted)
            except ptx.Fault:
                return True
            worst = errors(found, {name: right[name] for name in found}).values()
            if record.races or not max(worst) < BOUNDS[tf32]:
                return True
        return False

    text = by_source_line(tf32)
    assert not reported(by_symbol(ptx.Module(text)))
    planted = list(ptx.mutate.mutants_by_source(text))
    assert len(planted) > 12
    assert [x.description for x in planted if not reported(by_symbol(ptx.Module(x.ptx)))] == []


def test_the_same_bits_in_every_order_of_warps_and_blocks() -> None:
    question = Question(Case(50, 24, 40, networks=2, selection="index", moments=2, precision=Precision.TF32))
    first, second = (execute(question, seed)[0] for seed in (1, 2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name

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

from cuda_kernels import BOUNDS, STREAMED, Case, Question, errors
from cuda_ptx import execute, modules
from ffrl_fast.gpu.engine import Precision

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
    Case(17, 12, 140, moments=2),
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


def test_the_same_bits_in_every_order_of_warps_and_blocks() -> None:
    question = Question(Case(50, 24, 40, networks=2, selection="index", moments=2, precision=Precision.TF32))
    first, second = (execute(question, seed)[0] for seed in (1, 2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name

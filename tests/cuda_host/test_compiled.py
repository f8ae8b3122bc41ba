"""The CUDA engine with its kernels compiled by nvcc and executed in the PTX interpreter, against float64.

The host code is the project's own. Executed, not run on a GPU: see docs/gpu.md for what this cannot see.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections import Counter

import pytest
import torch

import ptx
from cuda_kernels import BOUNDS, STREAMED, Case, Question, Results, emulated_kernels, errors
from cuda_ptx import Diverted, by_source_line, by_symbol, diverted, modules
from ffrl_fast.gpu.cuda_engine import CudaEngine
from ffrl_fast.gpu.engine import Precision, Wanted

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ffrl_fast._cuda") is None or shutil.which("nvcc") is None,
    reason="this build has no CUDA kernels, or nvcc is not on the PATH",
)


#: Barriers that nothing was found to need: another one of the same phase orders what they order.
NEEDLESS = Counter({"block.cuh": 2, "network_cotangents.cuh": 2, "path_kernel.cuh": 1})


def execute(
    question: Question, seed: int = 0, instead: dict[str, ptx.Module] | None = None
) -> tuple[Results, Diverted]:
    kernels, q = emulated_kernels(), question
    kernels.emulation.reset(max_shared_bytes=q.case.shared_bytes)
    given = (list(q.inputs.values()), q.index, q.drive, q.tangent, list(q.bars.values()))
    with diverted(kernels.emulation, *given, seed=seed, instead=instead) as record:
        found = q.by_kernels(CudaEngine(kernels.module), Wanted())
    kernels.emulation.check()
    return found, record


CASES = [
    Case(33, 24, 40, networks=3, selection="index"),
    Case(20, 24, 40, networks=2, selection="gates", row_times=True),
    Case(1, 1, 1),
    Case(17, 12, 9, tangent=True),
    Case(70, 150, 140, depth=2, networks=2, selection="index", shared_bytes=STREAMED),
    Case(33, 24, 40, networks=2, selection="index", moments=3, force=24),
    Case(18, 20, 12, networks=2, selection="gates by step", moments=4, substeps=2, shared_bytes=STREAMED),
]


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_kernel(case: Case, precision: Precision) -> None:
    question = Question(Case(**{**case.__dict__, "precision": precision}))
    found, record = execute(question)
    assert record.races == []
    worst = errors(found, question.exact())
    assert max(worst.values()) < BOUNDS[precision], worst


def test_every_kernel_is_among_them() -> None:
    """Of the templates that the modules hold each was launched by some case above."""
    launched = set()
    for case in CASES:
        for precision in Precision:
            _, record = execute(Question(Case(**{**case.__dict__, "precision": precision})))
            launched |= {name for name, _ in record.launches}
    assert launched == set(modules()) - _only_larger()


def _only_larger() -> set[str]:
    """Instances that only networks wider than the cases reach: the register kernel's widest tiles."""
    return {name for name in modules() if re.search(r"(path|pack_operands)_kernelI\w+Li128E", name)}


def test_products_are_made_by_the_matrix_units() -> None:
    for precision, shape in ((Precision.TF32, "m16n8k8.tf32"), (Precision.BF16, "m16n8k16.bf16")):
        _, record = execute(Question(Case(33, 24, 40, precision=precision)))
        for name, launch in record.launches:
            if "path_kernel" in name or "backward_kernel" in name:
                assert launch.matrix[shape] > 0, name


@pytest.mark.planted
def test_every_barrier_and_wait_of_the_source_that_is_taken_out_is_reported() -> None:
    """One line of the source at a time, in all places that it was inlined into; every way through the kernels."""
    questions = [
        Question(Case(33, 24, 40, networks=2, selection="index", moments=2, force=24, precision=Precision.TF32)),
        Question(Case(40, 24, 40, networks=2, selection="gates", precision=Precision.TF32)),
        Question(Case(20, 100, 100, networks=2, selection="gates", precision=Precision.TF32)),
        Question(Case(70, 150, 140, 2, 2, "index", shared_bytes=STREAMED, precision=Precision.TF32)),
        Question(Case(70, 40, 40, 1, 2, "gates", moments=2, force=9, shared_bytes=STREAMED, precision=Precision.TF32)),
    ]
    exact = [question.exact() for question in questions]

    def reported(module: dict[str, ptx.Module]) -> bool:
        for question, right in zip(questions, exact, strict=True):
            try:
                found, record = execute(question, seed=1, instead=module)
            except ptx.Fault:
                return True
            worst = errors(found, right).values()
            if record.races or not max(worst) < BOUNDS[Precision.TF32]:
                return True
        return False

    text = by_source_line(Precision.TF32)
    assert not reported(by_symbol(ptx.Module(text)))
    planted = list(ptx.mutate.mutants_by_source(text))
    assert len(planted) > 12
    silent = [x.description for x in planted if not reported(by_symbol(ptx.Module(x.ptx)))]
    files = Counter(re.findall(r"(\w+\.cuh):", " ".join(silent)))
    assert files <= NEEDLESS, silent


def test_the_same_bits_in_every_order_of_warps_and_blocks() -> None:
    question = Question(Case(50, 24, 40, networks=2, selection="index", moments=2, precision=Precision.TF32))
    first, second = (execute(question, seed)[0] for seed in (1, 2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name

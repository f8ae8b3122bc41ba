"""The CUDA kernels under ThreadSanitizer (one thread of the system for each of CUDA) and AddressSanitizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from cuda_host import Sanitizer, run_sanitized
from cuda_kernels import STREAMED, Case, Question, by_emulation, emulated_kernels, wrong
from ffrl_fast.gpu.engine import Precision

# One of each way through the kernels: row buffers in shared memory, streamed, activations in registers.
CASES = {
    "resident": Case(17, 24, 40, networks=2, selection="gates", moments=2, force=20),
    "streamed": Case(20, 24, 40, depth=2, networks=2, selection="index", shared_bytes=STREAMED),
    "registers": Case(33, 24, 40, moments=2, force=20, precision=Precision.BF16),
}


def run(case: str, sanitizer: Sanitizer) -> None:
    question = Question(CASES[case])
    found = by_emulation(question, kernels=emulated_kernels(sanitizer))
    assert wrong(found, question.exact(), question.case.precision) == {}


@pytest.mark.sanitizers
@pytest.mark.parametrize("sanitize", ["address", "thread"])
@pytest.mark.parametrize("case", CASES)
def test_sanitizers_see_nothing(sanitize: Sanitizer, case: str) -> None:
    done = run_sanitized(sanitize, Path(__file__), "run", case=case, sanitizer=sanitize)
    assert done.code == 0, done.output
    assert not done.reports, done.output

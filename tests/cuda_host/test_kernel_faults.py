"""Faults planted in the CUDA kernels: each shows as a wrong result or an error in some order, or to a sanitizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from cuda_faults import CASES, FAULTS, WANTED, Fault, apart, asked, faulty_kernels, plant, shows
from cuda_host import Sanitizer, run_sanitized
from cuda_kernels import EVERYTHING, by_emulation

ORDERS = 10


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_without_a_fault_nothing_shows(case: str) -> None:
    kernels = faulty_kernels()
    plant(kernels, 0)
    assert not any(shows(kernels, case, seed) for seed in range(ORDERS))


@pytest.mark.slow
@pytest.mark.parametrize("fault", [f for f in FAULTS if f.kind not in ("order", "more")], ids=str)
def test_every_fault_shows_in_some_order(fault: Fault) -> None:
    kernels = faulty_kernels()

    def found() -> bool:
        plant(kernels, fault.number)
        return any(shows(kernels, case, seed) for seed in range(ORDERS) for case in fault.cases)

    for case in fault.cases:
        asked(case)
    assert apart(found)


def run(number: int, case: str, sanitizer: Sanitizer) -> None:
    kernels = faulty_kernels(sanitizer)
    plant(kernels, number)
    by_emulation(asked(case)[0], wanted=WANTED.get(case, EVERYTHING), kernels=kernels)


def _reports(sanitizer: Sanitizer, fault: Fault) -> bool:
    return any(
        run_sanitized(sanitizer, Path(__file__), "run", number=fault.number, case=case, sanitizer=sanitizer).reports
        for case in fault.cases
    )


@pytest.mark.sanitizers
@pytest.mark.parametrize("fault", [f for f in FAULTS if f.kind == "order"], ids=str)
def test_every_missing_order_of_memory_is_a_race(fault: Fault) -> None:
    assert _reports("thread", fault)


@pytest.mark.sanitizers
@pytest.mark.parametrize("fault", [f for f in FAULTS if f.kind == "more"], ids=str)
def test_every_access_beyond_an_array_is_reported(fault: Fault) -> None:
    assert _reports("address", fault)

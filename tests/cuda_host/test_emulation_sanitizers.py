"""The emulation under ThreadSanitizer, AddressSanitizer and UndefinedBehaviorSanitizer: silent on a right kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

import demo_product
import emulation_probes
from cuda_host import Mutation, SanitizedRun, Sanitizer, build, mutants, run_sanitized
from emulation_probes import FAULT_NUMBERS

pytestmark = pytest.mark.sanitizers


def _demo(sanitize: Sanitizer, *mutations: Mutation) -> SanitizedRun:
    library = build([demo_product.SOURCE], sanitize=sanitize, mutations=mutations)
    return run_sanitized(sanitize, Path(demo_product.__file__), "run_once", path=str(library))


def _probe(sanitize: Sanitizer, function: str, *arguments: int) -> SanitizedRun:
    library = build([emulation_probes.SOURCE], sanitize=sanitize)
    return run_sanitized(
        sanitize, Path(emulation_probes.__file__), "launch", path=str(library), function=function, arguments=arguments
    )


@pytest.mark.parametrize("sanitize", ["address", "thread"])
def test_a_right_kernel_gives_no_report(sanitize: Sanitizer) -> None:
    run = _demo(sanitize)
    assert (run.reports, run.code) == ([], 0), run.output


@pytest.mark.parametrize("fault", mutants(demo_product.SOURCE, "__syncthreads();"), ids=str)
def test_every_missing_barrier_is_a_race(fault: Mutation) -> None:
    assert any("data race" in report for report in _demo("thread", fault).reports)


@pytest.mark.parametrize(("order", "races"), [(0, True), (1, False), (2, False), (3, True)])
def test_barriers_order_memory_and_shuffles_do_not(order: int, races: bool) -> None:
    run = _probe("thread", "run_neighbours", order)
    assert run.code == 0, run.output
    assert any("data race" in report for report in run.reports) == races


@pytest.mark.parametrize(("blocks", "launches", "races"), [(1, 2, False), (2, 1, True)])
def test_blocks_race_and_launches_do_not(blocks: int, launches: int, races: bool) -> None:
    run = _probe("thread", "run_every_block_writes", blocks, launches)
    assert run.code == 0, run.output
    assert any("data race" in report for report in run.reports) == races


@pytest.mark.parametrize("fault", ["WriteBeyondShared", "WriteBeforeShared", "ReadBeyondShared", "WriteBeyondStatic"])
def test_shared_memory_is_fenced(fault: str) -> None:
    run = _probe("address", "run_faulty", 4, FAULT_NUMBERS[fault])
    assert any("AddressSanitizer" in report or "runtime error" in report for report in run.reports), run.output
    assert _probe("address", "run_faulty", 4, 0).reports == []


@pytest.mark.parametrize("sanitize", ["address", "thread"])
def test_a_cancelled_launch_unwinds(sanitize: Sanitizer) -> None:
    run = _probe(sanitize, "run_faulty", 4, FAULT_NUMBERS["BarrierOfHalfAWarp"])
    assert "EmulationError: block (0, 0, 0): deadlock" in run.output
    assert run.reports == []

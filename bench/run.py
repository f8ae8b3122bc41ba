"""Measures all variants of a list of works and sizes: results compared first, then timed in turns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from bench import memory
from bench.problems import FlowProblem, Problem
from bench.timing import interleave
from bench.variants import Variant, check, make_problem, reference_result, variants

WORKS = ("forward", "operator", "step", "loss", "integrate", "integrate_force")
DIMS = (16, 64, 324)
ROWS = (1, 16, 128, 1024, 8192, 65536)

#: Arrays of B×D that are alive at once in one evaluation, eager and compiled; to foresee what cannot fit.
_ARRAYS, _ARRAYS_COMPILED = 45, 12


@dataclass
class Row:
    """One variant at one size. Numbers are None where ``note`` says why."""

    work: str
    dim: int
    rows: int
    variant: str
    title: str
    ours: bool
    median_s: float | None = None
    min_s: float | None = None
    samples: int | None = None
    calls_per_sample: int | None = None
    cores_busy: float | None = None
    gflops_median: float | None = None
    gflops_best: float | None = None
    peak_fraction_median: float | None = None
    peak_fraction_best: float | None = None
    times_ours_median: float | None = None
    times_ours_best: float | None = None
    extra_memory_bytes: int | None = None
    relative_error: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """What to measure. ``seconds``: at most this long for one variant at one size, but three samples always."""

    works: tuple[str, ...] = WORKS
    dims: tuple[int, ...] = DIMS
    rows: tuple[int, ...] = ROWS
    time: str = "learned"
    dtype: str = "float32"
    threads: int = 1
    seconds: float = 1.0
    #: Rows at which memory is measured.
    memory_rows: tuple[int, ...] = (8192,)
    only: tuple[str, ...] = ()

    def sizes(self) -> Iterator[tuple[str, int, int]]:
        return ((w, d, b) for w in self.works for d in self.dims for b in self.rows)


def measure(plan: Plan, work: str, dim: int, rows: int, peak: float) -> list[Row]:
    """All variants of one size. ``peak``: operations a second of one core."""
    torch._dynamo.reset()
    problem = make_problem(work, dim, rows, plan.time, plan.dtype)
    exact = reference_result(problem, work)
    table: dict[str, Row] = {}
    calls: dict[str, Callable[[], Any]] = {}
    for variant in variants(work, plan.time):
        if plan.only and variant.name not in plan.only:
            continue
        row = table[variant.name] = Row(work, dim, rows, variant.name, variant.title, variant.ours)
        row.note = _too_large(variant, problem)
        if row.note:
            continue
        try:
            calls[variant.name] = call = variant.build(problem, work)
            result = call()
            if variant.comparable:
                row.relative_error = check(variant, problem, work, result, exact)
        except Exception as error:
            calls.pop(variant.name, None)
            row.note = f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
    del exact
    flops = problem.flops() if isinstance(problem, FlowProblem) else problem.flops(work)  # type: ignore[arg-type]
    for name, timing in interleave(calls, seconds=plan.seconds).items():
        row = table[name]
        row.median_s, row.min_s = timing.median, timing.minimum
        row.samples, row.calls_per_sample, row.cores_busy = len(timing.samples), timing.inner, timing.cores
        row.gflops_median, row.gflops_best = flops / timing.median / 1e9, flops / timing.minimum / 1e9
        row.peak_fraction_median = flops / timing.median / (peak * plan.threads)
        row.peak_fraction_best = flops / timing.minimum / (peak * plan.threads)
    _compare(list(table.values()))
    if rows in plan.memory_rows:
        for name in calls:
            try:
                table[name].extra_memory_bytes = memory.of_variant(
                    name, work, dim, rows, plan.time, plan.dtype, plan.threads
                )
            except RuntimeError as error:
                table[name].note = f"memory not measured: {error}"
    return list(table.values())


def _compare(table: list[Row]) -> None:
    """Each row's time over that of the row "ours"."""
    mine = next((r for r in table if r.variant == "ours" and r.median_s is not None), None)
    if mine is None or mine.median_s is None or mine.min_s is None:
        return
    for row in table:
        if row.median_s is not None and row.min_s is not None:
            row.times_ours_median, row.times_ours_best = row.median_s / mine.median_s, row.min_s / mine.min_s


def _too_large(variant: Variant, problem: Problem | FlowProblem) -> str:
    """Why a variant cannot run in the memory of this machine, or nothing."""
    steps = problem.steps if isinstance(problem, FlowProblem) else 1
    arrays = 0 if variant.ours else _ARRAYS_COMPILED if variant.compiled else _ARRAYS
    needed = arrays * steps * problem.rows * problem.dim * problem.dtype.itemsize
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"not run: needs about {needed / 1e9:.0f} GB" if needed > 0.8 * free else ""

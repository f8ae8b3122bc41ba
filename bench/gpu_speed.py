"""How fast the GPU backends are, and how exact, beside torch's own ways to the same results.

Times are taken with CUDA events around single calls, in turns over the variants. Each call finds another copy of its
inputs, and between calls so much memory is overwritten that nothing of them is left in the L2 cache.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

import ffrl_fast
from bench import baselines, ours
from bench.problems import FlowProblem, Problem
from bench.variants import flow_reference
from ffrl_fast.tolerances import relative_error

Call = Callable[[], Any]
Build = Callable[[Any], Call]
PRECISIONS = ("tf32", "bf16", "ieee")
WORKS = ("step", "integrate")
#: What torch is told. On CUDA it multiplies float32 in tf32 at "medium" too.
_MATMUL_SETTING = {"ieee": "highest", "tf32": "high", "bf16": "medium"}
_BEYOND_L2 = 256 << 20  # bytes
_EAGER = "eager autograd"


@dataclass
class Row:
    """One measured variant; ``error`` is the largest relative error of its value and gradients against float64."""

    work: str
    dim: int
    rows: int
    variant: str
    precision: str
    median_us: float | None = None
    minimum_us: float | None = None
    of_matmul: float | None = None  # its products' operations a second over those of one large product
    of_copy: float | None = None  # the bytes a second that it cannot do without over those of a copy
    error: float | None = None
    note: str = ""  # why it was not measured


@dataclass(frozen=True)
class Rates:
    """What the device does at best: operations a second of one product by precision, bytes a second of a copy."""

    matmul: dict[str, float]
    copy: float

    @classmethod
    def measured(cls, device: str) -> Rates:
        size, copied = (8192, 1 << 30) if device != "cpu" else (256, 1 << 20)
        return cls({p: _matmul_rate(p, device, size) for p in PRECISIONS}, _copy_rate(device, copied))


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """The precision of the GPU backends and of torch's own products."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(_MATMUL_SETTING[precision])
    try:
        with ffrl_fast.use_precision(precision):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _seconds_of(call: Call, device: str) -> float:
    """One call, by CUDA events; by the clock on a CPU."""
    if device == "cpu":
        begun = time.perf_counter()
        call()
        return time.perf_counter() - begun
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return 1e-3 * begin.elapsed_time(end)


def interleaved(calls: dict[str, list[Call]], device: str, seconds: float) -> dict[str, list[float]]:
    """Seconds of single calls, all variants in turns, each turn on the next copy of the inputs; five turns at least."""
    overwritten = torch.empty(_BEYOND_L2 if device != "cpu" else 0, dtype=torch.uint8, device=device)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    turn, until = 0, time.monotonic() + seconds
    while turn < 5 or time.monotonic() < until:
        for name, copies in calls.items():
            overwritten.zero_()
            samples[name].append(_seconds_of(copies[turn % len(copies)], device))
        turn += 1
    return samples


def _matmul_rate(precision: str, device: str, size: int) -> float:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    with products_in(precision):
        a @ b
        times = interleaved({"": [lambda: a @ b]}, device, 0.3)[""]
    return 2.0 * size**3 / statistics.median(times)


def _copy_rate(device: str, size: int) -> float:
    """Read and written."""
    a, b = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2.0 * size / statistics.median(interleaved({"": [lambda: b.copy_(a)]}, device, 0.3)[""])


def _copies(rows: int, dim: int, device: str) -> int:
    return 1 if device == "cpu" else max(2, min(8, -(-_BEYOND_L2 // (12 * rows * dim))))


def _made(work: str, dim: int, rows: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Problem | FlowProblem:
    return (
        Problem(dim, rows, dtype=dtype, seed=seed) if work == "step" else FlowProblem(dim, rows, dtype=dtype, seed=seed)
    )


def _exact(work: str, dim: int, rows: int, device: str) -> dict[str, torch.Tensor]:
    p = _made(work, dim, rows, dtype=torch.float64).to(device)
    return flow_reference(p) if isinstance(p, FlowProblem) else p.named("step", baselines.formulas_eager(p, "step")())


def _on(backend: str, build: Build) -> Build:
    def built(problem: Any) -> Call:
        call = build(problem)

        def run() -> Any:
            with ffrl_fast.use_backend(backend):
                return call()

        return run

    return built


def variants(work: str, backends: list[str], compiler: str | None) -> dict[str, Build]:
    """The backends and eager autograd, or what ``compiler`` (a backend of torch.compile) makes of their peers."""
    if work == "step":
        if compiler is None:
            own = {name: _on(name, lambda p: ours.operator(p, "step")) for name in backends}
            return own | {_EAGER: lambda p: baselines.autograd_shared_time(p, "step")}
        return {
            "torch.func, torch.compile": lambda p: baselines.functional_compiled(p, "step", compiler),
            "formulas by hand, torch.compile": lambda p: baselines.formulas_compiled(p, "step", compiler),
        }
    if compiler is None:
        return {name: _on(name, ours.integrate) for name in backends} | {_EAGER: baselines.flow_autograd}
    return {"formulas and autograd, torch.compile": lambda p: baselines.flow_formulas_compiled(p, compiler)}


def _named(problem: Any, name: str, result: Any, backends: list[str]) -> dict[str, torch.Tensor]:
    """A variant's result by the names of the leaves."""
    if isinstance(problem, FlowProblem):
        return problem.named(ours.flow_as_leaves(problem, result) if name in backends else result)
    found: dict[str, torch.Tensor] = problem.named(
        "step", ours.as_leaves(problem, result) if name in backends else result
    )
    return found


def measure(
    work: str,
    dim: int,
    rows: int,
    precision: str,
    backends: list[str],
    device: str,
    seconds: float,
    rates: Rates,
    compiler: str | None = None,
) -> list[Row]:
    """``work`` with all gradients by every variant at one size and precision.

    "step" is mean r² + ⟨ḡ, ∇u⟩, the step of training; "integrate" is T = 8 steps with residual. A variant that fails
    has a note in place of its numbers.
    """
    problems = [_made(work, dim, rows, seed).to(device) for seed in range(_copies(rows, dim, device))]
    exact = _exact(work, dim, rows, device)
    found = {n: Row(work, dim, rows, n, precision) for n in variants(work, backends, compiler)}
    calls: dict[str, list[Call]] = {}
    with products_in(precision):
        for name, build in variants(work, backends, compiler).items():
            try:
                copies = [build(p) for p in problems]
                results = [call() for call in copies]
                named = _named(problems[0], name, results[0], backends)
                found[name].error = max(relative_error(named[n], exact[n]) for n in exact)
                calls[name] = copies
            except Exception as error:  # whatever one variant cannot do must not cost the others' numbers
                found[name].note = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        for name, samples in interleaved(calls, device, seconds).items() if calls else ():
            row, median = found[name], statistics.median(samples)
            p: Any = problems[0]
            row.median_us, row.minimum_us = 1e6 * median, 1e6 * min(samples)
            operations = p.flops() if work == "integrate" else p.flops("step")
            row.of_matmul = operations / median / rates.matmul[precision]
            row.of_copy = p.least_bytes / median / rates.copy
    return list(found.values())


def sizes_in_order(
    dims: tuple[int, ...], rows: tuple[int, ...], precisions: tuple[str, ...]
) -> list[tuple[int, int, str]]:
    """(D, B, precision), first those of the first number of rows."""
    return [(dim, count, precision) for count, dim, precision in itertools.product(rows, dims, precisions)]

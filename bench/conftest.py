"""``pytest bench``: the suites under pytest-benchmark, one thread, fewer sizes and rounds than ``python -m bench``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1]))

from bench.environment import use_threads


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Runs benchmarks, which the project's settings skip by default, and takes one core before JAX is imported."""
    config.option.benchmark_skip = False
    use_threads(1)


@pytest.fixture
def run_variant(benchmark: Any) -> Callable[[str, str, int, int], None]:
    """Compares one variant's result with the reference, then times it in a few rounds."""
    import torch

    from bench.timing import calls_per_sample
    from bench.variants import check, make_problem, reference_result, variants

    def run(name: str, work: str, dim: int, rows: int) -> None:
        variant = next(v for v in variants(work) if v.name == name)
        torch._dynamo.reset()  # it gives up on code that it has compiled for many sizes
        problem = make_problem(work, dim, rows)
        call = variant.build(problem, work)
        result = call()
        if variant.comparable:
            check(variant, problem, work, result, reference_result(problem, work))
        del result
        benchmark.group = f"{work} D={dim} B={rows}"
        benchmark.extra_info |= {"variant": variant.title, "work": work, "dim": dim, "rows": rows}
        benchmark.pedantic(call, iterations=calls_per_sample(call), rounds=7)

    return run

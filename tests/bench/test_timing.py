"""The clockwork of the benchmarks."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from bench import report
from bench.fma_peak import TARGETS, measure
from bench.problems import Problem
from bench.run import Plan, Row
from bench.run import measure as measure_size
from bench.timing import interleave
from bench.variants import Variant, check, variants
from ffrl_fast import _core


def test_samples_are_taken_in_turns() -> None:
    order: list[str] = []

    def call(name: str) -> None:
        order.append(name)
        time.sleep(3e-4)

    timings = interleave({"a": lambda: call("a"), "b": lambda: call("b")}, seconds=10.0, most=6)
    assert {n: len(t.samples) for n, t in timings.items()} == {"a": 6, "b": 6}
    changes = sum(x != y for x, y in pairwise(order[-12:]))
    assert changes >= 5
    assert all(t.minimum >= 3e-4 and t.median >= t.minimum and t.cores < 0.9 for t in timings.values())


def test_slow_calls_are_kept_and_fast_ones_repeated() -> None:
    timings = interleave({"slow": lambda: time.sleep(0.01), "fast": lambda: None}, seconds=0.02)
    assert len(timings["slow"].samples) == 3
    assert timings["fast"].inner > 100


@pytest.mark.parametrize("isa", [name for name, able in _core.isas() if able and name in TARGETS])
def test_peak_is_what_a_core_can_do(isa: str) -> None:
    """``measure`` raises unless the rate fits the clock; a float64 lane is half as many as a float32 one."""
    try:
        single, double = measure(isa, samples=100), measure(isa, "float64", samples=100)
    except RuntimeError as error:
        if "compiler" in str(error):
            pytest.skip(str(error))
        raise
    assert 1.5 < single.flops / double.flops < 2.7


def test_a_wrong_result_is_not_timed() -> None:
    p = Problem(5, 7)
    right = next(v for v in variants("step") if v.name == "formulas")
    result = right.build(p, "step")()
    exact = right.named(p, "step", result)
    assert check(right, p, "step", result, exact) == 0
    value, gradients = result
    wrong = value, (gradients[0] * 1.01, *gradients[1:])
    with pytest.raises(ArithmeticError, match=r"relative error 1\.0e-02 of z"):
        check(right, p, "step", wrong, exact)
    broken = value * float("nan"), gradients
    with pytest.raises(ArithmeticError, match="value"):
        check(right, p, "step", broken, exact)


def test_report(tmp_path: Path) -> None:
    """A measured size and a row that failed, in all four files."""
    plan = Plan(only=("ours", "autograd"), seconds=0.01, memory_rows=())
    rows = measure_size(plan, "step", 8, 5, peak=1e11)
    assert [r.variant for r in rows] == ["ours", "autograd"]
    assert all(r.median_s and r.relative_error is not None and r.relative_error < 2e-4 for r in rows)
    rows.append(Row("step", 8, 5, "functional", "torch.func, eager", False, note="not run: needs about 99 GB"))
    facts = {
        "processor": "a processor",
        "threads": 1,
        "isa": "avx512",
        "dtype": "float32",
        "peak_gflops": 100.0,
        "torch": torch.__version__,
        "jax": None,
        "date": "2026-01-01",
        "command": "python -m bench",
    }
    pytest.importorskip("matplotlib")
    written = report.write(rows, facts, tmp_path)
    assert [p.name for p in written] == ["results.csv", "metadata.json", "results.md", "step.png"]
    table = (tmp_path / "results.md").read_text()
    assert "(1.0" not in table.split("ffrl_fast: the operator")[1].split("\n")[0]
    assert "99 GB" in table and "| torch.func, eager | – |" in table
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 4


def test_variants_have_unique_names() -> None:
    for work in Plan().works:
        found = [v.name for v in variants(work)]
        assert len(found) == len(set(found)) and "ours" in found
        assert all(isinstance(v, Variant) for v in variants(work))

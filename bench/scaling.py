"""How our own speed scales: ``python -m bench.scaling --out bench/results/scaling``. Each table is one interleaved run.

- rows: nanoseconds a row of ``value_and_grad`` from B = 8,192 to 1,000,000;
- threads: one thread against two, each operator with its gradients, five calls in a row;
- few: the same of few rows, where one thread is used however many there are if that takes less time;
- gates: one call with gates (B, 5) against five calls of one potential each, as the time of the products in both is
  the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.environment import metadata, use_threads

Call = Callable[[], object]


def _with_threads(threads: int, call: Call, times: int = 1) -> Call:
    def run() -> object:
        torch.set_num_threads(threads)
        for _ in range(times - 1):
            call()
        return call()

    return run


def rows_calls(dim: int = 64) -> dict[str, Call]:
    """``value_and_grad`` by the number of rows."""
    from bench import ours
    from bench.problems import Problem

    return {str(b): ours.value_and_grad(Problem(dim, b), "loss") for b in (8192, 65536, 262144, 1_000_000)}


FEW = ((64, 16), (64, 128), (324, 1), (324, 16))  # D and B
#: Calls that make one sample: a second thread that slept takes long to wake, and finds its share of the rows in
#: the other's cache; one that has worked spins a while beside the next call.
IN_A_ROW = {"threads": 5, "few": 100}


def thread_calls(sizes: Sequence[tuple[int, int]] = ((64, 8192), (324, 8192)), in_a_row: int = 1) -> dict[str, Call]:
    """Each operator with one thread and with two: "name, threads"."""
    from bench import ours
    from bench.problems import FlowProblem, Problem

    found: dict[str, Call] = {}
    for dim, rows in sizes:
        p = Problem(dim, rows)
        calls = {
            "value_and_grad": ours.value_and_grad(p, "loss"),
            "hj_loss": ours.hj_loss(p, "loss"),
            "potential_field": ours.operator(p, "operator"),
            "integrate": ours.integrate(FlowProblem(dim, rows)),
        }
        for name, call in calls.items():
            for threads in (1, 2):
                found[f"{name} D={dim} B={rows}, {threads}"] = _with_threads(threads, call, in_a_row)
    return found


def gates_calls(potentials: int = 5) -> dict[str, Call]:
    """``potential_field`` and its gradients: one call with gates, and one for each potential."""
    import ffrl_fast

    found: dict[str, Call] = {}
    for dim, rows in ((64, 1024), (64, 8192), (324, 1024)):
        bank = ffrl_fast.PotentialBank(potentials, dim)
        z = torch.randn(rows, dim, requires_grad=True)
        gates = torch.softmax(torch.randn(rows, potentials), 1).requires_grad_()
        dt_bar, grad_bar = torch.randn(rows), torch.randn(rows, dim)
        cotangents = (dt_bar, grad_bar)

        def mixture(bank=bank, z=z, gates=gates, cotangents=cotangents) -> object:  # type: ignore[no-untyped-def]
            out = ffrl_fast.potential_field(z, 0.5, bank, gates=gates)
            return torch.autograd.grad((out.dt, out.grad), (z, bank.theta, gates), cotangents)

        singles = [ffrl_fast.PotentialBank(1, dim) for _ in range(potentials)]

        def each(singles=singles, z=z, cotangents=cotangents) -> object:  # type: ignore[no-untyped-def]
            for one in singles:
                out = ffrl_fast.potential_field(z, 0.5, one)
                torch.autograd.grad((out.dt, out.grad), (z, one.theta), cotangents)
            return None

        found[f"D={dim} B={rows}, gates"] = mixture
        found[f"D={dim} B={rows}, {potentials} calls"] = each
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each call")
    parser.add_argument("--only", choices=("rows", "threads", "few", "gates"), action="append")
    parser.add_argument("--out", type=Path, default=Path("bench/results/scaling"))
    a = parser.parse_args()
    use_threads(2)

    from bench.fma_peak import measure as measure_peak
    from bench.report import write_table
    from bench.timing import interleave
    from ffrl_fast import _core

    peak = measure_peak(_core.isa())
    results: list[dict[str, Any]] = []
    tables = {
        "rows": rows_calls,
        "threads": lambda: thread_calls(in_a_row=IN_A_ROW["threads"]),
        "few": lambda: thread_calls(FEW, IN_A_ROW["few"]),
        "gates": gates_calls,
    }
    for table in a.only or tables:
        calls = tables[table]()
        if table not in IN_A_ROW:
            calls = {name: _with_threads(1, call) for name, call in calls.items()}
        times = IN_A_ROW.get(table, 1)
        for name, timing in interleave(calls, seconds=a.seconds).items():
            found = {"median_s": timing.median / times, "min_s": timing.minimum / times}
            results.append({"table": table, "call": name, **found})
    command = " ".join(["python -m bench.scaling", *(f"--only {table}" for table in a.only or ())])
    facts = metadata(2, command=command, dtype="float32", peak_gflops=peak.flops / 1e9)
    text = markdown(results, facts)
    write_table(results, facts, text, a.out)
    print(text)


def markdown(results: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The tables, with their ratios."""
    from bench.report import machine

    lines = [f"{machine(facts)}. `{facts['command']}`; medians and, in brackets, best samples."]

    def pairs(table: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        here = [r for r in results if r["table"] == table]
        return list(zip(here[::2], here[1::2], strict=True))

    here = [r for r in results if r["table"] == "rows"]
    if here:
        lines += ["", "**Nanoseconds a row of `value_and_grad`, D = H = 64, one thread**", ""]
        lines += ["| B | median | best | against the first |", "|---|---|---|---|"]
        first = here[0]["median_s"] / int(here[0]["call"])
        for r in here:
            b = int(r["call"])
            ns, best = 1e9 * r["median_s"] / b, 1e9 * r["min_s"] / b
            lines.append(f"| {b:,} | {ns:.1f} | {best:.1f} | {r['median_s'] / b / first:.2f} × |")
    titles = {
        "threads": ("Two threads against one, with all gradients", "1 thread, ms | 2 threads, ms | speed-up"),
        "few": ("The same of few rows", "1 thread, ms | 2 threads, ms | speed-up"),
        "gates": (
            "Gates (B, 5) against five calls of one potential, `potential_field` with all gradients",
            "gates, ms | five calls, ms | gates over calls",
        ),
    }
    for table, (title, heads) in titles.items():
        if pairs(table):
            lines += ["", f"**{title}**", "", f"| | {heads} |", "|---|---|---|---|"]
        for one, other in pairs(table):
            ratio, best = one["median_s"] / other["median_s"], one["min_s"] / other["min_s"]
            name = one["call"].rsplit(",", 1)[0]
            times = f"{1e3 * one['median_s']:.3g} | {1e3 * other['median_s']:.3g}"
            lines.append(f"| {name} | {times} | {ratio:.2f} × ({best:.2f} ×) |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()

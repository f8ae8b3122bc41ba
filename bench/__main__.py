"""``python -m bench --threads 1 --out bench/results``: measures, and writes CSV, metadata, tables and plots."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.environment import metadata, use_threads

if TYPE_CHECKING:
    from bench.run import Row


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(x) for x in text.split(",") if x)


def _names(text: str) -> tuple[str, ...]:
    return tuple(x for x in text.split(",") if x)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split(":", 1)[1].strip())
    p.add_argument("--threads", type=int, default=1)
    p.add_argument(
        "--only", type=_names, default=(), metavar="WORK,…", help="forward, operator, step, loss, integrate, …"
    )
    p.add_argument("--variants", type=_names, default=(), metavar="NAME,…", help="rows of bench/variants.py; all")
    p.add_argument("--sizes", type=_integers, default=(), metavar="D,…", help="16,64,324")
    p.add_argument("--rows", type=_integers, default=(), metavar="B,…", help="1,16,128,1024,8192,65536")
    p.add_argument(
        "--time", choices=("learned", "given"), default="learned", help="where τ comes from: bench/problems.py"
    )
    p.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="JAX rows are float32 only")
    p.add_argument("--seconds", type=float, default=1.0, help="for one variant at one size; at least 3 samples")
    p.add_argument(
        "--memory", type=_integers, default=None, metavar="B,…", help="rows at which memory is measured; 8192"
    )
    p.add_argument("--quick", action="store_true", help="fewer sizes, a fifth of a second each, no memory")
    p.add_argument("--out", type=Path, default=Path("bench/results"))
    return p


def main() -> None:
    arguments = parser().parse_args()
    use_threads(arguments.threads)

    from bench import report
    from bench.fma_peak import measure as measure_peak
    from bench.run import DIMS, ROWS, WORKS, Plan, measure
    from ffrl_fast import _core

    unknown = set(arguments.only) - set(WORKS)
    if unknown:
        raise SystemExit(f"--only: expected names among {', '.join(WORKS)}, found {', '.join(sorted(unknown))}")
    quick = arguments.quick
    plan = Plan(
        works=arguments.only or WORKS,
        dims=arguments.sizes or ((64,) if quick else DIMS),
        rows=arguments.rows or ((16, 128, 1024) if quick else ROWS),
        time=arguments.time,
        dtype=arguments.dtype,
        threads=arguments.threads,
        seconds=min(arguments.seconds, 0.2) if quick else arguments.seconds,
        memory_rows=arguments.memory if arguments.memory is not None else () if quick else (8192,),
        only=arguments.variants,
    )
    started = time.monotonic()
    before = measure_peak(_core.isa(), arguments.dtype)
    facts = metadata(
        arguments.threads,
        command=" ".join(["python -m bench", *sys.argv[1:]]),
        time=arguments.time,
        dtype=arguments.dtype,
        peak_gflops=before.flops / 1e9,
        peak=before.as_dict(),
    )
    rows: list[Row] = []
    for work, dim, count in plan.sizes():
        found = measure(plan, work, dim, count, before.flops)
        rows += found
        _print(found, time.monotonic() - started)
        # Written after every size: a run that is cut short leaves what it has.
        facts["minutes"] = round((time.monotonic() - started) / 60, 1)
        facts["peak_gflops_after"] = measure_peak(_core.isa(), arguments.dtype, samples=20).flops / 1e9
        written = report.write(rows, facts, arguments.out)
    print(*written, sep="\n")


def _print(rows: list[Row], elapsed: float) -> None:
    first = rows[0]
    print(f"\n{first.work}  D = {first.dim}  B = {first.rows}  ({elapsed:.0f} s)", flush=True)
    for r in rows:
        if r.median_s is None:
            print(f"  {r.title:<44} {r.note}")
            continue
        ratio = "" if r.times_ours_median is None else f"{r.times_ours_median:7.2f} ×"
        memory = "" if r.extra_memory_bytes is None else f"  {r.extra_memory_bytes / 1e6:8.1f} MB"
        print(
            f"  {r.title:<44} {1e3 * r.median_s:10.4f} ms  best {1e3 * (r.min_s or 0):10.4f}  {ratio}"
            f"  {100 * (r.peak_fraction_best or 0):5.1f} %  cores {r.cores_busy:.2f}{memory}"
        )


if __name__ == "__main__":
    main()

"""``python -m bench.gpu --out docs/benchmarks/gpu``: everything about the GPU backends that only a GPU can tell.

In this order, within ten minutes: the tests of ``tests/gpu``, again under compute-sanitizer where it is installed, then
the speed of every path against eager autograd, torch.func under torch.compile and the hand-derived formulas under
torch.compile, as fractions of the measured matmul rate and copy bandwidth; then a minute of training. Writes
``results.csv``, ``metadata.json`` and ``results.md``.

Times are taken with CUDA events around single calls, in turns over all variants; each call finds another copy of its
inputs, so that together they do not fit in the L2 cache.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import ffrl_fast
from bench import baselines, ours
from bench.problems import FlowProblem, Problem
from bench.report import write_table
from bench.variants import flow_reference
from ffrl_fast.tolerances import relative_error

Call = Callable[[], Any]
PRECISIONS = ("ieee", "tf32", "bf16")
BASELINES: dict[str, Callable[[Problem, Any], Call]] = {
    "eager autograd": baselines.autograd_shared_time,
    "torch.func, torch.compile": baselines.functional_compiled,
    "formulas by hand, torch.compile": baselines.formulas_compiled,
}
_MATMUL_SETTING = {"ieee": "highest", "tf32": "high", "bf16": "medium"}


@dataclass
class Row:
    """One measured variant; ``error`` is the largest relative error of its value and gradients against float64."""

    work: str
    dim: int
    rows: int
    variant: str
    precision: str
    median_us: float
    minimum_us: float
    of_matmul: float  # its products' operations a second over those of the measured matmul of the same precision
    error: float


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


def seconds_of(call: Call, device: str) -> float:
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


def interleaved(calls: dict[Any, list[Call]], device: str, seconds: float) -> dict[Any, list[float]]:
    """Seconds of single calls, all variants in turns, each turn on the next copy of the inputs."""
    for copies in calls.values():
        for call in copies:
            call()
    samples: dict[Any, list[float]] = {name: [] for name in calls}
    until = time.monotonic() + seconds
    for turn in itertools.count():
        for name, copies in calls.items():
            samples[name].append(seconds_of(copies[turn % len(copies)], device))
        if turn >= 4 and time.monotonic() > until:
            return samples
    raise AssertionError("itertools.count ended")


def matmul_rate(precision: str, device: str, size: int) -> float:
    """Operations a second of one large product."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    with products_in(precision):
        times = interleaved({"": [lambda: a @ b]}, device, 0.5)[""]
    return 2.0 * size**3 / statistics.median(times)


def copy_bandwidth(device: str, size: int) -> float:
    """Bytes a second, read and written, of a copy within the device's memory."""
    a, b = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2.0 * size / statistics.median(interleaved({"": [lambda: b.copy_(a)]}, device, 0.5)[""])


def _copies(rows: int, dim: int, device: str) -> int:
    """So many copies of the inputs that together they exceed any L2 cache; at most 8."""
    return 1 if device == "cpu" else max(1, min(8, -(-(256 << 20) // (12 * rows * dim))))


def _ours(backend: str, call: Call, precision: str) -> Call:
    def run() -> Any:
        with ffrl_fast.use_backend(backend), products_in(precision):
            return call()

    return run


def _in_precision(call: Call, precision: str) -> Call:
    def run() -> Any:
        with products_in(precision):
            return call()

    return run


def _worst(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    return max(relative_error(found[name], exact[name]) for name in exact)


def measure_step(dim: int, rows: int, precision: str, backends: list[str], device: str, seconds: float) -> list[Row]:
    """The step of training, mean r² + ⟨ḡ, ∇u⟩ with all gradients, by every variant at one precision."""
    problems = [Problem(dim, rows, seed=seed) for seed in range(_copies(rows, dim, device))]
    here = [p.to(device) for p in problems]
    exact_problem = Problem(dim, rows, dtype=torch.float64).to(device)
    exact = exact_problem.named("step", baselines.formulas_eager(exact_problem, "step")())
    calls: dict[str, list[Call]] = {}
    for backend in backends:
        calls[backend] = [_ours(backend, ours.operator(p, "step"), precision) for p in here]
    for title, build in BASELINES.items():
        calls[title] = [_in_precision(build(p, "step"), precision) for p in here]
    errors = {}
    for name, copies in calls.items():
        result = copies[0]()
        result = ours.as_leaves(here[0], result) if name in backends else result
        errors[name] = _worst(here[0].named("step", result), exact)
    rate = matmul_rate(precision, device, 8192 if device != "cpu" else 256)
    return [
        _row("step", dim, rows, name, precision, samples, problems[0].flops("step") / rate, errors[name])
        for name, samples in interleaved(calls, device, seconds).items()
    ]


def measure_integrate(
    dim: int, rows: int, precision: str, backends: list[str], device: str, seconds: float
) -> list[Row]:
    """T = 8 steps with residual, forward and backward."""
    here = [FlowProblem(dim, rows, seed=seed).to(device) for seed in range(_copies(rows, dim, device))]
    exact = flow_reference(FlowProblem(dim, rows, dtype=torch.float64).to(device))
    calls = {b: [_ours(b, ours.integrate(p), precision) for p in here] for b in backends}
    calls["eager autograd"] = [_in_precision(baselines.flow_autograd(p), precision) for p in here]
    errors = {}
    for name, copies in calls.items():
        result = copies[0]()
        result = ours.flow_as_leaves(here[0], result) if name in backends else result
        errors[name] = _worst(here[0].named(result), exact)
    rate = matmul_rate(precision, device, 8192 if device != "cpu" else 256)
    return [
        _row("integrate", dim, rows, name, precision, samples, here[0].flops() / rate, errors[name])
        for name, samples in interleaved(calls, device, seconds).items()
    ]


def _row(
    work: str, dim: int, rows: int, name: str, precision: str, samples: list[float], floor: float, error: float
) -> Row:
    median = statistics.median(samples)
    return Row(work, dim, rows, name, precision, 1e6 * median, 1e6 * min(samples), floor / median, error)


def markdown(rows: list[Row], metadata: dict[str, Any]) -> str:
    lines = [
        f"{metadata['device']}; torch {metadata['torch']}; {metadata['date']}. `{metadata['command']}`",
        "",
        f"Copy bandwidth {metadata['copy_gb_s']:.0f} GB/s. Times are medians of single calls by CUDA events. The last "
        "column is the largest relative error of the value and all gradients against float64.",
        "",
        "| work | D | B | variant | products | µs | of the matmul rate | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.work} | {r.dim} | {r.rows:,} | {r.variant} | {r.precision} | {r.median_us:.1f} | {r.of_matmul:.0%} | "
        f"{r.error:.1e} |"
        for r in rows
    ]
    return "\n".join([*lines, "", *(f"- {step}" for step in metadata["steps"]), ""])


def _run(title: str, *command: str) -> str:
    """Runs a command to its end; one line about how it went."""
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    last = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[-1]
    state = "passed" if done.returncode == 0 else f"FAILED with {done.returncode}"
    return f"{title}: {state} in {time.monotonic() - begun:.0f} s: {last}"


def checks(out: Path) -> list[str]:
    """The GPU tests, plainly and under compute-sanitizer, and a minute of training."""
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu"]
    steps = [_run("tests", *tests)]
    sanitizer = shutil.which("compute-sanitizer")
    for tool in ("memcheck", "racecheck"):
        if sanitizer is None:
            steps.append(f"compute-sanitizer {tool}: not run, compute-sanitizer is not on the PATH")
        else:
            few = [*tests, "-k", "small"]
            steps.append(_run(f"compute-sanitizer {tool}", sanitizer, "--tool", tool, "--error-exitcode", "9", *few))
    train = ("train", "--preset", "quickstart", "--device", "cuda", "--minutes", "1", "--out", str(out / "run"))
    return [*steps, _run("ffrl train --device cuda", sys.executable, "-m", "ffrl", *train)]


def able(device: str, names: list[str]) -> list[str]:
    """Those of the named backends that can run on ``device``; prints why the others cannot."""
    found = []
    for name in names:
        line = next(x for x in ffrl_fast.explain(device=device).splitlines()[1:] if x[2:].split()[0] == name)
        if line[2:].split()[1] == "yes":
            found.append(name)
        else:
            print(line[2:])
    return found


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(x) for x in text.split(","))


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m bench.gpu")
    p.add_argument("--out", type=Path, default=Path("docs/benchmarks/gpu"))
    p.add_argument("--device", default="cuda", help="cpu exercises the command itself where there is no GPU")
    p.add_argument("--sizes", type=_integers, default=(64, 128, 324), metavar="D,…")
    p.add_argument("--rows", type=_integers, default=(1024, 8192, 65536), metavar="B,…")
    p.add_argument("--precisions", default=",".join(PRECISIONS))
    p.add_argument("--backends", default="triton,cuda,reference")
    p.add_argument("--seconds", type=float, default=1.0, help="for all variants of one size and precision")
    p.add_argument("--no-checks", action="store_true", help="speed alone: no tests, no sanitizer, no training")
    arguments = p.parse_args(argv)
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        print("bench.gpu needs a GPU: torch.cuda.is_available() is False", file=sys.stderr)
        return 2
    backends = able(device, arguments.backends.split(","))
    steps = [] if arguments.no_checks else checks(arguments.out)
    rows: list[Row] = []
    for dim, count, precision in itertools.product(arguments.sizes, arguments.rows, arguments.precisions.split(",")):
        for measure in (measure_step, measure_integrate):
            rows += measure(dim, count, precision, backends, device, arguments.seconds)
            print(f"D = {dim}, B = {count}, {precision}: {rows[-1].work} done", flush=True)
    metadata = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU: this is not a measurement of a GPU",
        "capability": torch.cuda.get_device_capability() if device == "cuda" else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": f"python -m bench.gpu {' '.join(sys.argv[1:] if argv is None else argv)}".strip(),
        "copy_gb_s": 1e-9 * copy_bandwidth(device, 1 << (30 if device == "cuda" else 20)),
        "matmul_tflops": {x: 1e-12 * matmul_rate(x, device, 8192 if device == "cuda" else 256) for x in PRECISIONS},
        "steps": steps,
    }
    text = markdown(rows, metadata)
    write_table([asdict(r) for r in rows], metadata, text, arguments.out)
    print(text)
    return 1 if any("FAILED" in step for step in steps) else 0


if __name__ == "__main__":
    sys.exit(main())

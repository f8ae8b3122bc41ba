"""``python -m bench.gpu --out docs/benchmarks/gpu``: everything about the GPU backends that only a GPU can tell.

In this order, within ``--minutes`` (ten): the tests of ``tests/gpu``, again under compute-sanitizer where it is
installed, half a minute of training; then the speed of every path against eager autograd, torch.func under
torch.compile and the hand-derived formulas under torch.compile, as fractions of the measured matmul rate and copy
bandwidth (:mod:`bench.gpu_speed`). Compiling takes longest, so what is compiled comes last, and what the time did not
suffice for is named. Writes ``results.csv``, ``metadata.json`` and ``results.md``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import ffrl_fast
from bench.gpu_speed import PRECISIONS, WORKS, Rates, Row, measure, sizes_in_order
from bench.report import write_table

ROOT = Path(__file__).parents[1]
# -P: this folder must not hide the installed package.
TESTS = (sys.executable, "-P", "-m", "pytest", "-q", "-m", "gpu", "tests/gpu")
#: The tests that compute-sanitizer can go through in a minute.
FEW = (*TESTS, "-k", "small")
TRAIN = (sys.executable, "-P", "-m", "ffrl", "train", "--device", "cuda", "--minutes", "0.5")
#: Shares of the time for the tests, each tool of compute-sanitizer, and the training with its start.
_FOR_TESTS, _FOR_SANITIZER, _FOR_TRAINING = 0.35, 0.1, 0.1
#: A block of torch's own allocator would hide an access beyond a tensor.
_APART = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


class Deadline:
    """The time that is left."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()


def run(title: str, command: tuple[str, ...], seconds: float, environment: dict[str, str] | None = None) -> str:
    """Runs a command in the checkout for at most so long; one line about how it went."""
    begun = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=max(seconds, 0),
        )
    except subprocess.TimeoutExpired:
        return f"{title}: NOT FINISHED in {seconds:.0f} s"
    last = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[-1]
    state = "passed" if done.returncode == 0 else f"FAILED with {done.returncode}"
    return f"{title}: {state} in {time.monotonic() - begun:.0f} s: {last}"


def checks(out: Path, deadline: Deadline) -> list[str]:
    """The GPU tests, plainly and under compute-sanitizer, and half a minute of training; a line about each."""
    of = deadline.seconds
    steps = [run("tests", TESTS, _FOR_TESTS * of)]
    sanitizer = shutil.which("compute-sanitizer")
    for tool in ("memcheck", "racecheck"):
        title = f"compute-sanitizer {tool}"
        if sanitizer is None:
            steps.append(f"{title}: not run, compute-sanitizer is not on the PATH")
        else:
            command = (sanitizer, "--tool", tool, "--error-exitcode", "9", *FEW)
            steps.append(run(title, command, _FOR_SANITIZER * of, _APART))
    train = (*TRAIN, "--out", str((out / "run").absolute()))
    return [*steps, run("ffrl train --device cuda", train, _FOR_TRAINING * of)]


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


def speed(
    arguments: argparse.Namespace, backends: list[str], rates: Rates, deadline: Deadline
) -> tuple[list[Row], list[str]]:
    """The rows, and a line about what failed or was left out."""
    rows: list[Row] = []
    notes: list[str] = []
    sizes = sizes_in_order(arguments.sizes, arguments.rows, arguments.precisions)
    for compiler in (None, arguments.compiler):
        what = "compiled by torch" if compiler else "not compiled"
        for number, (dim, count, precision) in enumerate(sizes):
            if deadline.left <= 0:
                left = ", ".join(f"D = {d}, B = {b:,} in {p}" for d, b, p in sizes[number:])
                notes.append(f"not measured for want of time, {what}: {left}")
                break
            torch._dynamo.reset()  # it gives up on code that it has compiled for many sizes
            for work in WORKS:
                rows += measure(
                    *(work, dim, count, precision, backends, arguments.device, arguments.seconds, rates, compiler)
                )
            print(f"D = {dim}, B = {count:,}, {precision}, {what}: done", flush=True)
    notes += [
        f"{r.work}, D = {r.dim}, B = {r.rows:,}, {r.precision}, {r.variant}: FAILED: {r.note}" for r in rows if r.note
    ]
    order = {key: i for i, key in enumerate((w, *s) for w in WORKS for s in sizes)}
    return sorted(rows, key=lambda r: order[r.work, r.dim, r.rows, r.precision]), notes


def markdown(rows: list[Row], metadata: dict[str, Any]) -> str:
    matmul = ", ".join(f"{p} {x:.0f}" for p, x in metadata["matmul_tflops"].items())
    lines = [
        f"{metadata['device']}; torch {metadata['torch']}; {metadata['date']}. `{metadata['command']}`",
        "",
        f"One large product: {matmul} TFLOP/s; a copy: {metadata['copy_gb_s']:.0f} GB/s. Times are medians of single "
        "calls by CUDA events, their inputs not in the L2 cache. The last column is the largest relative error of the "
        'value and all gradients against float64. torch\'s own float32 products are in tf32 where "bf16" stands.',
        "",
        "| work | D | B | variant | products | µs | of the matmul rate | of the copy bandwidth | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        measured = ["–"] * 4
        if r.median_us is not None:
            measured = [f"{r.median_us:.1f}", f"{r.of_matmul:.0%}", f"{r.of_copy:.0%}", f"{r.error:.1e}"]
        lines.append(f"| {r.work} | {r.dim} | {r.rows:,} | {r.variant} | {r.precision} | {' | '.join(measured)} |")
    return "\n".join([*lines, "", *(f"- {step}" for step in metadata["steps"]), ""])


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(x) for x in text.split(","))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m bench.gpu")
    p.add_argument("--out", type=Path, default=Path("docs/benchmarks/gpu"))
    p.add_argument("--device", default="cuda", help="cpu exercises the command itself where there is no GPU")
    p.add_argument("--minutes", type=float, default=10.0, help="for everything")
    p.add_argument("--sizes", type=_integers, default=(64, 128, 324), metavar="D,…")
    p.add_argument("--rows", type=_integers, default=(8192, 65536, 1024), metavar="B,…", help="the most telling first")
    p.add_argument("--precisions", type=_words, default=PRECISIONS)
    p.add_argument("--backends", type=_words, default=("triton", "cuda", "reference"))
    p.add_argument("--compiler", default="inductor", help="backend of torch.compile for the peers")
    p.add_argument("--seconds", type=float, default=0.5, help="for all variants of one size and precision")
    p.add_argument("--no-checks", action="store_true", help="speed alone: no tests, no sanitizer, no training")
    arguments = p.parse_args(argv)
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        print("bench.gpu needs a GPU: torch.cuda.is_available() is False", file=sys.stderr)
        return 2
    deadline = Deadline(60 * arguments.minutes)
    backends = able(device, list(arguments.backends))
    steps = [] if arguments.no_checks else checks(arguments.out, deadline)
    print("\n".join(steps), flush=True)
    rates = Rates.measured(device)
    rows, notes = speed(arguments, backends, rates, deadline)
    metadata = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU: this is not a measurement of a GPU",
        "capability": torch.cuda.get_device_capability() if device == "cuda" else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": f"python -m bench.gpu {' '.join(sys.argv[1:] if argv is None else argv)}".strip(),
        "copy_gb_s": 1e-9 * rates.copy,
        "matmul_tflops": {name: 1e-12 * x for name, x in rates.matmul.items()},
        "steps": [*steps, *notes],
    }
    text = markdown(rows, metadata)
    write_table([asdict(r) for r in rows], metadata, text, arguments.out)
    print(text)
    return 1 if any("FAILED" in x or "NOT FINISHED" in x for x in metadata["steps"]) else 0


if __name__ == "__main__":
    sys.exit(main())

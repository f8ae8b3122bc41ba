"""``python -m ffrl_fast.profile``: where the time of a call goes, phase by phase, and how near the processor's limit.

From Python, :func:`record` does the same for any code that calls the operators.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

import ffrl_fast
from ffrl_fast import _core, native
from ffrl_fast.backends import Request, choose

#: The engine's phases in the order of csrc/core/phases.hpp; formulas as in docs/engine.md.
PHASES = (
    "pack weights",
    "τ, dτ/dt",
    "a = tanh(W_in z + b_in)",
    "c = tanh(W s + b)",
    "v = Wᵀ ĥ",
    "∇u = W_inᵀ g_a",
    "d_ga = W_in ḡ",
    "d_ĥ = W d_v",
    "d_s = Wᵀ d_p",
    "d_z = W_inᵀ d_q",
    "dW = d_pᵀ s + ĥᵀ d_v",
    "combine gradients",
)
_REST = "rows in and out, waiting"


@dataclass(frozen=True)
class PhaseTime:
    """``seconds``: added up over threads. ``operations``: of the products alone, a multiply-add counted as two."""

    name: str
    seconds: float
    operations: float


@dataclass
class Record:
    """What the engine did within :func:`record`; filled when the block ends.

    ``engine_seconds``: wall time within the engine; ``threads``: torch's threads, which the engine may use.
    """

    threads: int = 0
    engine_seconds: float = 0.0
    phases: list[PhaseTime] = field(default_factory=list)

    @property
    def operations(self) -> float:
        """Of all products."""
        return sum(p.operations for p in self.phases)


@contextlib.contextmanager
def record() -> Iterator[Record]:
    """Times the phases of every operator that runs on the ``cpu`` backend within the block, whichever thread calls it.

    The last phase is what the named ones leave of the engine's time on all its threads. Timing costs about 0.1 µs a
    phase and tile of 48 rows.
    """
    found = Record()
    with native.record_phases() as records:
        yield found
    entries = records[:, :-1].reshape(records.shape[0], len(PHASES), 2)
    seconds, operations = entries.sum(0).T.tolist()
    found.engine_seconds = float(records[:, -1].sum())
    found.threads = int((records[:, :-1].abs().sum(1) > 0).sum())
    found.phases = [PhaseTime(*of) for of in zip(PHASES, seconds, operations, strict=True)]
    rest = found.engine_seconds * found.threads - sum(seconds)
    found.phases.append(PhaseTime(_REST, max(rest, 0.0), 0.0))


def _integer(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        with contextlib.suppress(ValueError):
            if least <= int(text) <= most:
                return int(text)
        raise argparse.ArgumentTypeError(f"expected an integer from {least} to {most}, found {text!r}")

    return parse


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(float(text)) and float(text) > 0:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a finite number > 0, found {text!r}")


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m ffrl_fast.profile",
        description="Times one operator with all its gradients, phase by phase, on random data.",
    )
    # Bounds far above what anyone profiles: the steps' times are a list, torch's threads a 32-bit number.
    steps, size = _integer(0, 2**16), _integer(1, 2**20)
    p.add_argument("--operator", choices=("hj_loss", "hj_residual", "potential_field"), default="hj_loss")
    p.add_argument("--steps", type=steps, default=0, metavar="T", help="integrate T steps with their residual instead")
    p.add_argument("--batch", type=_integer(1, 2**31 - 1), default=8192, metavar="B")
    p.add_argument("--dim", type=size, default=64, metavar="D")
    p.add_argument("--width", type=size, default=None, metavar="H", help="by default D")
    p.add_argument("--depth", type=_integer(1, 1024), default=1, metavar="L")
    p.add_argument("--potentials", type=size, default=1, metavar="K", help="rows are shared out evenly among them")
    p.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    p.add_argument("--threads", type=_integer(1, 1024), default=None, help="by default torch's")
    p.add_argument("--seconds", type=_seconds, default=2.0, help="for how long to repeat the call")
    p.add_argument("--dry-run", action="store_true", help="say what would run, and run nothing")
    return p


def _call(a: argparse.Namespace, bank: ffrl_fast.PotentialBank) -> Callable[[], object]:
    """The operator with all its gradients."""
    z = torch.randn(a.batch, a.dim, dtype=bank.theta.dtype).requires_grad_()
    index = torch.arange(a.batch) % a.potentials if a.potentials > 1 else None
    leaves = (z, bank.theta)

    def loss() -> Tensor:
        if a.steps:
            times = [float(t) for t in range(1, a.steps + 1)]
            path = ffrl_fast.integrate(z, times, bank, index=index, outputs=("residual",))
            assert path.residual is not None
            return path.residual.square().mean() + path.z[-1].square().mean()
        if a.operator == "hj_loss":
            return ffrl_fast.hj_loss(z, 0.5, bank, index=index)
        if a.operator == "hj_residual":
            return ffrl_fast.hj_residual(z, 0.5, bank, index=index).residual.square().mean()
        out = ffrl_fast.potential_field(z, 0.5, bank, index=index)
        return out.dt.square().mean() + out.grad.square().mean()

    return lambda: torch.autograd.grad(loss(), leaves)


def _of_memory(error: Exception) -> bool:
    """Whether an allocation failed, or its size is no 64-bit number; torch has no class for either on the CPU."""
    known = ("can't allocate memory", "out of memory", "overflow")
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in known)


def main(arguments: list[str] | None = None) -> None:
    parser = _parser()
    a = parser.parse_args(arguments)
    a.width = a.dim if a.width is None else a.width
    if a.threads is not None:
        torch.set_num_threads(a.threads)
    operator = "integrate" if a.steps else a.operator
    dtype = torch.float32 if a.dtype == "float32" else torch.float64
    request = Request(operator=operator, dtype=dtype)
    try:
        backend = choose(request)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    threads, moments = torch.get_num_threads(), max(a.steps, 1)
    # Four products forward and eight backward, math as in docs/engine.md; nothing else is counted.
    weights = a.width * (a.dim + a.depth * a.width)
    operations = 12.0 * a.batch * weights * moments

    what = f"B = {a.batch:,}, D = {a.dim}, H = {a.width}, L = {a.depth}, K = {a.potentials}, {a.dtype}"
    print(f"{operator} and its gradients: {what}" + (f", T = {a.steps}" if a.steps else ""))
    print(f"backend {backend.name}: {backend.can_run(request).reason}; at most {threads} threads")
    print(f"{operations / 1e9:.3g} GFLOP a call in {12 * moments} products" + (" a layer" if a.depth > 1 else ""))
    if a.dry_run:
        return
    try:
        bank = ffrl_fast.PotentialBank(a.potentials, a.dim, a.width, a.depth, dtype=dtype)
        call = _call(a, bank)
        call()
    except (MemoryError, RuntimeError) as error:
        if not _of_memory(error):
            raise
        parser.exit(1, f"{parser.prog}: {what} does not fit into memory\n")
    rate = (_core.fma_rate_f32 if dtype == torch.float32 else _core.fma_rate_f64)(0.2)
    samples: list[float] = []
    with record() as found:
        end = time.perf_counter() + a.seconds
        while not samples or time.perf_counter() < end:
            start = time.perf_counter()
            call()
            samples.append(time.perf_counter() - start)
    if backend.name == "cpu":
        _report(found, samples, operations, rate)
    else:
        print(f"{1e3 * statistics.median(samples):.3f} ms a call; only the cpu backend can tell its phases")


def _report(found: Record, samples: list[float], operations: float, rate: float) -> None:
    calls, median, best = len(samples), statistics.median(samples), min(samples)
    peak = rate * found.threads
    print(f"FMA peak {rate / 1e9:.0f} GFLOP/s a core, measured now; {found.threads} threads at work\n")
    print(
        f"{1e3 * median:.3f} ms a call, best {1e3 * best:.3f} of {calls}; "
        f"{100 * operations / median / peak:.0f} % of peak, best {100 * operations / best / peak:.0f} %\n"
    )
    print(f"{'phase':<28}{'ms a call':>12}{'share':>8}{'GFLOP/s':>10}{'of peak':>9}")
    total = sum(samples)
    for p in found.phases:
        wall = p.seconds / found.threads
        speed = p.operations / wall if p.operations and wall else 0.0
        tail = f"{speed / 1e9:10.0f}{100 * speed / peak:7.0f} %" if speed else ""
        print(f"{p.name:<28}{1e3 * wall / calls:12.4f}{100 * wall / total:6.1f} %{tail}")
    outside = total - found.engine_seconds
    print(f"{'Python and autograd':<28}{1e3 * outside / calls:12.4f}{100 * outside / total:6.1f} %")


if __name__ == "__main__":
    main()

"""The floating-point peak of one core, by instruction set: ``python -m bench.fma_peak``.

Every fraction of peak in the reports is of this number, measured in the same run. It comes from independent chains of
multiply-adds that live in registers (``fma_peak.cpp``), and is believed only if it is what a core with one or two
vector units can do at the clock measured beside it: code that spills its accumulators fails that test.
"""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

#: Instruction set of the engine -> (compiler flags, bytes of a vector, accumulators that fit beside the two operands).
_X86 = {
    "avx512": (["-march=x86-64-v4", "-mprefer-vector-width=512"], 64, 24),
    "avx2": (["-march=x86-64-v3"], 32, 12),
    "baseline": (["-march=x86-64-v2"], 16, 12),
}
_ARM: dict[str, tuple[list[str], int, int]] = {"neon": ([], 16, 24)}
TARGETS = _ARM if platform.machine() in ("aarch64", "arm64") else _X86

#: Operations per lane and cycle: one multiply-add unit (or one multiplier and one adder) … two, and the clock's noise.
_SLOWEST, _FASTEST = 2 * 0.95, 4 * 1.08


@dataclass(frozen=True)
class Peak:
    """``flops``: multiplications and additions a second of one core. ``clock``: cycles a second, measured beside."""

    isa: str
    dtype: str
    flops: float
    clock: float
    per_lane_cycle: float

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def measure(isa: str, dtype: str = "float32", samples: int = 100) -> Peak:
    """The best of ``samples`` runs of about 50 µs or more each, on the core that the caller runs on.

    Raises:
        RuntimeError: when there is no compiler, or the result is not what a core can do.
    """
    flags, width, accumulators = TARGETS[isa]
    real = {"float32": "float", "float64": "double"}[dtype]
    source = Path(__file__).with_suffix(".cpp")
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "peak")
        command = [os.environ.get("CXX", "g++"), "-std=c++20", "-O3", "-ffp-contract=fast", *flags]
        command += [f"-DVECTOR_BYTES={width}", f"-DACCUMULATORS={accumulators}", f"-DREAL={real}"]
        try:
            subprocess.run([*command, str(source), "-o", program], check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise RuntimeError(f"the peak needs a C++ compiler: {error}") from error
        printed = subprocess.run([program, str(samples)], check=True, capture_output=True, text=True).stdout.split()
    flops, clock, lanes = float(printed[0]), float(printed[1]), int(printed[2])
    per_lane_cycle = flops / (clock * lanes)
    if not _SLOWEST <= per_lane_cycle <= _FASTEST:
        raise RuntimeError(
            f"{isa} {dtype}: {flops / 1e9:.1f} GFLOP/s at {clock / 1e9:.2f} GHz is {per_lane_cycle:.2f} operations per "
            f"lane and cycle; expected {_SLOWEST:.2f} … {_FASTEST:.2f}. The machine is busy, or the code spills"
        )
    return Peak(isa, dtype, flops, clock, per_lane_cycle)


def main() -> None:
    from ffrl_fast import _core

    able = {name for name, supported in _core.isas() if supported}
    for isa in TARGETS:
        if isa in able:
            for dtype in ("float32", "float64"):
                p = measure(isa, dtype)
                print(
                    f"{isa:<9} {dtype}  {p.flops / 1e9:7.1f} GFLOP/s  {p.clock / 1e9:.2f} GHz  {p.per_lane_cycle:.2f}"
                )


if __name__ == "__main__":
    main()

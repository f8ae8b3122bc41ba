"""The error of the core's own elementary functions, on every instruction set that this processor has.

By default every 193rd float and the neighbourhoods of all special points; with FFRL_FAST_EXHAUSTIVE=1, all floats and
sixty million doubles (minutes for each instruction set).
"""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
EXHAUSTIVE = os.environ.get("FFRL_FAST_EXHAUSTIVE") == "1"
X86 = platform.machine().lower() in ("x86_64", "amd64")

# Compiler options, and the flag of /proc/cpuinfo that the processor needs.
INSTRUCTION_SETS = {
    "baseline": ("-march=x86-64-v2", 16, 16, "sse4_2"),
    "avx2": ("-march=x86-64-v3", 32, 16, "avx2"),
    "avx512": ("-march=x86-64-v4", 64, 32, "avx512vl"),
    "neon": ("-march=armv8-a", 16, 32, None),
}

# The largest errors allowed, and those beyond the range of the first: see elementary_ulp.cpp.
BOUNDS = {"tanh": (2, 0), "exp": (2, 0), "normal_cdf": (4, 16), "sin": (2, 1), "cos": (2, 1)}


def runnable():
    if not X86:
        return ["neon"] if platform.machine().lower() in ("aarch64", "arm64") else []
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = {"sse4_2"}
    return [isa for isa, (*_, flag) in INSTRUCTION_SETS.items() if flag in flags]


def compile_survey(isa, folder):
    march, vector_bytes, registers, _ = INSTRUCTION_SETS[isa]
    program = folder / f"elementary_ulp_{isa}"
    command = ["g++", "-std=c++20", "-O3", "-ffp-contract=fast", "-Wall", "-Wextra", "-Werror", march]
    command += [f"-DFFRL_ISA={isa}", f"-DFFRL_VECTOR_BYTES={vector_bytes}", f"-DFFRL_VECTOR_REGISTERS={registers}"]
    built = subprocess.run(
        [*command, str(HERE / "elementary_ulp.cpp"), "-o", str(program)], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return program


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("isa", runnable())
def test_error_and_special_values(isa, tmp_path):
    program = compile_survey(isa, tmp_path)
    run = subprocess.run([program, "exhaustive" if EXHAUSTIVE else "quick"], capture_output=True, text=True)
    print(run.stdout)
    rows = re.findall(
        r"^(\w+) (float|double) max_ulp (\S+) at \S+ beyond (\S+) at \S+ wrong (\d+) .* samples (\d+)$",
        run.stdout,
        re.M,
    )
    assert sorted(row[:2] for row in rows) == sorted((f, p) for f in BOUNDS for p in ("float", "double")), run.stdout
    for function, precision, error, beyond, wrong, samples in rows:
        assert float(error) <= BOUNDS[function][0], (function, precision, error)
        assert float(beyond) <= BOUNDS[function][1], (function, precision, beyond)
        assert int(wrong) == 0, run.stdout
        assert int(samples) >= ((1 << 31) if EXHAUSTIVE and precision == "float" else 900_000)
    assert run.returncode == 0, run.stdout

"""Peak memory of one call over what was there before it, its outputs included, in a process of its own.

Linux only: the kernel's high-water mark of resident memory is reset before the call and read after it. What a variant
keeps between calls counts for those that compile nothing (they are warmed up on two rows); those that compile are
measured at their second call, so that the compiler's own memory does not count.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path


def _status(key: str) -> int:
    """Bytes, from /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def of_variant(name: str, work: str, dim: int, rows: int, time: str, dtype: str, threads: int) -> int:
    """Bytes, measured in a fresh interpreter.

    Raises:
        RuntimeError: when the call fails there.
    """
    command = [sys.executable, "-m", "bench.memory", name, work, str(dim), str(rows), time, dtype, str(threads)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if run.returncode != 0:
        raise RuntimeError(run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"exit {run.returncode}")
    return int(run.stdout.split()[-1])


def _measure_here(name: str, work: str, dim: int, rows: int, time: str, dtype: str, threads: int) -> int:
    import torch

    from bench.variants import make_problem, variants

    torch.set_num_threads(threads)
    variant = next(v for v in variants(work, time) if v.name == name)
    if not variant.compiled:
        small = variant.build(make_problem(work, dim, 2, time, dtype), work)
        small()
    call = variant.build(make_problem(work, dim, rows, time, dtype), work)
    if variant.compiled:
        call()
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    result = call()
    peak = _status("VmHWM") - before
    del result
    return max(0, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("name", "work"):
        parser.add_argument(name)
    for name in ("dim", "rows"):
        parser.add_argument(name, type=int)
    for name in ("time", "dtype"):
        parser.add_argument(name)
    parser.add_argument("threads", type=int)
    arguments = parser.parse_args()
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    print(_measure_here(**vars(arguments)))


if __name__ == "__main__":
    main()

"""Benchmarks: honest baselines, checked for equal results before they are timed.

===============  =================================================================================================
python -m bench  the whole measurement: CSV, metadata, tables, plots (``--help``)
pytest bench     the same rows under pytest-benchmark, fewer sizes, a few minutes
fma_peak         the multiply-add peak of one core: ``python -m bench.fma_peak``
paper_step       a training step of the paper's setting against the public code's form (``paper_code``)
overhead         what a call costs with nothing to compute: ``python -m bench.overhead``
problems         what is timed: inputs, work, operation counts
baselines, ours  the code that is timed; ``variants`` names the rows
timing, memory   how it is timed and weighed; ``environment``: threads, pinning, versions
run, report      a measured size; the files written
gpu, gpu_speed   everything that only a GPU can tell: ``python -m bench.gpu``
kernel_budget    GPU kernels as compiled, against their budget; from ``machine_code``, ``matrix_work`` and ``roofline``
choose_blocks    block sizes of the Triton kernels by what compiles without spills
===============  =================================================================================================
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
if not any((_ROOT / "ffrl_fast").glob("_core*.so")):
    # The package is installed, not built in place: its source here must not be found before it.
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != _ROOT] + [str(_ROOT)]

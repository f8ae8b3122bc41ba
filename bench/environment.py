"""Threads, pinning and the facts about a run that its numbers mean nothing without."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
import warnings
from datetime import UTC, datetime
from typing import Any


def use_threads(threads: int) -> None:
    """``threads`` threads in torch, JAX and ffrl_fast, on as many cores. Call it before JAX is imported."""
    if "jax" in sys.modules:
        raise RuntimeError("use_threads must come before JAX is imported")
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if threads > len(cores):
            raise ValueError(f"threads: expected at most {len(cores)}, the cores of this process, found {threads}")
        os.sched_setaffinity(0, cores[-threads:])
    os.environ["NPROC"] = str(threads)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    if threads == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    import torch

    torch.set_num_threads(threads)


def metadata(threads: int, **more: Any) -> dict[str, Any]:
    """Processor, instruction set, versions, threads, date."""
    import numpy
    import torch

    from ffrl_fast import _core, env

    has_jax = importlib.util.find_spec("jax") is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        facts = env.describe()
    # Where a package lies on one machine says nothing to others.
    facts["openmp"] = facts["openmp"].rpartition("site-packages/")[2]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": facts["processor"],
        "isa": _core.isa(),
        "threads": threads,
        "torch": torch.__version__,
        "jax": importlib.metadata.version("jax") if has_jax else None,
        "numpy": numpy.__version__,
        "blas": "MKL" if torch.backends.mkl.is_available() else "other",
        "environment": facts,
        **more,
    }

"""``python -m ffrl_fast.env``: what a bug report needs to say about the machine and the installation."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import torch

import ffrl_fast
from ffrl_fast import _core
from ffrl_fast.native import nodes


def openmp_libraries() -> list[str]:
    """Paths of the OpenMP libraries loaded into this process; more than one would mean two thread pools. Linux only."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    fields = (line.split(maxsplit=5) for line in maps.read_text().splitlines())
    paths = {f[5] for f in fields if len(f) == 6}
    return sorted(p for p in paths if any(name in Path(p).name for name in ("libgomp", "libiomp", "libomp")))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe() -> dict[str, str]:
    """Facts by name, in the order in which they are printed."""
    isas = ", ".join(f"{name}{'' if able else ' (not on this processor)'}" for name, able in _core.isas())
    return {
        "ffrl_fast": f"{ffrl_fast.__version__} ({Path(_core.__file__).name})",
        "python": sys.version.split()[0],
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": f"{os.cpu_count()}; torch uses {torch.get_num_threads()} threads",
        "instruction set": f"{_core.isa()}; compiled in: {isas}",
        "autograd's nodes": nodes.in_use,
        "openmp": ", ".join(openmp_libraries()) or "not known",
        "gpu": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none",
        "variables": ", ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("FFRL_FAST_"))
        or "none",
    }


def main() -> None:
    facts = describe()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    print()
    print(ffrl_fast.explain())


if __name__ == "__main__":
    main()

"""``python -m bench.kernel_budget [--write]``: every GPU kernel compiled for every architecture, against its budget.

``kernels/budget.json`` holds, for each architecture and kernel, what its machine code uses (:mod:`bench.machine_code`).
A kernel that needs more registers or shared memory than that, that spills, that copies in narrower pieces, or that has
lost its matrix instructions fails the check, which the tests run. ``--write`` takes what is found as the new budget and
writes the table of ``docs/gpu_kernels.md``.

The CUDA C++ kernels are those of the installed module ``ffrl_fast._cuda``; Triton's are compiled. No GPU is needed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench import roofline
from bench.machine_code import Usage, occupancy, tool, usage

ROOT = Path(__file__).parents[1]
BUDGET = ROOT / "kernels" / "budget.json"
TABLE = ROOT / "docs" / "gpu_kernels.md"
ARCHITECTURES = (80, 90, 100, 120)
_CUDA_WARPS = 8


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel: its name, made of what tells it from others, its warps a block, and what it uses."""

    name: str
    warps: int
    usage: Usage


def _variant_name(variant: Any) -> str:
    """Kernel, constants, and the types of pointers that are not float32."""
    constants = " ".join(f"{k}={v}" for k, v in variant.constants)
    types = " ".join(f"{k}:{v[1:]}" for k, v in variant.signature if v.startswith("*") and v != "*fp32")
    return " ".join(x for x in ("triton", variant.name, constants, types, f"warps={variant.num_warps}") if x)


def _compile_triton(arch: int, number: int) -> Kernel:
    import triton

    from ffrl_fast.triton_kernels import ahead_of_time, launch

    variant = ahead_of_time.variants(arch)[number]
    compiled = triton.compile(variant.source, target=launch.target(arch), options=variant.options)
    (found,) = usage(compiled.asm["cubin"], compiled.metadata.shared).values()
    return Kernel(_variant_name(variant), variant.num_warps, found)


def triton_kernels(arch: int, processes: int) -> list[Kernel]:
    """Every variant that the Triton engine launches on an architecture."""
    from ffrl_fast.triton_kernels import ahead_of_time

    numbers = range(len(ahead_of_time.variants(arch)))
    with ProcessPoolExecutor(processes) as pool:
        found = list(pool.map(_compile_triton, [arch] * len(numbers), numbers))
    # What Triton knows of integers, as that 16 divides them, tells variants apart that have one name.
    seen: Counter[str] = Counter()
    for i, kernel in enumerate(found):
        seen[kernel.name] += 1
        if seen[kernel.name] > 1:
            found[i] = replace(kernel, name=f"{kernel.name} #{seen[kernel.name]}")
    return found


def cuda_kernels(arch: int) -> list[Kernel]:
    """Every CUDA C++ kernel of the installed module for an architecture."""
    spec = importlib.util.find_spec("ffrl_fast._cuda")
    if spec is None or spec.origin is None:
        raise RuntimeError("this build of ffrl_fast has no CUDA kernels (nvcc was not there)")
    found: dict[str, Usage] = {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([tool("cuobjdump"), "-xelf", f"sm_{arch}", spec.origin], cwd=folder, check=True, stdout=-3)
        for cubin in sorted(Path(folder).glob("*.cubin")):
            found |= usage(cubin)
    names = subprocess.run([tool("c++filt"), *found], capture_output=True, text=True, check=True).stdout.split("\n")
    plain = [re.sub(r"\(.*|^void ffrl::cuda::|ffrl::cuda::", "", name) for name in names]
    return [Kernel(f"cuda {n}", _CUDA_WARPS, u) for n, u in zip(plain, found.values(), strict=False)]


def complaints(kernel: Kernel, budget: dict[str, Any] | None) -> list[str]:
    """What of a kernel is not as its budget says; empty where all is well."""
    u = kernel.usage
    found = []
    if u.stack or u.local_accesses:
        found.append(f"spills: {u.stack} bytes of stack, {u.local_accesses} accesses to local memory")
    if budget is None:
        return [f"{kernel.name}: {x}" for x in (*found, "is not in the budget")]
    allowed = Usage(**budget)
    if u.registers > allowed.registers:
        found.append(f"registers: expected at most {allowed.registers}, found {u.registers}")
    if u.shared > allowed.shared:
        found.append(f"shared memory: expected at most {allowed.shared} bytes, found {u.shared}")
    for width, count in u.copies.items():
        if width != "16" and count > allowed.copies.get(width, 0):
            found.append(f"copies of {width} bytes: expected at most {allowed.copies.get(width, 0)}, found {count}")
    for name, count in allowed.matrix.items():
        if u.matrix.get(name, 0) < count:
            found.append(f"{name}: expected at least {count}, found {u.matrix.get(name, 0)}")
    return [f"{kernel.name}: {x}" for x in found]


def check(arch: int, kernels: Iterable[Kernel], prefix: str) -> list[str]:
    """Complaints about the kernels of an architecture, and about budgets of kernels of ``prefix`` that are gone."""
    budgets = json.loads(BUDGET.read_text())[str(arch)]
    found, seen = [], set()
    for kernel in kernels:
        seen.add(kernel.name)
        found += complaints(kernel, budgets.get(kernel.name))
    return found + [
        f"{name}: in the budget, but not compiled" for name in budgets if name.startswith(prefix) and name not in seen
    ]


def _markdown(by_arch: dict[int, list[Kernel]]) -> str:
    lines = [
        "# The GPU kernels as compiled",
        "",
        "Written by `python -m bench.kernel_budget --write`; nothing here was executed. Registers a thread, shared",
        "memory of a block in KiB (without what a CUDA kernel is given at launch), theoretical occupancy, matrix",
        "instructions in the machine code. No kernel spills.",
        "",
        "## The roofline on paper",
        "",
        roofline.markdown(),
    ]
    for arch, kernels in by_arch.items():
        lines += [
            "",
            f"## sm_{arch}",
            "",
            "| kernel | warps | registers | shared | occupancy | matrix instructions |",
            "|---|---|---|---|---|---|",
        ]
        for k in kernels:
            matrix = ", ".join(f"{n} × {name}" for name, n in k.usage.matrix.items()) or "–"
            lines.append(
                f"| {k.name} | {k.warps} | {k.usage.registers} | {k.usage.shared / 1024:.1f} | "
                f"{occupancy(k.usage, k.warps, arch):.0%} | {matrix} |"
            )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m bench.kernel_budget")
    p.add_argument("--write", action="store_true", help="take what is found as the budget")
    p.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = p.parse_args(argv)
    by_arch: dict[int, list[Kernel]] = {}
    for arch in ARCHITECTURES:
        by_arch[arch] = triton_kernels(arch, arguments.processes) + cuda_kernels(arch)
        print(f"sm_{arch}: {len(by_arch[arch])} kernels", flush=True)
    if arguments.write:
        spilling = [x for kernels in by_arch.values() for k in kernels for x in complaints(k, k.usage.as_json())]
        if spilling:
            print("\n".join(spilling), file=sys.stderr)
            return 1
        budget = {str(arch): {k.name: asdict(k.usage) for k in kernels} for arch, kernels in by_arch.items()}
        BUDGET.write_text(json.dumps(budget, indent=1) + "\n")
        TABLE.write_text(_markdown(by_arch))
        return 0
    found = [f"sm_{arch}: {x}" for arch, kernels in by_arch.items() for x in check(arch, kernels, "")]
    print("\n".join(found) or "every kernel is within its budget")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m bench.kernel_budget [--write]``: every GPU kernel compiled for every architecture, against its budget.

``kernels/budget.json`` holds, for each architecture and kernel, what its machine code uses (:mod:`bench.machine_code`).
A kernel that needs more registers or shared memory than that, that spills, that copies in narrower pieces, that has
lost matrix instructions or whose warps do more of the same work (:mod:`bench.matrix_work`) fails the check, which
``pytest -m slow`` runs. Machine code that is bit for bit what the budget was written of is not disassembled again.
``--write`` takes what is found as the new budget and writes the table of ``docs/gpu_kernels.md``.

The CUDA C++ kernels are those of the installed module ``ffrl_fast._cuda``; Triton's are compiled. No GPU is needed.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import roofline
from bench.machine_code import Usage, occupancy, tool, usage
from bench.matrix_work import redundancy

ROOT = Path(__file__).parents[1]
BUDGET = ROOT / "kernels" / "budget.json"
TABLE = ROOT / "docs" / "gpu_kernels.md"
ARCHITECTURES = (80, 90, 100, 120)
#: Bytes of shared memory that launches of a CUDA kernel always ask for; the row kernels ask for what their sizes need.
DYNAMIC_SHARED = {"matrix_gradient_kernel": 34_816}


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel: its name, made of what tells it from others, its warps a block, and what it uses.

    ``redundancy``: multiply-adds that its worst product executes for each that is needed.
    """

    name: str
    warps: int
    usage: Usage
    redundancy: float = 1.0

    def as_json(self) -> dict[str, Any]:
        return self.usage.as_json() | {"redundancy": self.redundancy}


def _variant_name(variant: Any) -> str:
    """Kernel, constants, and the types of pointers that are not float32."""
    constants = " ".join(f"{k}={v}" for k, v in variant.constants)
    types = " ".join(f"{k}:{v[1:]}" for k, v in variant.signature if v.startswith("*") and v != "*fp32")
    return " ".join(x for x in ("triton", variant.name, constants, types, f"warps={variant.num_warps}") if x)


@functools.cache
def triton_variants(arch: int) -> dict[str, Any]:
    """Every variant that the Triton engine launches on an architecture, by its name in the budget."""
    from ffrl_fast.triton_kernels import ahead_of_time

    found: dict[str, Any] = {}
    # What Triton knows of integers, as that 16 divides them, tells variants apart that have one name.
    seen: Counter[str] = Counter()
    for variant in ahead_of_time.variants(arch):
        name = _variant_name(variant)
        seen[name] += 1
        found[name if seen[name] == 1 else f"{name} #{seen[name]}"] = variant
    return found


@functools.cache
def known_code(arch: int) -> dict[str, Usage]:
    """What the code in the budget of an architecture uses, by its digest."""
    kernels = json.loads(BUDGET.read_text())[str(arch)].values()
    return {kernel["code"]: _allowed(kernel) for kernel in kernels}


def _allowed(budget: dict[str, Any]) -> Usage:
    return Usage(**{name: x for name, x in budget.items() if name != "redundancy"})


def _compile_triton(arch: int, name: str, anew: bool) -> Kernel:
    import triton

    from ffrl_fast.triton_kernels import launch

    variant = triton_variants(arch)[name]
    compiled = triton.compile(variant.source, target=launch.target(arch), options=variant.options)
    (found,) = usage(compiled.asm["cubin"], None if anew else known_code(arch)).values()
    found = replace(found, shared=found.shared + compiled.metadata.shared)
    return Kernel(name, variant.num_warps, found, redundancy(compiled.asm["ttgir"]))


def triton_kernels(arch: int, processes: int, anew: bool = False) -> list[Kernel]:
    """All of them, compiled. anew: disassembled though the budget knows their code."""
    names = list(triton_variants(arch))
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(_compile_triton, [arch] * len(names), names, [anew] * len(names)))


def cuda_kernels(arch: int, anew: bool = False) -> list[Kernel]:
    """Every CUDA C++ kernel of the installed module for an architecture; ``anew`` as of :func:`triton_kernels`."""
    spec = importlib.util.find_spec("ffrl_fast._cuda")
    if spec is None or spec.origin is None:
        raise RuntimeError("this build of ffrl_fast has no CUDA kernels (nvcc was not there)")
    found: dict[str, Usage] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = [tool("cuobjdump"), "-xelf", f"sm_{arch}", spec.origin]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for cubin in sorted(Path(folder).glob("*.cubin")):
            found |= usage(cubin, None if anew else known_code(arch))
    threads = _threads(Path(spec.origin))
    names = subprocess.run([tool("c++filt"), *found], capture_output=True, text=True, check=True).stdout.splitlines()
    plain = [re.sub(r"\(.*|^void ffrl::cuda::|ffrl::cuda::", "", name) for name in names]
    kernels = []
    for name, (symbol, used) in zip(plain, found.items(), strict=True):
        dynamic = DYNAMIC_SHARED.get(name.split("<")[0], 0)
        kernels.append(Kernel(f"cuda {name}", threads[symbol] // 32, replace(used, shared=used.shared + dynamic)))
    return kernels


@functools.cache
def _threads(module: Path) -> dict[str, int]:
    """The largest block of each CUDA kernel by its symbol, as its PTX says."""
    found: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [tool("cuobjdump"), "-xptx", "all", str(module)], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
        for path in Path(folder).glob("*.ptx"):
            for symbol, threads in re.findall(r"\.entry (\w+)\([^)]*\)\s*\.maxntid (\d+)", path.read_text()):
                found[symbol] = int(threads)
    return found


def complaints(kernel: Kernel, budget: dict[str, Any] | None) -> list[str]:
    """What of a kernel is not as its budget says; empty where all is well."""
    u = kernel.usage
    found = []
    if u.stack or u.local_accesses:
        found.append(f"spills: {u.stack} bytes of stack, {u.local_accesses} accesses to local memory")
    if budget is None:
        return [f"{kernel.name}: {x}" for x in (*found, "is not in the budget")]
    allowed = _allowed(budget)
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
    if kernel.redundancy > budget["redundancy"]:
        found.append(f"redundancy: expected at most {budget['redundancy']}, found {kernel.redundancy}")
    return [f"{kernel.name}: {x}" for x in found]


def check(arch: int, kernels: Sequence[Kernel]) -> list[str]:
    """Complaints about all kernels of one kind and architecture, and about budgets of that kind without a kernel."""
    budgets = json.loads(BUDGET.read_text())[str(arch)]
    found = [complaint for kernel in kernels for complaint in complaints(kernel, budgets.get(kernel.name))]
    names = {kernel.name for kernel in kernels}
    (kind,) = {name.split()[0] for name in names}
    gone = [name for name in budgets if name.split()[0] == kind and name not in names]
    return found + [f"{name}: in the budget, but no kernel" for name in gone]


def _markdown(by_arch: dict[int, list[Kernel]]) -> str:
    lines = [
        "# The GPU kernels as compiled",
        "",
        "Written by `python -m bench.kernel_budget --write`; nothing here was executed. Registers a thread, shared",
        "memory of a block in KiB, theoretical occupancy, matrix instructions in the machine code. No kernel spills.",
        "The CUDA kernels on rows are given shared memory at launch besides, at most all of it: their occupancy is at",
        "most the one here. Work: multiply-adds that the worst product executes for each that is needed. Triton lays",
        "the warps of chained products along the rows, of which a block may have fewer than the warps take.",
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
            "| kernel | warps | registers | shared | occupancy | matrix instructions | work |",
            "|---|---|---|---|---|---|---|",
        ]
        for k in kernels:
            matrix = ", ".join(f"{n} × {name}" for name, n in k.usage.matrix.items()) or "–"
            lines.append(
                f"| {k.name} | {k.warps} | {k.usage.registers} | {k.usage.shared / 1024:.1f} | "
                f"{occupancy(k.usage, k.warps, arch):.0%} | {matrix} | {k.redundancy:g} |"
            )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m bench.kernel_budget")
    p.add_argument("--write", action="store_true", help="take what is found as the budget")
    p.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = p.parse_args(argv)
    by_arch: dict[int, list[Kernel]] = {}
    found: list[str] = []
    for arch in ARCHITECTURES:
        anew = arguments.write
        for kernels in (triton_kernels(arch, arguments.processes, anew), cuda_kernels(arch, anew)):
            by_arch[arch] = by_arch.get(arch, []) + kernels
            found += [] if arguments.write else [f"sm_{arch}: {x}" for x in check(arch, kernels)]
        print(f"sm_{arch}: {len(by_arch[arch])} kernels", flush=True)
    if arguments.write:
        spilling = [x for kernels in by_arch.values() for k in kernels for x in complaints(k, k.as_json())]
        if spilling:
            print("\n".join(spilling), file=sys.stderr)
            return 1
        budget = {str(arch): {k.name: k.as_json() for k in kernels} for arch, kernels in by_arch.items()}
        BUDGET.write_text(json.dumps(budget, indent=1) + "\n")
        TABLE.write_text(_markdown(by_arch))
        return 0
    print("\n".join(found) or "every kernel is within its budget")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

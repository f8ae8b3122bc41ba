"""What the machine code of a GPU kernel uses: registers, memory, copies and matrix instructions, read off its cubin.

Needs ``cuobjdump`` and ``nvdisasm``, which Triton's wheel carries; no GPU.
"""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

# Multiply-accumulate instructions of the matrix units: mma.sync, wgmma, tcgen05.
_MATRIX = re.compile(r"\b((?:HMMA|DMMA|HGMMA|UTC\w*MMA)[.\w]*)")
# Asynchronous copies to shared memory, and their width in bits where it is not 32.
_COPY = re.compile(r"\bLDGSTS([.\w]*)")
_LOCAL = re.compile(r"\b(?:LDL|STL)\b")
_USAGE = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)")


@dataclass
class Usage:
    """Of one kernel: registers a thread, bytes of stack and of shared memory, accesses to local memory (spills).

    And how often its code holds each asynchronous copy (by bytes) and each matrix instruction (by name); ``code``: what
    code that is, its SHA-256, or "" where nobody asked.
    """

    registers: int
    stack: int
    shared: int
    local_accesses: int
    copies: dict[str, int] = field(default_factory=dict)
    matrix: dict[str, int] = field(default_factory=dict)
    code: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@functools.cache
def tool(name: str) -> str:
    """The path of one of NVIDIA's tools: on the PATH, or in Triton's wheel.

    Raises:
        RuntimeError: where it is in neither.
    """
    found = shutil.which(name)
    if found:
        return found
    from importlib.util import find_spec

    spec = find_spec("triton")
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        candidate = Path(place) / "backends/nvidia/bin" / name
        if candidate.exists():
            return str(candidate)
    raise RuntimeError(f"{name} is neither on the PATH nor in Triton's wheel")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _instructions(listing: str) -> dict[str, list[str]]:
    """The lines of each kernel in nvdisasm's listing."""
    kernels: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in listing.splitlines():
        section = re.match(r"\s*\.section\s+\.text\.([^,\s]+)", line)
        if section:
            current = kernels.setdefault(section[1], [])
        elif line.startswith("//-") or re.match(r"\s*\.section\s", line):
            current = None
        elif current is not None:
            current.append(line)
    return kernels


def code_digests(cubin: bytes) -> dict[str, str]:
    """SHA-256 of each kernel's machine code, the section .text.KERNEL of an ELF file of 64 bits."""
    (table,) = struct.unpack_from("<Q", cubin, 40)
    size, count, of_names = struct.unpack_from("<3H", cubin, 58)
    # Of each section: where its name begins among the names, type, flags, address, offset, bytes.
    sections = [struct.unpack_from("<2I4Q", cubin, table + size * i) for i in range(count)]
    names = sections[of_names][4]
    found = {}
    for at, _, _, _, offset, length in sections:
        name = cubin[names + at : cubin.index(b"\0", names + at)].decode()
        if name.startswith(".text."):
            found[name.removeprefix(".text.")] = hashlib.sha256(cubin[offset : offset + length]).hexdigest()
    return found


def usage(cubin: bytes | Path, known: Mapping[str, Usage] | None = None) -> dict[str, Usage]:
    """What each kernel of a cubin uses.

    known: by the digest of its code. Where all code of the cubin is among it, nothing is disassembled, which takes as
    long as half a compilation; registers and memory are read off in any case.
    """
    known = known or {}
    with tempfile.TemporaryDirectory() as folder:
        path = cubin if isinstance(cubin, Path) else Path(folder) / "kernel.cubin"
        if isinstance(cubin, bytes):
            path.write_bytes(cubin)
        digests = code_digests(path.read_bytes())
        resources = _run(tool("cuobjdump"), "-res-usage", str(path))
        new = not known.keys() >= set(digests.values())
        code = _instructions(_run(tool("nvdisasm"), "-c", str(path))) if new else {}
    found = {}
    for name, registers, stack, shared in _USAGE.findall(resources):
        memory = {"registers": int(registers), "stack": int(stack), "shared": int(shared)}
        if not new:
            found[name] = replace(known[digests[name]], **memory)
            continue
        text = "\n".join(code[name])
        copies: Counter[str] = Counter()
        for modifiers in _COPY.findall(text):
            copies["16" if ".128" in modifiers else "8" if ".64" in modifiers else "4"] += 1
        found[name] = Usage(
            **memory,
            local_accesses=len(_LOCAL.findall(text)),
            copies=dict(sorted(copies.items())),
            matrix=dict(sorted(Counter(_MATRIX.findall(text)).items())),
            code=digests[name],
        )
    return found


@dataclass(frozen=True)
class Chip:
    """What limits how many blocks a multiprocessor holds (CUDA C++ Programming Guide, compute capabilities)."""

    registers: int = 65_536
    threads: int = 2_048
    blocks: int = 32
    shared: int = 233_472
    reserved: int = 1_024  # bytes of shared memory that the system takes for each block


CHIPS = {
    80: Chip(shared=167_936),
    90: Chip(),
    100: Chip(),
    120: Chip(threads=1_536, blocks=24, shared=102_400),
}


def occupancy(of: Usage, warps: int, arch: int) -> float:
    """Theoretical: the warps that a multiprocessor can hold of this kernel, over those that it can hold at all."""
    chip = CHIPS[arch]
    # Registers are given to warps in units of 256.
    per_warp = -(-of.registers * 32 // 256) * 256
    by_registers = chip.registers // per_warp // warps
    by_shared = chip.shared // (of.shared + chip.reserved)
    blocks = min(by_registers, by_shared, chip.blocks, chip.threads // (32 * warps))
    return blocks * warps * 32 / chip.threads

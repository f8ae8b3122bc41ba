"""Faults planted in the CUDA kernels, one library with all of them, in which one at a time is alive.

A textual change that a number turns on: compiled apart, each of them would take as long as all the kernels.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from cuda_host import ROOT, EmulationError, Mutation, Sanitizer, mutants
from cuda_kernels import (
    EVERYTHING,
    STREAMED,
    Case,
    EmulatedKernels,
    Question,
    Results,
    by_emulation,
    load_kernels,
    wrong,
)
from ffrl_fast.gpu.engine import Precision, Wanted

_KERNELS = ROOT / "kernels/cuda"
_SOURCES = [_KERNELS / name for name in ("tf32.cu", "bf16.cu", "launch.cu")] + [
    ROOT / "tests/cuda_host" / name for name in ("emulated_module.cpp", "planted_kernels.cpp")
]
_INSTRUCTIONS = _KERNELS / "instructions.cuh"
_HEADER = Mutation(_INSTRUCTIONS, "#pragma once", '#pragma once\n#include "../../tests/cuda_host/planted.hpp"')

TF32 = Precision.TF32
#: One of each way through the kernels, of several tiles, the last not full, and several moments.
CASES = {
    "resident": Case(37, 24, 40, 2, 2, "gates by step", moments=4, substeps=2, force=20, precision=TF32),
    "one image": Case(37, 24, 40, 2, 3, "gates", moments=2, precision=TF32, shared_bytes=110 * 1024),
    "row times": Case(37, 24, 40, networks=2, selection="index", row_times=True, precision=TF32),
    "row times of one network": Case(37, 24, 40, row_times=True, precision=TF32),
    "streamed": Case(70, 40, 130, depth=2, networks=2, selection="index", precision=TF32, shared_bytes=STREAMED),
    "streamed path": Case(
        37, 24, 40, 2, 2, "gates by step", moments=4, substeps=2, force=20, precision=TF32, shared_bytes=STREAMED
    ),
    "tangent": Case(37, 24, 40, depth=2, tangent=True, precision=TF32),
    "registers": Case(37, 24, 40, moments=4, substeps=2, force=20, precision=TF32),
    "two warps in registers": Case(2130, 3, 4, moments=2, precision=TF32),
    "wide in registers": Case(17, 9, 130, moments=3, precision=Precision.BF16),
    "tile after tile": Case(4250, 3, 4, row_times=True, precision=TF32, shared_bytes=40 * 1024),
}
#: Without dL/dz a tile ends with no product, thus without a product's barrier.
WANTED = {"tile after tile": Wanted(z=False)}

_IN_REGISTERS = ("registers", "two warps in registers", "wide in registers")
_STREAMED = ("streamed", "streamed path")
_IN_SHARED = ("resident", "row times", "one image")
#: The cases that reach a file; the others reach it through rows in shared memory or streamed.
_REACH = {
    **dict.fromkeys(("path_kernel.cuh", "operand.cuh", "warp_rows.cuh"), _IN_REGISTERS),
    "weight_gradient.cuh": _STREAMED,
}


@dataclass(frozen=True)
class Fault:
    """``kind``: barrier, order or wait (missing), less or more (a bound or a stride); ``cases``: where it may show.

    A missing ``order`` is seen by ThreadSanitizer alone: emulated matrix instructions and shuffles bring the warp's
    lanes together where the barrier would, though they order no memory.
    """

    number: int
    kind: str
    where: Mutation  # without its new text
    part: str
    amount: int
    cases: tuple[str, ...]

    def __str__(self) -> str:
        change = f"{self.part} {self.amount:+}" if self.part else "missing"
        return f"{self.number} {self.where.file.name}: {self.where.old.strip()} #{self.where.occurrence}, {change}"


#: File, text, what in the text is less by one where the fault is alive, the cases that show it.
_Table = list[tuple[str, str, str, tuple[str, ...]]]
_ONE_LESS: _Table = [
    ("tile.cuh", "at < tiles.end ?", "tiles.end", _IN_SHARED),
    ("tile.cuh", "n < columns ? load_global", "columns", _IN_SHARED),
    ("tile.cuh", "number * tile.rows + r", "tile.rows", _IN_SHARED),
    ("block.cuh", "i < n.width ?", "n.width", _IN_SHARED),
    ("block.cuh", "std::int64_t(row) * steps", "steps", _IN_SHARED),
    ("block.cuh", "moment) * n.width", "n.width", _IN_SHARED),
    ("field_kernels.cuh", "* dim + n, from(r, n)", "dim", _IN_SHARED),
    ("field_kernels.cuh", "(moment + 1) * size", "size", _IN_SHARED),
    ("field_kernels.cuh", "moment / p.substeps * p.rows", "p.rows", _IN_SHARED),
    ("field_kernels.cuh", "n >= dim", "dim", ("tangent",)),
    ("network_tile.cuh", "n < width && row >= 0", "width", ("row times",)),
    ("network_tile.cuh", "std::int64_t(row) * width + n", "width", ("row times",)),
    ("network_cotangents.cuh", "n >= dim", "dim", _IN_SHARED),
    ("network_cotangents.cuh", "n < width; n += 32", "width", ("row times",)),
    ("weight_sums.cuh", "m0 + m >= height", "height", _IN_SHARED),
    ("weight_sums.cuh", "n0 + n >= width", "width", _IN_SHARED),
    ("weight_sums.cuh", "std::int64_t(m0 + m) * width", "width", _IN_SHARED),
    ("weight_gradient.cuh", "y >= m.height", "m.height", _STREAMED),
    ("weight_gradient.cuh", "x >= m.width", "m.width", _STREAMED),
    ("weight_gradient.cuh", "std::int64_t(y) * m.width", "m.width", _STREAMED),
    ("pack.cuh", "c < columns ?", "columns", _IN_SHARED),
    ("pack.cuh", "r < n.width &&", "n.width", _IN_SHARED),
    ("pack.cuh", "r * columns + c", "columns", _IN_SHARED),
    ("reduce.cuh", "slot < count;", "count", _IN_SHARED),
    ("reduce.cuh", "slot < blocks;", "blocks", _IN_SHARED),
    ("reduce.cuh", "+ network) * size]", "size", _IN_SHARED),
    ("path_kernel.cuh", "r < n.width &&", "n.width", _IN_REGISTERS),
    ("path_kernel.cuh", "c + e < columns", "columns", _IN_REGISTERS),
    ("path_kernel.cuh", "std::int64_t(r) * columns", "columns", _IN_REGISTERS),
    ("path_kernel.cuh", "i < n.width ?", "n.width", _IN_REGISTERS),
    ("path_kernel.cuh", "i < tiles.end ?", "tiles.end", _IN_REGISTERS),
    ("path_kernel.cuh", "moment / p.substeps * p.rows", "p.rows", _IN_REGISTERS),
    ("warp_rows.cuh", "z_[r * pitch_ + d] =", "pitch_", _IN_REGISTERS),
    ("warp_rows.cuh", "d < dim; d += 32", "dim", _IN_REGISTERS),
    ("warp_rows.cuh", "d < p_.potential.dim", "p_.potential.dim", _IN_REGISTERS),
    ("warp_rows.cuh", "(p_.rows + row) * dim", "dim", _IN_REGISTERS),
    ("warp_rows.cuh", "to_[i] += p_.rows * p_.potential.dim", "p_.potential.dim", _IN_REGISTERS),
    ("multiply.cuh", "at.warp * kWarpColumns * kTurnedPitch", "kTurnedPitch", _STREAMED),
]
#: Likewise, by four: copies of 16 bytes stay aligned.
_FOUR_LESS: _Table = [
    ("multiply.cuh", "std::int64_t(k) * w.pitch", "w.pitch", _STREAMED),
    ("multiply.cuh", "std::int64_t(panel) * w.pitch", "w.pitch", _STREAMED),
    ("multiply.cuh", "from + r * pitch + n", "pitch", _STREAMED),
    ("weight_gradient.cuh", "from * a.pitch", "a.pitch", _STREAMED),
    ("weight_gradient.cuh", "from * b.pitch", "b.pitch", _STREAMED),
    ("operand.cuh", "(n0 + g) * pitch", "pitch", _IN_REGISTERS),
]
#: Likewise, but more by one: an address beyond an array, for AddressSanitizer.
_ONE_MORE: _Table = [
    ("tile.cuh", "at < tiles.end ?", "tiles.end", ("resident", "row times")),
    ("tile.cuh", "n < columns ? load_global", "columns", _IN_SHARED),
    ("network_tile.cuh", "n < width && row >= 0", "width", ("row times of one network",)),
    ("network_cotangents.cuh", "n >= dim", "dim", _IN_SHARED),
    ("network_cotangents.cuh", "n < width; n += 32", "width", ("row times of one network",)),
    ("path_kernel.cuh", "i < tiles.end ?", "tiles.end", _IN_REGISTERS),
    ("warp_rows.cuh", "d < dim; d += 32", "dim", _IN_REGISTERS),
]


def _listed() -> Iterator[tuple[str, Mutation, str, int, tuple[str, ...]]]:
    for kind, text in (
        ("barrier", "__syncthreads();"),
        ("barrier", "__syncwarp();"),
        ("wait", "cp_async_wait<0>();"),
        ("wait", "cp_async_wait<1>();"),
    ):
        for file in sorted(_KERNELS.glob("*.cuh")):
            for where in mutants(file, text) if text in file.read_text() else ():
                shuffled = file.name == "warp_rows.cuh" and text == "__syncwarp();"
                cases = _REACH.get(file.name, (*_IN_SHARED, *_STREAMED, "tile after tile"))
                yield "order" if shuffled else kind, where, "", 0, cases
    for kind, amount, table in (("less", -1, _ONE_LESS), ("less", -4, _FOUR_LESS), ("more", 1, _ONE_MORE)):
        for name, text, part, cases in table:
            for where in mutants(_KERNELS / name, text):
                yield kind, where, part, amount, cases


FAULTS = [Fault(number, *listed) for number, listed in enumerate(_listed(), 1)]


def _planted() -> list[Mutation]:
    """All faults, the last in a file first: what stands before it keeps its number among the occurrences."""
    at: dict[Mutation, list[Fault]] = {}
    for fault in FAULTS:
        at.setdefault(fault.where, []).append(fault)
    mutations = [_HEADER]
    for where, faults in sorted(at.items(), key=lambda item: -item[0].occurrence):
        if not faults[0].part:
            new = f"if (!cuda_host::planted({faults[0].number})) {where.old}"
        else:
            changes = "".join(f"{f.amount:+} * cuda_host::planted({f.number})" for f in faults)
            new = where.old.replace(faults[0].part, f"({faults[0].part} {changes})", 1)
        mutations.append(Mutation(where.file, where.old, new, where.occurrence))
    return mutations


@functools.cache
def faulty_kernels(sanitize: Sanitizer | None = None) -> EmulatedKernels:
    return load_kernels(_SOURCES, sanitize, _planted())


@functools.cache
def asked(case: str) -> tuple[Question, Results]:
    question = Question(CASES[case])
    return question, question.exact()


def plant(kernels: EmulatedKernels, number: int) -> None:
    """Brings one fault to life, and no other; 0: none."""
    ctypes.CDLL(str(kernels.emulation.path)).ffrl_plant(number)


def shows(kernels: EmulatedKernels, case: str, seed: int) -> bool:
    """Whether a case ends in an error or in a wrong result, with the fault that is alive."""
    question, exact = asked(case)
    try:
        found = by_emulation(question, seed, WANTED.get(case, EVERYTHING), kernels)
    except EmulationError:
        return True
    return bool(wrong(found, {name: exact[name] for name in found}, question.case.precision))


def apart(question: Callable[[], bool]) -> bool:
    """The answer of a child of this process: a fault may write anywhere. An address that ends the child is a yes."""
    child = os.fork()
    if not child:
        torch.set_num_threads(1)  # the parent's threads are not in the child, where a call of them would never end
        signal.alarm(120)
        try:
            answer = 10 + question()
        finally:
            os._exit(locals().get("answer", 1))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (10, 11, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT):
        raise RuntimeError(f"the child's exit status is {code}")
    return code != 10

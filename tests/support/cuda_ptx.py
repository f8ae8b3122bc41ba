"""Runs what the CUDA engine launches: its compiled PTX, executed in the interpreter on CPU tensors.

The host code is the project's own, compiled with the emulation, whose launches are diverted here.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ptx
from bench.machine_code import tool
from cuda_host import ROOT, Emulation
from cuda_kernels import EVERYTHING, Question, Results, emulated_kernels
from ffrl_fast.gpu.cuda_engine import CudaEngine
from ffrl_fast.gpu.engine import Precision, Wanted

_Diversion = ctypes.CFUNCTYPE(
    None,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint32),
    ctypes.POINTER(ctypes.c_uint32),
    ctypes.c_uint64,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.c_int,
)


@functools.cache
def texts() -> list[str]:
    """The PTX, for sm_80 and later, that the installed module carries: one text a source."""
    spec = importlib.util.find_spec("ffrl_fast._cuda")
    assert spec is not None and spec.origin is not None
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([tool("cuobjdump"), "-xptx", "all", spec.origin], cwd=folder, check=True, stdout=-3)
        return [path.read_text() for path in sorted(Path(folder).glob("*.ptx"))]


@functools.cache
def by_source_line(precision: Precision) -> str:
    """The PTX of the kernels of one precision, compiled anew with the lines of the source."""
    return ptx.compile_cuda(ROOT / f"kernels/cuda/{precision.value}.cu", "sm_80", options=["-lineinfo"])


def by_symbol(module: ptx.Module) -> dict[str, ptx.Module]:
    return dict.fromkeys(module.entries, module)


@functools.cache
def modules() -> dict[str, ptx.Module]:
    """The module of each kernel by its symbol."""
    return {symbol: module for text in texts() for symbol, module in by_symbol(ptx.Module(text)).items()}


class _Memory(TorchDispatchMode):
    """Every storage that operators read or make, by its address."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, torch.UntypedStorage] = {}

    def keep(self, *tensors: Any) -> None:
        for x in tree_leaves(tensors):
            if isinstance(x, Tensor) and x.numel():
                self.storages[x.data_ptr() - x.storage_offset() * x.element_size()] = x.untyped_storage()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.keep(args, out)
        return out

    def arrays(self) -> list[Tensor]:
        return [torch.empty(0, dtype=torch.uint8).set_(s) for s in self.storages.values()]  # type: ignore[call-overload]


class Diverted:
    """What launches did; ``races`` must be empty. ``traffic`` has that of each launch by the address of a storage."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.races: list[str] = []
        self.launches: list[tuple[str, ptx.Launch]] = []
        self.shared: list[int] = []  # bytes that each launch asked for
        self.traffic: list[dict[int, ptx.Traffic]] = []

    def traffic_of(self, kernel: str) -> dict[int, ptx.Traffic]:
        """That of the one launch of a kernel with this in its symbol."""
        (found,) = [t for (name, _), t in zip(self.launches, self.traffic, strict=True) if kernel in name]
        return found


@contextlib.contextmanager
def diverted(
    emulation: Emulation, *given: Any, seed: int = 0, instead: dict[str, ptx.Module] | None = None
) -> Iterator[Diverted]:
    """Within the block the launches of an emulated library are executed in the PTX interpreter.

    ``given``: the tensors that exist already. ``instead``: modules to take for some kernels, by symbol.
    """
    known = modules() | (instead or {})
    record, memory, trouble = Diverted(seed), _Memory(), []
    memory.keep(given)

    def run(symbol: bytes, grid: Any, block: Any, shared: int, parameters: Any, sizes: Any, count: int) -> None:
        if trouble:
            return
        try:
            name = symbol.decode()
            arguments = [ctypes.string_at(parameters[i], sizes[i]) for i in range(count)]
            arrays = memory.arrays()
            launch = known[name].launch(name, grid[:3], block[:3], arguments, shared=shared, seed=seed, memory=arrays)
            record.launches.append((name, launch))
            record.shared.append(shared)
            record.traffic.append({arrays[i - count].data_ptr(): x for i, x in launch.traffic.items()})
            record.races += [f"{name}: {race}" for race in launch.races]
        except BaseException as error:  # raised again outside of the C++ frames
            trouble.append(error)

    callback = _Diversion(run)
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # torch.empty makes NaN
    emulation._library.ffrl_cuda_host_divert(callback)
    try:
        with memory:
            yield record
    finally:
        torch.use_deterministic_algorithms(deterministic)
        emulation._library.ffrl_cuda_host_divert(None)
    if trouble:
        raise trouble[0]


def execute(
    question: Question, seed: int = 0, instead: dict[str, ptx.Module] | None = None, wanted: Wanted = EVERYTHING
) -> tuple[Results, Diverted]:
    """The question's results by the CUDA engine, and what its launches did."""
    kernels, q = emulated_kernels(), question
    kernels.emulation.reset(max_shared_bytes=q.case.shared_bytes)
    given = (list(q.inputs.values()), q.index, q.drive, q.tangent, list(q.bars.values()))
    with diverted(kernels.emulation, *given, seed=seed, instead=instead) as record:
        found = q.by_kernels(CudaEngine(kernels.module), wanted)
    kernels.emulation.check()
    return found, record

"""The CUDA kernels under host emulation, bound by the same source as on a device, and reference results beside them."""

from __future__ import annotations

import functools
import importlib.util
import sysconfig
from dataclasses import dataclass
from types import ModuleType

import pybind11

from cuda_host import ROOT, Emulation, build

_KERNELS = ROOT / "kernels/cuda"
SOURCES = [_KERNELS / f"{name}.cu" for name in ("ieee", "tf32", "bf16", "launch")] + [
    ROOT / "tests/cuda_host/emulated_module.cpp"
]


@dataclass(frozen=True)
class EmulatedKernels:
    """The module to hand to a ``CudaEngine``, and what counts and checks its launches."""

    module: ModuleType
    emulation: Emulation


@functools.cache
def emulated_kernels() -> EmulatedKernels:
    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    library = build(SOURCES, flags=includes, name="_cuda.so")
    spec = importlib.util.spec_from_file_location("_cuda", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return EmulatedKernels(module, Emulation(library))

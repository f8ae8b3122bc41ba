"""One kernel launch as a value: it can be run, or named for compilation ahead of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

_TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}


@dataclass(frozen=True)
class Launch:
    """``kernel[grid](**arguments, **constants)``."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int = 1

    def run(self) -> None:
        if 0 not in self.grid:
            self.kernel[self.grid](
                **self.arguments, **self.constants, num_warps=self.num_warps, num_stages=self.num_stages
            )


@dataclass(frozen=True)
class Variant:
    """What is compiled of a launch: the kernel, the types of its arguments, what it knows of them, its constants."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]  # arguments that are multiples of 16
    num_warps: int
    num_stages: int

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)

    @property
    def source(self) -> ASTSource:
        """What ``triton.compile(variant.source, target=…, options=variant.options)`` takes."""
        names = [name for name, _ in self.signature]
        attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in self.aligned}
        return ASTSource(self.kernel, dict(self.signature), dict(self.constants), attributes)

    @property
    def options(self) -> dict[str, int]:
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}


def target(architecture: int) -> GPUTarget:
    return GPUTarget("cuda", architecture, 32)


def variant_of(launch: Launch) -> Variant:
    """As Triton's own launcher specialises: pointers and integers that 16 divides, and the integer 1."""
    kernel: JITFunction[Any] = launch.kernel
    signature, aligned, constants = [], [], dict(launch.constants)
    given = {**launch.arguments, **launch.constants}
    for parameter in kernel.params:
        name, value = parameter.name, given[parameter.name]
        if parameter.is_constexpr:
            kind = "constexpr"
        elif isinstance(value, torch.Tensor):
            kind = _TYPES[value.dtype]
            if value.is_meta or value.data_ptr() % 16 == 0:
                aligned.append(name)
        else:
            kind = "i32" if -(2**31) <= value < 2**31 else "i64"
            if not parameter.do_not_specialize:
                if value == 1:
                    kind, constants[name] = "constexpr", 1
                elif value % 16 == 0:
                    aligned.append(name)
        signature.append((name, kind))
    ordered = tuple((name, constants[name]) for name, _ in signature if name in constants)
    return Variant(kernel, tuple(signature), ordered, tuple(aligned), launch.num_warps, launch.num_stages)


Launcher = Callable[[Launch], None]

#: Triton's names of torch's types.
TRITON_TYPE = {torch.float32: tl.float32, torch.float64: tl.float64, torch.bfloat16: tl.bfloat16}

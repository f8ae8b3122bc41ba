"""Triton kernels to PTX, ahead of time, and their launches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ptx.launch import Launch
from ptx.module import Argument, Module


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel: its text, bytes of dynamic shared memory, and threads."""

    ptx: str
    name: str
    shared: int
    num_warps: int

    @cached_property
    def module(self) -> Module:
        return Module(self.ptx)

    def launch(
        self, grid: Sequence[int], args: Sequence[Argument], *, seed: int = 0, limit: int = 200_000_000
    ) -> Launch:
        """Runs it; ``args`` without the constexprs. Triton's own two pointers, to scratch memory, are null."""
        return self.module.launch(
            self.name, grid, (32 * self.num_warps,), [*args, None, None], shared=self.shared, seed=seed, limit=limit
        )

    def with_ptx(self, text: str) -> Kernel:
        """The same kernel with other text."""
        return Kernel(text, self.name, self.shared, self.num_warps)


def compile(
    kernel: Any,
    signature: Mapping[str, str],
    constexprs: Mapping[str, object],
    arch: int = 80,
    num_warps: int = 4,
    num_stages: int = 3,
    options: Mapping[str, object] | None = None,
    divisible: Sequence[str] | None = None,
) -> Kernel:
    """Compiles a ``@triton.jit`` function for sm_``arch``.

    ``signature`` gives the types of all parameters that are no constexprs: ``{"x": "*fp32", "rows": "i32"}``.
    ``divisible`` names those that are multiples of 16; by default the pointers.
    """
    import triton  # type: ignore[import-untyped]
    from triton.backends.compiler import GPUTarget  # type: ignore[import-untyped]
    from triton.compiler import ASTSource  # type: ignore[import-untyped]

    types = {name: signature.get(name, "constexpr") for name in kernel.arg_names}
    missing = [name for name in kernel.arg_names if name not in signature and name not in constexprs]
    if missing:
        raise ValueError(f"signature, constexprs: expected all parameters, found none of {missing}")
    if divisible is None:
        divisible = [name for name, kind in types.items() if kind.startswith("*")]
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in divisible}
    compiled = triton.compile(
        ASTSource(kernel, types, dict(constexprs), attributes),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": num_warps, "num_stages": num_stages, **(options or {})},
    )
    return Kernel(compiled.asm["ptx"], compiled.metadata.name, compiled.metadata.shared, compiled.metadata.num_warps)

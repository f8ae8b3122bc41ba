"""Runs what the Triton engine launches: compiled for a GPU, its PTX executed in the interpreter on CPU tensors."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import torch
import triton

import ptx
from ffrl_fast.triton_kernels.launch import Launch, Variant, target, variant_of
from ptx.mutate import Mutant


@functools.cache
def compiled(variant: Variant, architecture: int) -> ptx.triton.Kernel:
    done = triton.compile(variant.source, target=target(architecture), options=variant.options)
    return ptx.triton.Kernel(done.asm["ptx"], done.metadata.name, done.metadata.shared, done.metadata.num_warps)


def _whole(x: Any) -> Any:
    """A strided tensor as the memory from its first element on, which is what a kernel gets."""
    if not isinstance(x, torch.Tensor) or x.is_contiguous():
        return x
    elements = x.untyped_storage().nbytes() // x.element_size() - x.storage_offset()
    return x.as_strided((elements,), (1,))


class Interpreted:
    """A launcher for ``TritonEngine(architecture, launch=…)``.

    Args:
        seed: of the order of warps and blocks.
        mutant: of a kernel, whose name it gives: it runs in the kernel's place.
    """

    def __init__(self, architecture: int, seed: int = 0, mutant: tuple[str, Mutant] | None = None) -> None:
        self.architecture, self._seed, self._mutant = architecture, seed, mutant
        self.races: list[str] = []
        self.matrix: dict[str, Counter[str]] = {}
        self.launches: list[tuple[Launch, ptx.Launch]] = []

    def __call__(self, launch: Launch) -> None:
        if 0 in launch.grid:
            return
        variant = variant_of(launch)
        kernel = compiled(variant, self.architecture)
        if self._mutant is not None and self._mutant[0] == variant.name:
            kernel = kernel.with_ptx(self._mutant[1].ptx)
        arguments = [_whole(launch.arguments[name]) for name, kind in variant.signature if kind != "constexpr"]
        done = kernel.launch(launch.grid, arguments, seed=self._seed)
        self.races += [f"{variant.name}: {race}" for race in done.races]
        self.matrix.setdefault(variant.name, Counter()).update(done.matrix)
        self.launches.append((launch, done))

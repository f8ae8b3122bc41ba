"""Runs what the Triton engine launches: compiled for a GPU, its PTX executed in the interpreter on CPU tensors."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import torch
import triton
from torch import Tensor

import ptx
from bench import matrix_work
from ffrl_fast import PotentialBank, reference
from ffrl_fast.gpu.engine import Cotangents, Precision, Rows, Wanted
from ffrl_fast.tolerances import BF16_PRODUCTS, TF32_PRODUCTS, relative_error
from ffrl_fast.triton_kernels.engine import TritonEngine
from ffrl_fast.triton_kernels.launch import Launch, Variant, target, variant_of
from ptx.mutate import Mutant

BOUNDS = {Precision.IEEE: 2e-6, Precision.TF32: TF32_PRODUCTS, Precision.BF16: BF16_PRODUCTS}


@functools.cache
def compiled(variant: Variant, architecture: int) -> ptx.triton.Kernel:
    done = _compiled(variant, architecture)
    return ptx.triton.Kernel(done.asm["ptx"], done.metadata.name, done.metadata.shared, done.metadata.num_warps)


@functools.cache
def _compiled(variant: Variant, architecture: int) -> Any:
    return triton.compile(variant.source, target=target(architecture), options=variant.options)


def redundancy(variant: Variant, architecture: int) -> float:
    """See :func:`bench.matrix_work.redundancy`."""
    return matrix_work.redundancy(_compiled(variant, architecture).asm["ttgir"])


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
        self.launches.append((launch, done))


@dataclass(frozen=True)
class Case:
    rows: int
    dim: int
    width: int
    depth: int = 1
    networks: int = 3
    selection: Literal["index", "gates", "potential"] = "index"
    row_times: bool = False


class Question:
    """Random inputs of a case, and the exact outputs and gradients beside them."""

    def __init__(self, case: Case, dtype: torch.dtype = torch.float32) -> None:
        g = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g).to(dtype)

        bank = PotentialBank(case.networks, case.dim, case.width, case.depth)
        bank.reset_parameters(g)
        times = case.rows if case.row_times else 1
        tau, dtau = 0.5 * normal(case.networks, times, case.width), normal(case.networks, times, case.width)
        index = torch.randint(0, case.networks, (case.rows,), generator=g) if case.selection == "index" else None
        gates = torch.rand(case.rows, case.networks, generator=g).to(dtype) if case.selection == "gates" else None
        potential = case.networks - 1 if case.selection == "potential" else -1
        theta = (1.5 * bank.theta.detach()).to(dtype)
        self.rows = Rows(normal(case.rows, case.dim), theta, bank.shape, tau, dtau, potential, index, gates)
        self.drive = normal(case.rows)
        self.cotangents = Cotangents(*[normal(case.rows, *more) for more in ((), (), (case.dim,), ())])

    def exact(self) -> dict[str, Tensor]:
        r, bars = self.rows, self.cotangents
        inputs = {n: getattr(r, n) for n in ("z", "theta", "tau", "dtau", "gates")}
        leaves = {n: x.double().requires_grad_() for n, x in inputs.items() if x is not None}
        field = reference.potential_field(
            leaves["z"],
            torch.zeros(1, dtype=torch.float64),
            leaves["theta"],
            r.shape,
            leaves["tau"],
            leaves["dtau"],
            potential=r.potential,
            index=r.index,
            gates=leaves.get("gates"),
        )
        residual = field.dt + 0.5 * field.grad.square().sum(1) + self.drive.double()
        outputs = {"u": field.u, "dt": field.dt, "grad": field.grad, "residual": residual}
        total = sum((outputs[n] * getattr(bars, n)).sum() for n in outputs)
        assert isinstance(total, Tensor)
        gradients = torch.autograd.grad(total, list(leaves.values()))
        return outputs | {f"d_{n}": x for n, x in zip(leaves, gradients, strict=True)}

    def found(self, launcher: Interpreted, precision: Precision) -> dict[str, Tensor]:
        engine = TritonEngine(launcher.architecture, launch=launcher)
        out = engine.forward(self.rows, precision, keep=True, drive=self.drive)
        gradients = engine.backward(self.rows, precision, out, self.cotangents, Wanted())
        found = {n: getattr(out, n) for n in ("u", "dt", "grad", "residual")}
        assert all(isinstance(x, Tensor) for x in found.values())
        return found | {f"d_{n}": x for n, x in gradients._asdict().items() if x is not None}


def check(case: Case, architecture: int, precision: Precision, dtype: torch.dtype = torch.float32) -> Interpreted:
    """Every output and gradient within the precision's bound, and no race."""
    question, launcher = Question(case, dtype), Interpreted(architecture)
    exact, found = question.exact(), question.found(launcher, precision)
    assert launcher.races == []
    errors = {name: relative_error(found[name], exact[name]) for name in exact}
    assert max(errors.values()) < BOUNDS[precision], errors
    return launcher

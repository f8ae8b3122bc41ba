"""Operator calls drawn by hypothesis, and their outputs and gradients on any backend and by the oracle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from torch import Tensor

import ffrl_fast
from ffrl_fast import PotentialBank, autodiff, reference
from ffrl_fast.tolerances import relative_error

Selection = Literal["int", "index", "gates"]


@dataclass(frozen=True)
class Case:
    """The shape of one call; everything random in it comes from ``seed``."""

    rows: int
    dim: int
    width: int
    depth: int = 1
    potentials: int = 1
    selection: Selection = "int"
    per_row_time: bool = False
    out_activation: Literal["tanh", "identity"] = "tanh"
    time_embedding: Literal["sinusoidal", "none", "separable"] = "sinusoidal"
    force: bool = False
    seed: int = 0


@st.composite
def cases(draw: st.DrawFn, max_rows: int = 300, max_size: int = 130) -> Case:
    """B 0 … 300, D and H 1 … 130 or 324, depth 1 … 3, K 1 … 5, every way to give t and to choose potentials."""
    size = st.one_of(st.integers(1, max_size), st.sampled_from([324]))
    return Case(
        rows=draw(st.one_of(st.integers(0, max_rows), st.sampled_from([0, 1, 47, 48, 49, 96, 97]))),
        dim=draw(size),
        width=draw(size),
        depth=draw(st.integers(1, 3)),
        potentials=draw(st.integers(1, 5)),
        selection=draw(st.sampled_from(["int", "index", "gates"])),
        per_row_time=draw(st.booleans()),
        out_activation=draw(st.sampled_from(["tanh", "identity"])),
        time_embedding=draw(st.sampled_from(["sinusoidal", "none", "separable"])),
        force=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )


@dataclass
class Inputs:
    """The tensors of one call in float64; ``to`` rounds them to another dtype."""

    case: Case
    bank: PotentialBank
    force: PotentialBank | None
    z: Tensor
    t: Tensor
    selection: dict[str, Any]
    cotangents: list[Tensor]

    @property
    def differentiable(self) -> dict[str, Tensor]:
        found = {"z": self.z, "t": self.t, "theta": self.bank.theta}
        if self.force is not None:
            found["force"] = self.force.theta
        if "gates" in self.selection:
            found["gates"] = self.selection["gates"]
        return found

    def to(self, dtype: torch.dtype) -> Inputs:
        def bank(of: PotentialBank | None) -> PotentialBank | None:
            if of is None:
                return None
            s = of.shape
            copy = PotentialBank(
                of.num_potentials, s.dim, s.width, s.depth, s.out_activation, s.time_embedding, dtype=dtype
            )
            copy.theta.data.copy_(of.theta.data)
            return copy

        def leaf(x: Tensor) -> Tensor:
            return x.detach().to(dtype).requires_grad_()

        selection = {k: leaf(v) if k == "gates" else v for k, v in self.selection.items()}
        copied = bank(self.bank)
        assert copied is not None
        return dataclasses.replace(
            self,
            bank=copied,
            force=bank(self.force),
            z=leaf(self.z),
            t=leaf(self.t),
            selection=selection,
            cotangents=[c.to(dtype) for c in self.cotangents],
        )


def make(case: Case, dtype: torch.dtype = torch.float64) -> Inputs:
    """Inputs whose values are exact in ``dtype``, so that every dtype is asked the same question."""
    g = torch.Generator().manual_seed(case.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).double()

    def bank(width: int) -> PotentialBank:
        made = PotentialBank(
            case.potentials,
            case.dim,
            width,
            case.depth,
            case.out_activation,
            case.time_embedding,
            dtype=torch.float64,
        )
        made.reset_parameters(g)
        # Wider than the usual start, so that no layer is nearly linear; E away from 0.
        made.theta.data.mul_(1.5).add_(0.02 * normal(*made.theta.shape))
        made.theta.data.copy_(made.theta.data.to(dtype))
        return made

    rows, k = case.rows, case.potentials
    selection: dict[str, Any] = {"index": case.seed % k}
    if case.selection == "index":
        selection = {"index": torch.randint(0, k, (rows,), generator=g)}
    elif case.selection == "gates":
        selection = {"gates": torch.softmax(normal(rows, k), 1).to(dtype).double().requires_grad_()}
    return Inputs(
        case=case,
        bank=bank(case.width),
        force=bank(max(1, case.width - 3)) if case.force else None,
        z=normal(rows, case.dim).requires_grad_(),
        t=(normal(rows) if case.per_row_time else normal(1)[0]).requires_grad_(),
        selection=selection,
        cotangents=[normal(rows), normal(rows), normal(rows, case.dim), normal(rows)],
    )


OUTPUTS = ("u", "dt", "grad", "residual")


def _with_gradients(outputs: tuple[Tensor, ...], inputs: Inputs) -> dict[str, Tensor]:
    results = dict(zip(OUTPUTS, outputs, strict=True))
    total = sum((o * c).sum() for o, c in zip(outputs, inputs.cotangents, strict=True))
    leaves = inputs.differentiable
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        results[f"d_{name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return results


def on_backend(inputs: Inputs, backend: str) -> dict[str, Tensor]:
    """Outputs of ``hj_residual`` and the gradients of ⟨cotangents, outputs⟩ with respect to every input."""
    out = ffrl_fast.hj_residual(
        inputs.z, inputs.t, inputs.bank, force=inputs.force, backend=backend, **inputs.selection
    )
    return _with_gradients(tuple(out), inputs)


def by_oracle(inputs: Inputs) -> dict[str, Tensor]:
    """The same by automatic differentiation alone."""
    selection = dict(inputs.selection)
    if inputs.case.selection == "int":
        selection = {"potential_index": selection["index"]}
    field = autodiff.potential_field(inputs.z, inputs.t.reshape(-1), inputs.bank.theta, inputs.bank.shape, **selection)
    force = None
    if inputs.force is not None:
        force = autodiff.potential_field(
            inputs.z, inputs.t.reshape(-1), inputs.force.theta, inputs.force.shape, **selection
        ).u
    residual = reference.hj_residual(field.dt, field.grad, force)
    return _with_gradients((field.u, field.dt, field.grad, residual), inputs)


def float32_errors(
    case: Case, run: Callable[[Inputs, str], dict[str, Tensor]], native: str = "cpu", draws: int = 10
) -> dict[str, tuple[float, float]]:
    """Errors in float32 of eager torch and of a native backend, by the names of ``run``'s results.

    Over several draws of the same shape taken as one vector: in a few a sum over rows may come out exact by luck.
    """
    drawn: dict[str, list[tuple[Tensor, ...]]] = {}
    for seed in range(draws):
        draw = dataclasses.replace(case, seed=case.seed + seed)
        exact = run(make(draw, torch.float32), "reference")
        inputs = make(draw, torch.float32).to(torch.float32)
        eager, found = run(inputs, "reference"), run(inputs, native)
        for name in exact:
            drawn.setdefault(name, []).append((exact[name], eager[name], found[name]))
    errors = {}
    for name, results in drawn.items():
        exact_all, eager_all, found_all = (torch.stack(x).detach() for x in zip(*results, strict=True))
        errors[name] = relative_error(eager_all, exact_all), relative_error(found_all, exact_all)
    return errors

"""Calls of a GPU engine, and their exact results: float64 automatic differentiation through the reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ffrl_fast import reference
from ffrl_fast.gpu.engine import Cotangents, Engine, Precision, Rows, Wanted
from ffrl_fast.layout import NetworkShape

EVERYTHING = Wanted()


@dataclass(frozen=True)
class EngineCase:
    """The shape of one call; everything random in it comes from ``seed``."""

    rows: int
    dim: int
    width: int
    depth: int = 1
    networks: int = 1
    selection: Literal["potential", "index", "gates"] = "potential"
    per_row_time: bool = False
    conditioned: bool = True
    shared_conditioning: bool = False  # one τ for all networks
    out_activation: Literal["tanh", "identity"] = "tanh"
    value_only: bool = False
    driven: bool = True
    seed: int = 0


@dataclass
class EngineInputs:
    """The tensors of a call, in one dtype."""

    rows: Rows
    drive: Tensor | None
    cotangents: Cotangents


def make(case: EngineCase, dtype: torch.dtype = torch.float64) -> EngineInputs:
    generator = torch.Generator().manual_seed(case.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    shape = NetworkShape(case.dim, case.width, case.depth, case.out_activation, "none")
    scale = max(case.dim, case.width) ** 0.5
    theta = normal(case.networks, shape.num_parameters) / scale
    count = case.rows
    tau = dtau = None
    if case.conditioned:
        moments = count if case.per_row_time else 1
        networks = 1 if case.shared_conditioning else case.networks
        tau, dtau = normal(networks, moments, case.width) / 3, normal(networks, moments, case.width)
    selected: dict[str, Any] = {"potential": case.networks - 1}
    if case.selection == "index":
        selected = {"index": torch.randint(0, case.networks, (count,), generator=generator)}
    elif case.selection == "gates":
        selected = {"gates": normal(count, case.networks)}
    rows = Rows(normal(count, case.dim), theta, shape, tau, dtau, **selected)
    u_bar = normal(count)
    if case.value_only:
        return EngineInputs(rows, None, Cotangents(u_bar))
    drive = normal(count) if case.driven else None
    residual_bar = normal(count) if case.driven else None
    return EngineInputs(rows, drive, Cotangents(u_bar, normal(count), normal(count, case.dim), residual_bar))


def by_reference(inputs: EngineInputs, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Outputs and gradients by the reference in ``dtype`` on the values of ``inputs``."""
    rows, cotangents = inputs.rows, inputs.cotangents

    def leaf(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.detach().to(dtype).requires_grad_()

    leaves = {name: leaf(getattr(rows, name)) for name in ("z", "theta", "tau", "dtau", "gates")}
    assert leaves["z"] is not None and leaves["theta"] is not None
    field = reference.potential_field(
        leaves["z"],
        torch.zeros(1, dtype=dtype),
        leaves["theta"],
        rows.shape,
        leaves["tau"],
        leaves["dtau"],
        potential=rows.potential,
        index=rows.index,
        gates=leaves["gates"],
    )
    outputs = {"u": field.u}
    if cotangents.grad is not None:
        outputs |= {"dt": field.dt, "grad": field.grad}
    if inputs.drive is not None:
        outputs["residual"] = reference.hj_residual(field.dt, field.grad, None) + inputs.drive.to(dtype)
    total = torch.zeros((), dtype=dtype)
    for name, output in outputs.items():
        bar = getattr(cotangents, name)
        if bar is not None:
            total = total + (output * bar.to(dtype)).sum()
    given = {name: x for name, x in leaves.items() if x is not None}
    gradients = torch.autograd.grad(total, list(given.values()), allow_unused=True)
    for (name, x), gradient in zip(given.items(), gradients, strict=True):
        outputs[f"d_{name}"] = torch.zeros_like(x) if gradient is None else gradient
    return {name: x.detach() for name, x in outputs.items()}


def by_engine(
    engine: Engine, inputs: EngineInputs, precision: Precision, wanted: Wanted = EVERYTHING, *, keep: bool = True
) -> dict[str, Tensor]:
    rows, cotangents = inputs.rows, inputs.cotangents
    value_only = cotangents.grad is None
    out = engine.forward(rows, precision, keep=keep, value_only=value_only, drive=inputs.drive)
    gradients = engine.backward(rows, precision, out, cotangents, wanted, value_only=value_only)
    found = {name: getattr(out, name) for name in ("u", "dt", "grad", "residual")}
    if value_only:
        found = {"u": out.u}
    found |= {f"d_{name}": x for name, x in gradients._asdict().items()}
    return {name: x for name, x in found.items() if x is not None}


def selections(case: EngineCase) -> list[EngineCase]:
    """The case with every way to choose a network."""
    return [replace(case, selection=x) for x in ("potential", "index", "gates")]  # type: ignore[arg-type]

"""What the tests on a GPU ask of a backend, on any device: where there is no GPU, Triton's interpreter answers."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

import ffrl_fast
from cases import Case, Inputs, make, on_backend
from ffrl_fast.tolerances import BF16_PRODUCTS, FLOAT32_FLOOR, FLOAT32_TIMES_EAGER, TF32_PRODUCTS, relative_error

MOMENTS = [1.0, 2.0, 3.0, 4.0, 5.0]


def on_device(inputs: Inputs, dtype: torch.dtype, device: str) -> Inputs:
    moved = inputs.to(dtype)

    def leaf(x: Tensor) -> Tensor:
        return x.detach().to(device).requires_grad_(x.requires_grad)

    return dataclasses.replace(
        moved,
        bank=moved.bank.to(device),
        force=None if moved.force is None else moved.force.to(device),
        z=leaf(moved.z),
        t=leaf(moved.t),
        selection={k: leaf(x) if isinstance(x, Tensor) else x for k, x in moved.selection.items()},
        cotangents=[x.to(device) for x in moved.cotangents],
    )


def check_field(case: Case, backend: str, precision: str, device: str) -> None:
    """u, ∂_t u, ∇u, the residual and all gradients against float64: in ieee as exact as eager torch."""
    made = make(case, torch.float32)
    exact = on_backend(on_device(made, torch.float64, device), "reference")
    inputs = on_device(made, torch.float32, device)
    with ffrl_fast.use_precision(precision):
        found = on_backend(inputs, backend)
    eager = on_backend(inputs, "reference")
    for name, value in exact.items():
        bound = {
            "ieee": FLOAT32_TIMES_EAGER * relative_error(eager[name], value) + FLOAT32_FLOOR,
            "tf32": TF32_PRODUCTS,
            "bf16": BF16_PRODUCTS,
        }[precision]
        assert relative_error(found[name], value) <= bound, name


def path_with_gradients(inputs: Inputs, backend: str) -> dict[str, Tensor]:
    """A path of five steps of two Euler steps each, its outputs, and the gradients of the sum of their squares."""
    outputs = ("u", "dt", "residual")
    path = ffrl_fast.integrate(
        inputs.z,
        MOMENTS,
        inputs.bank,
        force=inputs.force,
        step=0.3,
        substeps=2,
        outputs=outputs,
        backend=backend,
        **inputs.selection,
    )
    found: dict[str, Tensor] = {name: getattr(path, name) for name in ("z", *outputs)}
    total = torch.stack([x.square().sum() for x in found.values()]).sum()
    leaves = inputs.differentiable
    del leaves["t"]
    gradients = torch.autograd.grad(total, list(leaves.values()))
    return found | {f"d_{name}": x for name, x in zip(leaves, gradients, strict=True)}


def check_path(case: Case, backend: str, precision: str, device: str) -> None:
    """As :func:`check_field`; errors grow along the path."""
    made = make(case, torch.float32)
    exact = path_with_gradients(on_device(made, torch.float64, device), "reference")
    with ffrl_fast.use_precision(precision):
        found = path_with_gradients(on_device(made, torch.float32, device), backend)
    bound = {"ieee": 1e-4, "tf32": 5 * TF32_PRODUCTS, "bf16": 5 * BF16_PRODUCTS}[precision]
    for name, value in exact.items():
        assert relative_error(found[name], value) <= bound, name

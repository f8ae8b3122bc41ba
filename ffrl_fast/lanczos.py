"""Stochastic Lanczos quadrature: xᵀ log|I + step·A| x from a few products of a symmetric A (B, D, D) with vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ffrl_fast import matrices

#: A Gauss rule of one node less may differ by this share of its value, or of 1 for a small one.
TOLERANCE = 0.02


class LogAbsForm(NamedTuple):
    """xᵀ log|I + step·A| x (B,), its linear part step·xᵀAx, and whether the rule of one node less agrees.

    In float32 where the products have fewer bits; NaN in a row whose products are not finite.
    """

    value: Tensor
    linear: Tensor
    converged: Tensor


def _tridiagonal(product: Callable[[Tensor], Tensor], x: Tensor, steps: int, eps: float) -> tuple[Tensor, Tensor]:
    """Orthonormal rows V (B, m, D) of the Krylov space of x and V A Vᵀ (B, m, m); each row of x its own.

    ``eps``: the rounding of a product.

    Every vector is made orthogonal to all before it, twice: with so few, rounding would otherwise cost more than time.
    """
    basis = [x / x.norm(dim=1, keepdim=True)]
    images = []
    for i in range(steps):
        image = product(basis[i])
        images.append(image)
        if i + 1 == steps:
            break
        v = torch.stack(basis, 1)
        rest = image
        for _ in range(2):
            rest = rest - (v.mT @ (v @ rest[:, :, None]))[:, :, 0]
        # Where the space is exhausted the rest is rounding error, and a zero vector takes no part in what follows.
        size = rest.norm(dim=1, keepdim=True)
        small = size <= 32 * eps * image.norm(dim=1, keepdim=True)
        basis.append(torch.where(small, torch.zeros_like(rest), rest / torch.where(small, torch.ones_like(size), size)))
    v = torch.stack(basis, 1)
    t = v @ torch.stack(images, 1).mT
    return v, 0.5 * (t + t.mT)


def log_abs_form(hvp: Callable[[Tensor], Tensor], x: Tensor, step: float, steps: int) -> LogAbsForm:
    """xᵀ log|I + step·A| x for ``hvp`` = A·, with the gradient of log|det(I + step·A)| that x estimates.

    The gradient is that of step · yᵀ A x with y ≈ (I + step·A)⁻¹ x from the same Krylov space, held fixed.
    """
    steps = min(steps, x.shape[1])
    wide = matrices.widened(x)
    square = (wide * wide).sum(1)

    def product(vector: Tensor) -> Tensor:
        return matrices.widened(hvp(vector.to(x.dtype)))

    with torch.no_grad():
        v, t = _tridiagonal(product, wide, steps, torch.finfo(x.dtype).eps)

        def rule(size: int) -> tuple[Tensor, Tensor, Tensor]:
            nodes, vectors = matrices.eigenvectors(t[:, :size, :size])
            return square * (vectors[:, 0] ** 2 * torch.log((1 + step * nodes).abs())).sum(1), nodes, vectors

        value, nodes, vectors = rule(steps)
        less = rule(steps - 1)[0] if steps > 1 else torch.full_like(value, float("inf"))
        if steps == x.shape[1]:
            less = value
        converged = (value - less).abs() <= TOLERANCE * value.abs().clamp(min=1)
        # y = ‖x‖ V (I + step·T)⁻¹ e_1
        y = ((vectors / (1 + step * nodes)[:, None]) @ vectors[:, 0, :, None])[:, :, 0]
        y = square.sqrt()[:, None] * (y[:, None] @ v)[:, 0]
    if torch.is_grad_enabled():
        surrogate = step * (y * product(wide)).sum(1)
        value = value + (surrogate - surrogate.detach())
    return LogAbsForm(value, step * square * t[:, 0, 0], converged)

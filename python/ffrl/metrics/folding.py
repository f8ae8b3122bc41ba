"""Are a bank's paths what they are taken for: invertible step by step, solutions of the Hamilton–Jacobi equation?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ffrl_fast import PotentialBank, hj_residual, integrate, log_det


@dataclass(frozen=True)
class Folding:
    """Over all (row, Euler step) pairs of the paths, with M = I + Δ ∇²u, Δ the length of an Euler step:

    folds: share whose M has an eigenvalue ≤ 0. Such a step is not invertible as a map near its row, or folds over:
        log|det M| is then the change of volume of one branch only, and no density follows from it.
    negative: share whose det M < 0, an odd number of negative eigenvalues; never above folds. A library that reports
        the sign of the determinant sees these folds alone.
    smallest: the smallest eigenvalue of all M. No pair folds if and only if it is positive.
    pairs: how many.
    """

    folds: float
    negative: float
    smallest: float
    pairs: int


@dataclass(frozen=True)
class PathResidual:
    """Mean of r² over rows and steps, r = ∂_t u + ½‖∇u‖² + F².

    on_grid: at the (z_i, t_i) that the path itself asks for. off_grid: half a step on, at ((z_i + z_{i+1})/2,
    t_i + Δ/2). A residual met on the grid alone is no solution.
    """

    on_grid: float
    off_grid: float


@torch.no_grad()
def path_folding(
    z0: Tensor,
    times: Tensor | Sequence[float],
    bank: PotentialBank,
    *,
    index: int | Tensor | None = None,
    step: float = 1.0,
    substeps: int = 1,
) -> Folding:
    """Folding of the paths of z0 (B, D), B ≥ 1, along times (T,), T ≥ 1.

    bank, index, step, substeps: as in `ffrl_fast.integrate`; a pair is a row and one of its T·substeps Euler steps.
    The flow of `FlowModel` is that of times 1 … T. Costs the whole Hessian and its eigenvalues at every pair.
    """
    moments, length = _moments(z0, times, bank, step, substeps)
    path = integrate(z0, moments, bank, index=index, step=length).z
    smallest, negative = [], []
    for z, t in zip(path[:-1], moments, strict=True):
        found = log_det(z, t, bank, index=index, step=length, smallest=True)
        assert found.smallest is not None and found.sign is not None  # asked for; "exact" has both
        smallest.append(found.smallest)
        negative.append(found.sign < 0)
    least, odd = torch.cat(smallest), torch.cat(negative)
    _check_finite(bool(torch.isfinite(least).all()))
    # Eigenvalues that rounding puts on the other side of 0 than the determinant: an odd fold is a fold.
    folds = (least <= 0) | odd
    return Folding(
        folds=folds.double().mean().item(),
        negative=odd.double().mean().item(),
        smallest=least.min().item(),
        pairs=len(least),
    )


@torch.no_grad()
def path_residual(
    z0: Tensor,
    times: Tensor | Sequence[float],
    bank: PotentialBank,
    *,
    force: PotentialBank | None = None,
    index: int | Tensor | None = None,
    step: float = 1.0,
    substeps: int = 1,
) -> PathResidual:
    """The residual on and off the grid of the paths of z0 (B, D), B ≥ 1, along times (T,), T ≥ 1.

    bank, force, index, step, substeps: as in `ffrl_fast.integrate`.
    """
    moments, length = _moments(z0, times, bank, step, substeps)
    path = integrate(z0, moments, bank, index=index, force=force, step=length, outputs=("residual",))
    assert path.residual is not None  # asked for
    middle = (path.z[:-1] + path.z[1:]) / 2
    off_grid = [
        hj_residual(z, t + length / 2, bank, force=force, index=index).residual
        for z, t in zip(middle, moments, strict=True)
    ]
    found = PathResidual(
        on_grid=path.residual.double().square().mean().item(),
        off_grid=torch.cat(off_grid).double().square().mean().item(),
    )
    _check_finite(math.isfinite(found.on_grid) and math.isfinite(found.off_grid))
    return found


def _moments(
    z0: Tensor, times: Tensor | Sequence[float], bank: PotentialBank, step: float, substeps: int
) -> tuple[Tensor, float]:
    """The times at which the Euler steps start, (T·substeps,), and their length."""
    if z0.ndim != 2 or len(z0) == 0:
        raise ValueError(f"z0: expected shape (B, {bank.dim}) with B ≥ 1, found {tuple(z0.shape)}")
    if substeps < 1:
        raise ValueError(f"substeps: expected an integer ≥ 1, found {substeps!r}")
    starts = torch.as_tensor(times, dtype=bank.theta.dtype, device=bank.theta.device)
    if starts.ndim != 1 or len(starts) == 0:
        raise ValueError(f"times: expected shape (T,) with T ≥ 1, found {tuple(starts.shape)}")
    length = step / substeps
    offsets = length * torch.arange(substeps, dtype=starts.dtype, device=starts.device)
    return (starts[:, None] + offsets).flatten(), length


def _check_finite(finite: bool) -> None:
    if not finite:
        raise ValueError("z0: expected paths that stay finite, found NaN or infinity on the way")

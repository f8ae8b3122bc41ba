"""Transitions that are fitted in the space of codes, so that systems without one of their own have a path as well."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

RIDGE = 1e-3
"""Of the affine map, in units of the mean variance of a code's dimension; the same for all systems and data."""


class Transition(Protocol):
    """How the codes of one transformation go on."""

    def path(self, z0: Tensor, steps: int) -> Tensor:
        """z_0…z_steps, (steps + 1, N, D), of the dtype of z_0 (N, D)."""
        ...


@dataclass(frozen=True, eq=False)
class ConstantStep:
    """z_t = z_0 + t·v. step: v (D,), float64."""

    step: Tensor

    @classmethod
    def fit(cls, codes: Tensor) -> "ConstantStep":
        """The least Σ_n Σ_t ‖z_t − z_0 − t·v‖² over codes z_0…z_T, (T + 1, N, D): v = Σ_t t·mean_n(z_t − z_0) / Σ_t t².

        ValueError: codes of another shape, or of no step or no sequence.
        """
        z = _sequences(codes)
        times = torch.arange(1, len(z), dtype=torch.float64, device=z.device)
        moved = (z[1:] - z[0]).mean(dim=1)
        return cls(times @ moved / times.square().sum())

    def path(self, z0: Tensor, steps: int) -> Tensor:
        times = torch.arange(steps + 1, dtype=torch.float64, device=z0.device)
        return (z0.double() + times[:, None, None] * self.step).to(z0.dtype)


@dataclass(frozen=True, eq=False)
class AffineMap:
    """z_{t+1} = A z_t + b, again and again. matrix: A (D, D), offset: b (D,), float64."""

    matrix: Tensor
    offset: Tensor

    @classmethod
    def fit(cls, codes: Tensor, ridge: float = RIDGE) -> "AffineMap":
        """Ridge regression of z_{t+1} on z_t over all n neighbouring pairs of codes z_0…z_T, (T + 1, N, D).

        The least Σ‖z_{t+1} − A z_t − b‖² + n·ridge·s²‖A − I‖²_F, in closed form; s² the mean variance of a dimension of
        z_t. b is free, so that a great ridge leaves the mean step.

        ValueError: codes of another shape, or of no step or no sequence; a ridge that is not above 0.
        """
        if not ridge > 0:
            raise ValueError(f"ridge: expected a number above 0, found {ridge}")
        z = _sequences(codes)
        before, step = z[:-1].flatten(0, 1), (z[1:] - z[:-1]).flatten(0, 1)
        mean, mean_step = before.mean(dim=0), step.mean(dim=0)
        centred = before - mean
        covariance = centred.T @ centred / len(before)
        scale = covariance.diagonal().mean()
        # Codes that are all alike: any ridge then leaves A = I.
        penalty = ridge * torch.where(scale > 0, scale, torch.ones_like(scale))
        identity = torch.eye(z.shape[2], dtype=torch.float64, device=z.device)
        change = torch.linalg.solve(covariance + penalty * identity, centred.T @ step / len(before)).T
        return cls(identity + change, mean_step - change @ mean)

    def path(self, z0: Tensor, steps: int) -> Tensor:
        path = [z0.double()]
        for _ in range(steps):
            path.append(path[-1] @ self.matrix.T + self.offset)
        return torch.stack(path).to(z0.dtype)


def _sequences(codes: Tensor) -> Tensor:
    if codes.ndim != 3 or len(codes) < 2 or 0 in codes.shape:
        raise ValueError(f"codes: expected shape (T + 1, N, D), T ≥ 1, nowhere 0, found {tuple(codes.shape)}")
    return codes.double()

"""A flow backwards: each Euler step solved for where it came from.

z_{i+1} = z_i + Δ∇u(z_i, t_i) is an equation for z_i. Stepping with −∇u from z_{i+1} does not solve it: it asks for the
gradient where the step ends. Newton's method with the exact Hessian does. ∇u is bounded, so that there is a solution
for every z_{i+1} (z + s·Δ∇u, s from 0 to 1, deforms the identity into the step: its degree is 1). Where a step folds,
I + Δ∇²u having an eigenvalue ≤ 0, there are several: the one that is found may be another than where the path came
from, and Newton's method may come to rest where ‖z + Δ∇u − z_{i+1}‖ is smallest nearby and not 0.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ffrl_fast import PotentialBank, hessian, potential_field

TOLERANCE = 1e-12
"""A row is solved when ‖z + Δ∇u(z) − y‖ ≤ TOLERANCE · (1 + ‖y‖)."""
MOST_ITERATIONS = 50
_MOST_HALVINGS = 12
_SUFFICIENT_DECREASE = 1e-4
# Where I + Δ∇²u is singular Newton's step is infinite.
_SMALLEST_EIGENVALUE = 1e-3


class Inversion(NamedTuple):
    """Of M Euler steps of B rows. z: (M + 1, B, D), the path back, z[M] where it starts; NaN before a step that was
    not solved. iterations: int64 (M, B), Newton steps. residual: (M, B), ‖z_i + Δ∇u(z_i, t_i) − z_{i+1}‖; NaN where
    the path back did not come to.
    """

    z: Tensor
    iterations: Tensor
    residual: Tensor


@torch.no_grad()
def inverted_path(end: Tensor, moments: Tensor, bank: PotentialBank, *, index: int, step: float = 1.0) -> Inversion:
    """The path that comes to `end` (B, D) by Euler steps of Δ = `step` at `moments` (M,), all in float64.

    Each step is solved by damped Newton iteration from the step with −∇u, row by row. A row that is not solved to
    `TOLERANCE` after `MOST_ITERATIONS`, or that comes no nearer, goes back no further.
    TypeError: `end` or `bank` is not float64, too coarse for the tolerance.
    """
    for name, tensor in (("end", end), ("bank", bank.theta)):
        if tensor.dtype != torch.float64:
            raise TypeError(f"{name}: expected torch.float64, found {tensor.dtype}")
    path, iterations, residuals = [end], [], []
    for t in moments.flip(0):
        reached = path[-1].isfinite().all(dim=1).nonzero().squeeze(1)
        y = path[-1][reached]
        solution = _solve(_Step(bank, index, t, step), y)
        solved = solution.residual <= _tolerance(y)
        z = torch.full_like(end, torch.nan)
        z[reached[solved]] = solution.z[solved]
        path.append(z)
        iterations.append(torch.zeros(len(end), dtype=torch.int64).index_copy(0, reached, solution.iterations))
        residuals.append(end.new_full((len(end),), torch.nan).index_copy(0, reached, solution.residual))
    return Inversion(*(torch.stack(parts[::-1]) for parts in (path, iterations, residuals)))


@torch.no_grad()
def stepped_back(end: Tensor, moments: Tensor, bank: PotentialBank, *, index: int, step: float = 1.0) -> Tensor:
    """z_i = z_{i+1} − Δ∇u(z_{i+1}, t_i), which is no inverse of the path: (M + 1, B, D), the last one `end`."""
    path = [end]
    for t in moments.flip(0):
        path.append(path[-1] - _Step(bank, index, t, step).along(path[-1]))
    return torch.stack(path[::-1])


@dataclass(frozen=True)
class _Step:
    """z → z + Δ∇u(z, t)."""

    bank: PotentialBank
    index: int
    t: Tensor
    length: float

    def along(self, z: Tensor) -> Tensor:
        """Δ∇u(z, t), (B, D)."""
        return self.length * potential_field(z, self.t, self.bank, index=self.index).grad

    def missed(self, z: Tensor, y: Tensor) -> Tensor:
        """z + Δ∇u(z, t) − y, (B, D): 0 where the step leads from z to y."""
        return z + self.along(z) - y

    def newton_direction(self, z: Tensor, missed: Tensor) -> Tensor:
        """−(I + Δ∇²u)⁻¹ · missed, (B, D), eigenvalues near 0 held off it."""
        values, vectors = torch.linalg.eigh(self.length * hessian(z, self.t, self.bank, index=self.index))
        values = 1 + values
        values = torch.where(values < 0, -1.0, 1.0) * values.abs().clamp(min=_SMALLEST_EIGENVALUE)
        return -(vectors @ ((vectors.mT @ missed[:, :, None]) / values[:, :, None])).squeeze(2)


class _Solution(NamedTuple):
    """z (B, D), Newton steps (B,), and the norm of what z misses (B,)."""

    z: Tensor
    iterations: Tensor
    residual: Tensor


def _solve(step: _Step, y: Tensor) -> _Solution:
    """Where the step came to y (B, D) from."""
    z = y - step.along(y)
    missed, tolerance = step.missed(z, y), _tolerance(y)
    iterations = torch.zeros(len(y), dtype=torch.int64)
    active = (missed.norm(dim=1) > tolerance).nonzero().squeeze(1)
    for _ in range(MOST_ITERATIONS):
        if len(active) == 0:
            break
        direction = step.newton_direction(z[active], missed[active])
        nearer = _search(step, z, y, missed, active, direction)
        iterations[active] += 1
        active = active[nearer & (missed[active].norm(dim=1) > tolerance[active])]
    return _Solution(z, iterations, missed.norm(dim=1))


def _search(step: _Step, z: Tensor, y: Tensor, missed: Tensor, active: Tensor, direction: Tensor) -> Tensor:
    """Move the active rows of z, and what they miss, in place, as far along their direction as they come sufficiently
    nearer; which of them did, bool (active,).
    """
    before, tolerance = missed[active].norm(dim=1), _tolerance(y[active])
    nearer = torch.zeros(len(active), dtype=torch.bool)
    share = 1.0
    for _ in range(_MOST_HALVINGS):
        waiting = (~nearer).nonzero().squeeze(1)
        if len(waiting) == 0:
            break
        rows = active[waiting]
        tried = z[rows] + share * direction[waiting]
        left = step.missed(tried, y[rows])
        size = left.norm(dim=1)
        better = (size <= (1 - _SUFFICIENT_DECREASE * share) * before[waiting]) | (size <= tolerance[waiting])
        z[rows[better]], missed[rows[better]] = tried[better], left[better]
        nearer[waiting[better]] = True
        share /= 2
    return nearer


def _tolerance(y: Tensor) -> Tensor:
    return TOLERANCE * (1 + y.norm(dim=1))

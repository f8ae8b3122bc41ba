"""There and back along a flow: how far from its start the path comes out, solved step by step or merely stepped."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from ffrl.inversion import inverted_path, stepped_back
from ffrl.models import FlowModel
from ffrl_fast import integrate, log_det

RETURNED = 1e-6
"""A row has returned when ‖z_0' − z_0‖ is at most this; latents are of size 1."""


@dataclass(frozen=True)
class RoundTrip:
    """N rows through M Euler steps and back, in float64.

    moments: (M,), t at each step. there, back, stepped: (M + 1, N, D), the path, its solution from z_M back to z_0, NaN
    where there is none, and the steps with −∇u from z_M. iterations: (M, N), Newton steps. residual: (M, N), what the
    solution misses of each step, NaN where it did not come to. smallest: (M, N), the smallest eigenvalue of I + Δ∇²u
    on the path; where it is not positive the step folds.
    """

    moments: Tensor
    there: Tensor
    back: Tensor
    stepped: Tensor
    iterations: Tensor
    residual: Tensor
    smallest: Tensor

    @property
    def error(self) -> Tensor:
        """‖z_0' − z_0‖ of the solution, (N,); NaN where a step was not solved."""
        return (self.back[0] - self.there[0]).norm(dim=1)

    @property
    def stepped_error(self) -> Tensor:
        """‖z_0' − z_0‖ of the steps with −∇u, (N,)."""
        return (self.stepped[0] - self.there[0]).norm(dim=1)

    @property
    def solved(self) -> Tensor:
        """Rows all of whose steps were solved, bool (N,)."""
        return self.error.isfinite()

    @property
    def returned(self) -> Tensor:
        """Rows that came back to their start, bool (N,); others that were solved have another start too."""
        return self.error <= RETURNED

    @property
    def folding(self) -> Tensor:
        """Rows whose path has a step that folds, bool (N,)."""
        return (self.smallest <= 0).any(dim=0)


@torch.no_grad()
def round_trip(model: FlowModel, z0: Tensor, index: int, steps: int) -> RoundTrip:
    """Along the flow of potential `index` from z0 (N, D), t = 1…steps, and back."""
    bank = copy.deepcopy(model.potentials).double()
    length = 1 / model.substeps
    offsets = length * torch.arange(model.substeps, dtype=torch.float64)
    moments = (torch.arange(1, steps + 1, dtype=torch.float64)[:, None] + offsets).flatten()
    there = integrate(z0.double(), moments, bank, index=index, step=length).z
    points = zip(there[:-1], moments, strict=True)
    smallest = [log_det(z, t, bank, index=index, step=length, smallest=True).smallest for z, t in points]
    solution = inverted_path(there[-1], moments, bank, index=index, step=length)
    return RoundTrip(
        moments=moments,
        there=there,
        back=solution.z,
        stepped=stepped_back(there[-1], moments, bank, index=index, step=length),
        iterations=solution.iterations,
        residual=solution.residual,
        smallest=torch.stack([values for values in smallest if values is not None]),
    )


def joined(parts: list[RoundTrip]) -> RoundTrip:
    """The rows of several, which went through the same steps."""
    return RoundTrip(
        parts[0].moments,
        *(
            torch.cat([getattr(part, name) for part in parts], dim=1)
            for name in ("there", "back", "stepped", "iterations", "residual", "smallest")
        ),
    )

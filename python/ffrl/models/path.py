"""What a step of training asks of a flow: where it goes, and what its equation and its volumes say on the way."""

from typing import NamedTuple

from torch import Tensor


class FlowWithResidual(NamedTuple):
    """z: z_0…z_steps (steps + 1, B, D).

    residual: r = ∂_t u + ½‖∇u‖² + F² at each (z, t) that the flow asks (steps·substeps, B); None where no equation is
    asked of the flow. log_det: Σ log|det(I + Δ∇²u)| over each step's Euler steps (steps, B), by the preset's density;
    None where it asks for none.
    """

    z: Tensor
    residual: Tensor | None
    log_det: Tensor | None

"""The training objective: the negative evidence lower bound and the Hamilton–Jacobi penalty, for known k."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ffrl.data.sequences import SequenceBatch
from ffrl.models import FlowModel
from ffrl.presets import Preset
from ffrl_fast import hj_residual, potential_field


@dataclass(frozen=True)
class Objective:
    """`loss` = reconstruction + β·kl + hj_weight·hj + initial_weight·initial; every part is a scalar, batch mean.

    reconstruction: Bernoulli cross-entropy in nats, summed over pixels and (in expectation) over the T + 1 frames.
    kl: KL(q(z_0|x_0) ‖ N(0, I)) in nats. hj: mean of the squared residual over steps and rows.
    initial: mean over rows of ‖∇u^k(z_0, 0)‖² (zero and not computed when its weight is zero).
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor
    hj: Tensor
    initial: Tensor


def supervised_objective(
    model: FlowModel, batch: SequenceBatch, preset: Preset, generator: torch.Generator
) -> Objective:
    """The loss of one batch whose transformations k = batch.index are known.

    loss = Σ_t E[−log p(x_t|z_t)] + β·KL(q(z_0|x_0) ‖ p(z_0)) + hj_weight·mean r² + initial_weight·mean‖∇u(z_0, 0)‖²,
    r = ∂_t u + ½‖∇u‖² + F². The sum over t is estimated from the frames of the batch by their weights.

    The flow KL, Σ_t E[log q(z_t) − log p(z_t)], is not part of it: it needs log|det(I + ∇²u)| of each step, which
    `ffrl_fast` does not have yet. So the loss is no bound on the likelihood under the diffusion prior of the paper.
    """
    posterior = model.autoencoder.encode(batch.frames[:, 0])
    noise = torch.randn(posterior.mean.shape, generator=generator)
    z, residual = model.flow_with_residual(posterior.sample(noise), batch.index)

    rows = torch.arange(len(batch.index))[:, None]
    logits = model.autoencoder.decode_logits(z[batch.times, rows])
    entropy = binary_cross_entropy_with_logits(logits, batch.frames, reduction="none").sum(dim=(2, 3, 4))
    reconstruction = (entropy @ batch.weights).mean()
    kl = posterior.kl_to_standard_normal().mean()

    hj = residual.square().mean()
    if preset.midpoint_collocation:
        hj = 0.5 * (hj + _midpoint_residual(model, z, batch.index, generator).square().mean())
    initial = kl.new_zeros(())
    if preset.initial_weight > 0:
        gradient = potential_field(z[0], 0.0, model.potentials, index=batch.index).grad
        initial = gradient.square().sum(dim=1).mean()

    loss = reconstruction + preset.beta * kl + preset.hj_weight * hj + preset.initial_weight * initial
    return Objective(loss, reconstruction, kl, hj, initial)


def _midpoint_residual(model: FlowModel, z: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
    """The residual (T·B,) at time t + α, α ~ U(0, 1), on the way from z_{t−1}, where the flow asks u at t, to z_t."""
    steps, rows = len(z) - 1, len(index)
    alpha = torch.rand(steps, rows, generator=generator)
    points = torch.lerp(z[:-1], z[1:], alpha[:, :, None]).flatten(0, 1)
    times = (torch.arange(1, steps + 1)[:, None] + alpha).flatten()
    return hj_residual(points, times, model.potentials, force=model.forces, index=index.repeat(steps)).residual

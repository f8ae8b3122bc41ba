"""The training objective: the negative evidence lower bound and the Hamilton–Jacobi penalty, for known k."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ffrl.data.sequences import SequenceBatch
from ffrl.density import diffusion_prior_log_density, gaussian_log_density, path_log_density
from ffrl.models import FlowModel
from ffrl.models.autoencoder import Posterior
from ffrl.noise import Noise
from ffrl.presets import Preset
from ffrl_fast import hj_residual, potential_field


class Objective(NamedTuple):
    """`loss` = reconstruction + β·kl + flow_beta·flow_kl + hj_weight·hj + initial_weight·initial; scalars, batch means.

    reconstruction: Bernoulli cross-entropy in nats, summed over pixels and (in expectation) over the T + 1 frames.
    kl: KL(q(z_0|x_0) ‖ N(0, I)) in nats. flow_kl: Σ_{t≥1} E[log q(z_t) − log p(z_t)] in nats (zero and not computed
    where the preset's density is "none"). hj: mean of the squared residual over steps and rows.
    initial: mean over rows of ‖∇u^k(z_0, 0)‖² (zero and not computed when its weight is zero).
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor
    flow_kl: Tensor
    hj: Tensor
    initial: Tensor


def supervised_objective(model: FlowModel, batch: SequenceBatch, preset: Preset, noise: Noise) -> Objective:
    """The loss of one batch whose transformations k = batch.index are known.

    loss = Σ_t E[−log p(x_t|z_t)] + β·KL(q(z_0|x_0) ‖ p(z_0)) + flow_beta·Σ_t E[log q(z_t) − log p(z_t|k)]
    + hj_weight·mean r² + initial_weight·mean‖∇u(z_0, 0)‖², with r = ∂_t u + ½‖∇u‖² + F², the sum over frames estimated
    from those of the batch by their weights, and q and p along the flow as in `ffrl.density`, one sample z_0 a row.

    With β = flow_beta = 1 and density "exact" the first three terms bound −Σ_t log p(x_t|k), a sum over frames, and not
    −log p(x_0…x_T|k). Without the flow KL (density "none") they bound neither; with "row_sum" they are the paper code's
    surrogate.
    """
    # Under autocast the autoencoder's products are in lower precision; codes, flow and losses are in float32.
    posterior = Posterior(*(x.float() for x in model.autoencoder.encode(batch.frames[:, 0])))
    device = posterior.mean.device
    with torch.autocast(device.type, enabled=False):
        z0 = posterior.sample(noise.posterior)
        z, residual, log_det = model.flow_with_residual(z0, batch.index, generator=noise.directions(device))

    rows = torch.arange(len(batch.index), device=device)[:, None]
    logits = model.autoencoder.decode_logits(z[batch.times, rows]).float()
    entropy = binary_cross_entropy_with_logits(logits, batch.frames, reduction="none").sum(dim=(2, 3, 4))
    reconstruction = (entropy @ batch.weights).mean()
    kl = posterior.kl_to_standard_normal().mean()
    flow_kl = kl.new_zeros(())
    if log_det is not None:
        assert model.log_diffusion is not None
        log_q0 = gaussian_log_density(z[0], *posterior)
        log_p = diffusion_prior_log_density(z[1:], model.log_diffusion.exp()[batch.index])
        flow_kl = (path_log_density(log_q0, log_det) - log_p).sum(dim=0).mean()

    hj, initial = residual.square().mean(), kl.new_zeros(())
    with torch.autocast(device.type, enabled=False):
        if noise.midpoints is not None:
            hj = 0.5 * (hj + _midpoint_residual(model, z, batch.index, noise.midpoints).square().mean())
        if preset.initial_weight > 0:
            gradient = potential_field(z[0], 0.0, model.potentials, index=batch.index).grad
            initial = gradient.square().sum(dim=1).mean()

    loss = reconstruction + preset.beta * kl + preset.hj_weight * hj + preset.initial_weight * initial
    if log_det is not None:
        loss = loss + preset.flow_beta * flow_kl
    return Objective(loss, reconstruction, kl, flow_kl, hj, initial)


def _midpoint_residual(model: FlowModel, z: Tensor, index: Tensor, alpha: Tensor) -> Tensor:
    """The residual (T·B,) at time t + α on the way from z_{t−1}, where the flow asks u at t, to z_t; alpha (T, B)."""
    steps = len(z) - 1
    points = torch.lerp(z[:-1], z[1:], alpha[:, :, None]).flatten(0, 1)
    times = (torch.arange(1, steps + 1, device=z.device)[:, None] + alpha).flatten()
    return hj_residual(points, times, model.potentials, force=model.forces, index=index.repeat(steps)).residual

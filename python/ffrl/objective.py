"""The training objective: the negative evidence lower bound and the Hamilton–Jacobi penalty, k known or inferred."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ffrl.data.batch import SequenceBatch
from ffrl.density import (
    diffusion_prior_log_density,
    gaussian_log_density,
    path_log_density,
    standard_prior_log_density,
)
from ffrl.models import FlowModel
from ffrl.models.autoencoder import Posterior
from ffrl.models.classifier import straight_through
from ffrl.noise import Noise
from ffrl.paper_code import flow_terms
from ffrl.presets import Preset


class Objective(NamedTuple):
    """`loss` = reconstruction + β·kl + flow_beta·flow_kl + k_kl + hj_weight·hj + initial_weight·initial
    + balance_weight·balance; scalars, batch means.

    reconstruction: −log p(x|z) in nats, summed over pixels and (in expectation) over the T + 1 frames; for the
    likelihood "normal" without its constant, ½ pixels·log 2π a frame.
    kl: KL(q(z_0|x_0) ‖ N(0, I)) in nats. flow_kl: Σ_{t≥1} E[log q(z_t) − log p(z_t)] in nats (zero and not computed
    where the preset's density is "none"). hj: mean of the squared residual over steps, rows and the points between the
    steps (zero and not computed where the preset has no equation: a velocity, or a weight of zero).
    initial: mean over rows of ‖∇u^k(z_0, 0)‖² (zero and not computed when its weight is zero).
    k_kl: KL(q(k|x) ‖ uniform), balance: KL(batch mean of q(k|x) ‖ uniform), in nats; zero where k is known.
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor
    flow_kl: Tensor
    hj: Tensor
    initial: Tensor
    k_kl: Tensor
    balance: Tensor


@dataclass(frozen=True)
class _Selection:
    """Which potential moves each row: `index` (B,) where k is known, else `gates` (B, K); and what q(k|x) costs."""

    index: Tensor | None
    gates: Tensor | None
    k_kl: Tensor
    balance: Tensor

    def of_rows(self, per_potential: Tensor) -> Tensor:
        """(K,) → (B,)."""
        return per_potential[self.index] if self.gates is None else self.gates @ per_potential


def objective(
    model: FlowModel, batch: SequenceBatch, preset: Preset, noise: Noise, temperature: float = 1.0
) -> Objective:
    """The loss of one batch.

    loss = Σ_t E[−log p(x_t|z_t)] + β·KL(q(z_0|x_0) ‖ p(z_0)) + flow_beta·Σ_t E[log q(z_t) − log p(z_t|k)]
    + hj_weight·mean r² + initial_weight·mean‖∇u(z_0, 0)‖², with r = ∂_t u + ½‖∇u‖² + F², the sum over frames estimated
    from those of the batch by their weights, and q and p along the flow as in `ffrl.density`, one sample z_0 a row.
    Of a velocity the terms in u are left out.

    Known k (supervision "full"): k = batch.index. Inferred (supervision "weak"): one sample of q(k|x_0…x_T) a row, by
    straight-through Gumbel-softmax of this temperature; KL(q(k|x) ‖ uniform) and the balance are added; batch.index is
    not looked at.

    With β = flow_beta = 1 and density "exact" the terms without weights bound −Σ_t log p(x_t|k), or with inferred k
    −Σ_t log p(x_t): a sum over frames, and not −log p(x_0…x_T). Without the flow KL (density "none") they bound
    neither; with "row_sum" they are the paper code's surrogate.

    Convention "paper_code": hj, initial and flow_kl are those of `ffrl.paper_code`, and all of it bounds nothing.
    """
    if preset.convention == "paper_code":
        return _paper_code(model, batch, preset, noise)
    # Under autocast the networks of images are in lower precision; codes, flow and losses are in float32.
    posterior = Posterior(*(x.float() for x in model.autoencoder.encode(batch.frames[:, 0])))
    selection = _select(model, batch, noise, temperature)
    device = posterior.mean.device
    with torch.autocast(device.type, enabled=False):
        z0 = posterior.sample(noise.posterior)
        path = model.flow_with_residual(
            z0, selection.index, gates=selection.gates, start=noise.clock, generator=noise.directions(device)
        )
    z, log_det = path.z, path.log_det

    reconstruction = reconstruction_nats(model, z, batch, preset)
    kl = posterior.kl_to_standard_normal().mean()
    flow_kl = kl.new_zeros(())
    if log_det is not None:
        log_q0 = gaussian_log_density(z[0], *posterior)
        if model.log_diffusion is None:
            log_p = standard_prior_log_density(z[1:])
        else:
            log_p = diffusion_prior_log_density(z[1:], selection.of_rows(model.log_diffusion.exp()))
        flow_kl = (path_log_density(log_q0, log_det) - log_p).sum(dim=0).mean()

    hj, initial = kl.new_zeros(()), kl.new_zeros(())
    with torch.autocast(device.type, enabled=False):
        if path.residual is not None:
            hj = _mean_squared_residual(model, z, path.residual, selection, noise)
        if preset.initial_weight > 0:
            initial = model.potential_flow.initial_speed(z[0], index=selection.index, gates=selection.gates)

    loss = reconstruction + preset.beta * kl + preset.hj_weight * hj + preset.initial_weight * initial
    if log_det is not None:
        loss = loss + preset.flow_beta * flow_kl
    if model.classifier is not None:
        loss = loss + selection.k_kl + preset.balance_weight * selection.balance
    return Objective(loss, reconstruction, kl, flow_kl, hj, initial, selection.k_kl, selection.balance)


def _paper_code(model: FlowModel, batch: SequenceBatch, preset: Preset, noise: Noise) -> Objective:
    posterior = Posterior(*(x.float() for x in model.autoencoder.encode(batch.frames[:, 0])))
    with torch.autocast(posterior.mean.device.type, enabled=False):
        z, hj, initial, flow_kl = flow_terms(model, posterior, posterior.sample(noise.posterior), batch.index)
    reconstruction, kl = reconstruction_nats(model, z, batch, preset), posterior.kl_to_standard_normal().mean()
    loss = reconstruction + preset.beta * kl + preset.flow_beta * flow_kl
    loss = loss + preset.hj_weight * hj + preset.initial_weight * initial
    none = kl.new_zeros(())
    return Objective(loss, reconstruction, kl, flow_kl, hj, initial, none, none)


def reconstruction_nats(model: FlowModel, z: Tensor, batch: SequenceBatch, preset: Preset) -> Tensor:
    """The sum over frames, mean over rows, for z_0…z_T (T + 1, B, D): all frames in one decoding."""
    rows = torch.arange(z.shape[1], device=z.device)[:, None]
    logits = model.autoencoder.decode_logits(z[batch.times, rows]).float()
    nats = frame_nats(logits, batch.frames, preset.likelihood)
    # Autocast would round the product, which is as large as the loss, to its lower precision.
    with torch.autocast(z.device.type, enabled=False):
        return (nats @ batch.weights.float()).mean()


def frame_nats(logits: Tensor, frames: Tensor, likelihood: str) -> Tensor:
    """−log p(x|z) of each frame (B, M) in nats, from logits and frames (B, M, C, H, W); "normal" up to its constant."""
    if likelihood == "normal":
        return 0.5 * (torch.sigmoid(logits) - frames).square().sum(dim=(2, 3, 4))
    return binary_cross_entropy_with_logits(logits, frames, reduction="none").sum(dim=(2, 3, 4))


def _select(model: FlowModel, batch: SequenceBatch, noise: Noise, temperature: float) -> _Selection:
    none = batch.weights.new_zeros(())
    if model.classifier is None:
        return _Selection(batch.index, None, none, none)
    if batch.sequence is None or noise.gumbel is None:
        raise ValueError(
            "objective: expected whole sequences and Gumbel noise, which weak supervision needs; found none"
        )
    logits = model.classifier(batch.sequence).float()
    log_q = torch.log_softmax(logits, dim=1)
    q, log_k = log_q.exp(), math.log(logits.shape[1])
    mean = q.mean(dim=0)
    return _Selection(
        None,
        straight_through(log_q, noise.gumbel, temperature),
        k_kl=(q * log_q).sum(dim=1).mean() + log_k,
        balance=torch.xlogy(mean, mean).sum() + log_k,
    )


def _mean_squared_residual(
    model: FlowModel, z: Tensor, residual: Tensor, selection: _Selection, noise: Noise
) -> Tensor:
    """Of the steps' own points and of the n between the steps, which weigh 1 : n."""
    on_path, alpha = residual.square().mean(), noise.collocation
    if alpha is None:
        return on_path
    times = model.times(z[0], start=noise.clock)
    between = model.potential_flow.collocation(z, times, alpha, index=selection.index, gates=selection.gates)
    return (on_path + len(alpha) * between) / (1 + len(alpha))

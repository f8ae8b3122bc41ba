"""The public code's MNIST training step in its own form, which `bench.paper_step` compares with ours.

KingJamesSong/latent-flow, read in December 2025, written anew: the same networks under the same names, the loop over
steps, each with its double backward and its own decoding, and two Adams of torch's default kind. Left out, all to its
advantage: anomaly detection, which it turns on, and everything it logs. Changed: the prior's gradients are zeroed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ffrl_fast import PotentialBank


class Potential(nn.Module):
    """u or F: z (B, D) and t (1,) or (1, 1) → (B, 1). Its layers' names are those of the public checkpoints."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer_x = nn.Linear(dim, dim)
        self.layer_time = nn.Linear(dim, dim)
        self.layer_time2 = nn.Linear(dim, dim)
        self.layer_fusion = nn.Linear(dim, dim)
        self.layer_out = nn.Linear(dim, 1)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        half = self.layer_time.in_features // 2
        rates = torch.exp(torch.arange(half, dtype=z.dtype, device=z.device) * (-math.log(10_000) / (half - 1)))
        angle = t.reshape(-1, 1) * rates
        clock = self.layer_time2(F.gelu(self.layer_time(torch.cat((angle.sin(), angle.cos()), dim=-1))))
        hidden = torch.tanh(self.layer_fusion(torch.tanh(self.layer_x(z)) + clock))
        return torch.tanh(self.layer_out(hidden))


def gradient(y: Tensor, x: Tensor) -> Tensor:
    """Of the sum of y with respect to x, itself differentiable."""
    return torch.autograd.grad(y.sum(), x, create_graph=True)[0]


class Flow(nn.Module):
    """K potentials and their forces."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.MLP_SET = nn.ModuleList(Potential(dim) for _ in range(count))
        self.FORCE_SET = nn.ModuleList(Potential(dim) for _ in range(count))

    def step(self, k: int, z: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """One step at time t: its losses, ∇u (B, D) and the row sums of ∇²u (B, D)."""
        potential, force = self.MLP_SET[k], self.FORCE_SET[k]
        here, time = z.clone().requires_grad_(), torch.full((1, 1), float(t), dtype=z.dtype, requires_grad=True)
        u = potential(here, time)
        u_t = gradient(u, time)
        u_z = gradient(u, here)
        u_zz = gradient(u_z, here)
        loss = (u_t + 0.5 * u_z.square().mean() + force(here, time).square()).square().mean()
        if t == 1:
            start, zero = z.clone().requires_grad_(), z.new_zeros(1)
            loss = loss + gradient(potential(start, zero), start).square().mean() + force(start, zero).square().mean()
        return loss, u_z, u_zz


class Prior(nn.Module):
    """Free scales by step; only the curvature of its potential enters the loss."""

    def __init__(self, count: int, steps: int) -> None:
        super().__init__()
        self.sigma = nn.ParameterList(torch.ones(steps, 1) for _ in range(count))

    def curvature(self, k: int, t: int) -> Tensor:
        """∇²φ at step t, (1,)."""
        sigma = self.sigma[k][t - 1]
        return torch.ones_like(sigma) if t == 1 else 1 / (sigma.square() + 1e-5)


class Encoder(nn.Module):
    """Images (B, C, side, side) → mean and log variance (B, D)."""

    def __init__(self, dim: int, channels: int, side: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, dim, 4, 2, 1),
            nn.ReLU(True),
            nn.Conv2d(dim, 2 * dim, 4, 2, 1),
            nn.ReLU(True),
            nn.Conv2d(2 * dim, 3 * dim, side // 4),
            nn.ReLU(True),
            nn.Conv2d(3 * dim, 2 * dim, 1),
            nn.ReLU(True),
            nn.Conv2d(2 * dim, 2 * dim, 1),
        )
        self.linear_means, self.linear_log_var = nn.Linear(2 * dim, dim), nn.Linear(2 * dim, dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(images).flatten(1)
        return self.linear_means(features), self.linear_log_var(features)


class Decoder(nn.Module):
    """z (B, D) → images (B, C, side, side) in (0, 1)."""

    def __init__(self, dim: int, channels: int, side: int) -> None:
        super().__init__()
        self.decoder = nn.Sequential(
            nn.Linear(dim, dim),
            nn.Unflatten(1, (dim, 1, 1)),
            nn.ReLU(True),
            nn.ConvTranspose2d(dim, 2 * dim, 1),
            nn.ReLU(True),
            nn.ConvTranspose2d(2 * dim, 3 * dim, 1),
            nn.ReLU(True),
            nn.ConvTranspose2d(3 * dim, 2 * dim, side // 4),
            nn.ReLU(True),
            nn.ConvTranspose2d(2 * dim, dim, 4, 2, 1),
            nn.ReLU(True),
            nn.ConvTranspose2d(dim, channels, 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder(z)


class Losses(NamedTuple):
    """Scalars; hj is the sum over steps, the initial condition's part included."""

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor
    flow_kl: Tensor
    hj: Tensor


class PaperCode(nn.Module):
    """The whole model, for sequences of `steps` steps of images (channels, side, side)."""

    def __init__(self, count: int, dim: int, steps: int, channels: int, side: int) -> None:
        super().__init__()
        self.steps = steps
        self.encoder, self.decoder = Encoder(dim, channels, side), Decoder(dim, channels, side)
        self.flow, self.prior = Flow(count, dim), Prior(count, steps)

    def losses(self, sequence: Tensor, k: int, noise: Tensor) -> Losses:
        """Of a batch (B, T + 1, C, H, W) that shows transformation k, with standard normal `noise` (B, D)."""
        rows = len(sequence)
        mean, log_variance = self.encoder(sequence[:, 0])
        z = mean + torch.exp(0.5 * log_variance) * noise
        reconstruction = nats(self.decoder(z), sequence[:, 0])
        kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp()) / rows
        images, hj, flow_kl = self.along(z, mean, log_variance, k, self.decoder)
        for t, image in enumerate(images, start=1):
            reconstruction = reconstruction + nats(image, sequence[:, t])
        return Losses(reconstruction + kl + flow_kl + hj, reconstruction, kl, flow_kl, hj)

    def along(
        self, z: Tensor, mean: Tensor, log_variance: Tensor, k: int, decode: Callable[[Tensor], Tensor]
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """The flow from z: what `decode` makes of each z_t, t = 1…T, the sum of the flow's losses, the flow KL."""
        log_q = torch.distributions.Normal(mean, torch.exp(log_variance / 2)).log_prob(z)
        log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z)
        images, hj, flow_kl = [], z.new_zeros(()), z.new_zeros(())
        for t in range(1, self.steps + 1):
            loss, u_z, u_zz = self.flow.step(k, z, t)
            log_q = log_q - (1 + u_zz).abs().log()
            log_p = log_p - (1 + self.prior.curvature(k, t)).abs().log()
            z = z + u_z
            found, target = (F.log_softmax(x.exp(), dim=-1) for x in (log_q, log_p))
            flow_kl = flow_kl + F.kl_div(found, target, reduction="batchmean", log_target=True)
            images.append(decode(z))
            hj = hj + loss
        return images, hj, flow_kl

    def optimizers(self, rate: float) -> list[torch.optim.Optimizer]:
        """One of the flow and its prior, one of the autoencoder."""
        flow = [*self.flow.parameters(), *self.prior.parameters()]
        images = [*self.encoder.parameters(), *self.decoder.parameters()]
        return [torch.optim.Adam(flow, lr=rate), torch.optim.Adam(images, lr=rate)]


def nats(images: Tensor, truth: Tensor) -> Tensor:
    """Bernoulli cross-entropy, the sum over pixels, mean over rows."""
    return F.binary_cross_entropy(images.flatten(1), truth.flatten(1), reduction="sum") / len(images)


def as_ours(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights or gradients by the names of `PaperCode` as those of an `ffrl.models.FlowModel` of preset
    `mnist-paper-code`.
    """
    found = {
        "dynamics.potentials.theta": PotentialBank.from_paper_state_dict(values, "flow.MLP_SET.").theta.detach(),
        "dynamics.forces.theta": PotentialBank.from_paper_state_dict(values, "flow.FORCE_SET.").theta.detach(),
        "prior_scale": torch.stack([v[1:, 0] for n, v in values.items() if n.startswith("prior.sigma.")]),
    }
    for name, value in values.items():
        if name.startswith(("encoder.encoder.", "decoder.decoder.")):
            found[f"autoencoder.{name.split('.', 1)[1]}"] = value
    for part in ("weight", "bias"):
        heads = [values[f"encoder.{head}.{part}"] for head in ("linear_means", "linear_log_var")]
        found[f"autoencoder.encoder.10.{part}"] = torch.cat(heads)
        found[f"autoencoder.decoder.1.{part}"] = found.pop(f"autoencoder.decoder.0.{part}")
    found["autoencoder.decoder.1.weight"] = found["autoencoder.decoder.1.weight"].mT[:, :, None, None]
    return found

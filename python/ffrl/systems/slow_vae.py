"""SlowVAE: a VAE of neighbouring frames whose prior lets few numbers of a code change from one to the next."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ffrl.data.batch import FrameChoice, SequenceBatch, neighbouring_pairs
from ffrl.density import standard_prior_log_density
from ffrl.models.autoencoder import Posterior
from ffrl.objective import frame_nats
from ffrl.systems.image_noise import ImageNoise
from ffrl.systems.vae import VAE


class SlowVAETerms(NamedTuple):
    """`loss` = reconstruction + β·kl + transition_weight·transition, in nats a pair of frames.

    reconstruction: E[−log p(x_t|z_t) − log p(x_{t+1}|z_{t+1})], summed over pixels; for the likelihood "normal" without
    its constant. kl: KL(q(z_t|x_t) ‖ N(0, I)). transition: see `transition_kl`.
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor
    transition: Tensor


class SlowVAE(VAE):
    """Klindt, Schott, Sharma, Ustyuzhaninov, Brendel, Bethge, Paiton, ICLR 2021, arXiv 2007.10930.

        loss = E[−log p(x_t|z_t) − log p(x_{t+1}|z_{t+1})] + β·KL(q(z_t|x_t) ‖ N(0, I))
               + γ·E_q(z_t|x_t) KL(q(z_{t+1}|x_{t+1}) ‖ p(z_{t+1}|z_t)),
        p(z'|z) = Π_d λ/2·exp(−λ|z'_d − z_d|)

    mean over pairs; γ is `transition_weight` (10), λ `transition_rate` (6), β 1 in the paper. Its batches are pairs of
    neighbouring frames of one sequence, every t equally likely; it is not told which transformation they show, nor in
    which direction.

    The expectation over z_t is exact here (`transition_kl`). The paper's public code puts the mean of q(z_t|x_t) in its
    place, and counts the transition both ways, with the entropy of one.
    """

    supervision = "pairs of neighbouring frames"
    terms = SlowVAETerms
    frame_choice = FrameChoice(neighbours=True)

    def draw_noise(self, rows: int, generator: torch.Generator) -> ImageNoise:
        frames = 2 * neighbouring_pairs(self.preset.random_frames)
        return ImageNoise(torch.randn(rows, frames, self.preset.latent_dim, generator=generator))

    def objective(self, batch: SequenceBatch, noise: ImageNoise, temperature: float) -> SlowVAETerms:
        posterior, z = self.sample(batch.frames, noise.normal)
        nats = frame_nats(self.autoencoder.decode_logits(z).float(), batch.frames, self.preset.likelihood)
        reconstruction = 2 * nats.mean()
        first, second = (Posterior(*(x[t::2] for x in posterior)) for t in (0, 1))
        kl = first.kl_to_standard_normal().mean()
        transition = transition_kl(first, second, self.preset.transition_rate).mean()
        loss = reconstruction + self.preset.beta * kl + self.preset.transition_weight * transition
        return SlowVAETerms(loss, reconstruction, kl, transition)

    def prior_log_density(self, z: Tensor) -> Tensor:
        """log N(z_0; 0, I) + Σ_t log p(z_{t+1}|z_t) of codes (S + 1, N, D), (N,) float64: the Laplace chain."""
        moves = laplace_log_density(z[1:] - z[:-1], self.preset.transition_rate)
        return standard_prior_log_density(z[0]).double() + moves.double().sum(dim=(0, 2))


def transition_kl(first: Posterior, second: Posterior, rate: float) -> Tensor:
    """E_q(z) KL(q(z') ‖ Π_d Laplace(z'_d − z_d)) of each row in nats, (B,), q(z) and q(z') Gaussian: closed form.

    Per dimension the cross-entropy is −log(λ/2) + λ E|z' − z|, where z' − z ~ N(m, s²), m = μ' − μ, s² = σ² + σ'², and

        E|z' − z| = s √(2/π) exp(−m²/2s²) + m·erf(m / s√2);

    the entropy of q(z') is ½ log(2πe σ'²).
    """
    mean = second.mean - first.mean
    variance = first.log_variance.exp() + second.log_variance.exp()
    deviation = variance.sqrt()
    distance = deviation * math.sqrt(2 / math.pi) * torch.exp(-0.5 * mean.square() / variance)
    distance = distance + mean * torch.erf(mean / (deviation * math.sqrt(2)))
    entropy = 0.5 * (second.log_variance + math.log(2 * math.pi) + 1)
    return (rate * distance - math.log(rate / 2) - entropy).sum(dim=1)


def laplace_log_density(x: Tensor, rate: float) -> Tensor:
    """log(λ/2) − λ|x| of each number, in nats."""
    return math.log(rate / 2) - rate * x.abs()

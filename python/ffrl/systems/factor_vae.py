"""FactorVAE: a VAE whose codes are told to have independent numbers, by a density ratio that a network learns."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from ffrl.data.batch import SequenceBatch
from ffrl.data.dataset import SequenceFormat
from ffrl.presets import Preset
from ffrl.systems.discriminator import Discriminator, detached, discrimination_nats, permute_dimensions
from ffrl.systems.image_noise import ImageNoise
from ffrl.systems.vae import VAE

_DISCRIMINATOR_BETAS = (0.5, 0.9)


class FactorVAETerms(NamedTuple):
    """`loss` = reconstruction + β·kl + tc_weight·total_correlation + discrimination, in nats an image.

    reconstruction, kl: as of `VAETerms`. total_correlation: the estimate E_q(z)[log D(z)/(1 − D(z))] of
    KL(q(z) ‖ Π_d q(z_d)), which may be below 0. discrimination: the network's own loss, log 2 where it cannot tell.
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor
    total_correlation: Tensor
    discrimination: Tensor


class FactorVAE(VAE):
    """Kim, Mnih, ICML 2018, arXiv 1802.05983.

        loss = E[−log p(x|z)] + β·KL(q(z|x) ‖ N(0, I)) + γ·E_q(z)[log D(z)/(1 − D(z))]
        loss of D = ½ E_q(z)[−log D(z)] + ½ E_q̄(z)[−log(1 − D(z))],   q̄ = Π_d q(z_d)

    γ is `tc_weight`. The ratio estimates log q(z)/q̄(z), q(z) the codes of all images; samples of q̄ are the codes of
    the batch with every dimension permuted over it. The gradient of the first loss does not reach D, that of the second
    not the codes, so one backward serves both; D has its own learning rate, under the schedule of the preset.

    Unlike the paper D learns from the permuted codes of the same batch, not of a second one, and both steps are taken
    at once, not one after the other. The batch is one body here: the codes of one process and one part of an
    accumulated batch are permuted among themselves.
    """

    terms = FactorVAETerms

    def __init__(self, preset: Preset, sequences: SequenceFormat) -> None:
        super().__init__(preset, sequences)
        self.discriminator = Discriminator(preset.latent_dim, preset.discriminator_width)

    def parameter_groups(self) -> list[dict[str, Any]]:
        rate = self.preset.discriminator_learning_rate
        return [
            {"params": list(self.autoencoder.parameters())},
            {"params": list(self.discriminator.parameters()), "lr": rate, "betas": _DISCRIMINATOR_BETAS},
        ]

    def draw_noise(self, rows: int, generator: torch.Generator) -> ImageNoise:
        normal = super().draw_noise(rows, generator).normal
        return ImageNoise(normal, torch.rand(normal.shape, generator=generator))

    def objective(self, batch: SequenceBatch, noise: ImageNoise, temperature: float) -> FactorVAETerms:
        posterior, z = self.sample(batch.frames, noise.normal)
        reconstruction, kl = self.evidence(batch, posterior, z)
        if noise.keys is None:
            raise ValueError("objective: expected noise with keys of permutations, found none")
        with torch.autocast(z.device.type, enabled=False):
            codes = z.flatten(0, 1)
            total_correlation = functional_call(self.discriminator, detached(self.discriminator), codes).mean()
            apart = codes.detach()
            permuted = permute_dimensions(apart, noise.keys.flatten(0, 1))
            discrimination = discrimination_nats(self.discriminator(apart), self.discriminator(permuted))
        loss = reconstruction + self.preset.beta * kl + self.preset.tc_weight * total_correlation + discrimination
        return FactorVAETerms(loss, reconstruction, kl, total_correlation, discrimination)

"""The variational autoencoder of single images, and with β above 1 the β-VAE."""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ffrl.data.batch import SequenceBatch
from ffrl.data.dataset import SequenceFormat
from ffrl.density import gaussian_log_density, standard_prior_log_density
from ffrl.metrics.likelihood import log_likelihood
from ffrl.models import build_autoencoder
from ffrl.models.autoencoder import Posterior
from ffrl.objective import frame_nats
from ffrl.presets import Preset
from ffrl.systems.image_noise import ImageNoise
from ffrl.systems.system import System, Terms


class VAETerms(NamedTuple):
    """`loss` = reconstruction + β·kl, in nats an image.

    reconstruction: E[−log p(x|z)], summed over pixels; for the likelihood "normal" without its constant. kl:
    KL(q(z|x) ‖ N(0, I)).
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor


class VAE(System):
    """Kingma, Welling, ICLR 2014, arXiv 1312.6114; with β > 1 Higgins et al., ICLR 2017.

        loss = E_q(z|x)[−log p(x|z)] + β·KL(q(z|x) ‖ N(0, I)),   mean over images

    Every frame is an image by itself: nothing says which frames belong together, and there is no transition. The mean
    is that over all T + 1 frames in expectation, by the weights of the batch.
    """

    supervision = "none"
    sees: str | None = None
    terms: ClassVar[type[Any]] = VAETerms

    def __init__(self, preset: Preset, sequences: SequenceFormat) -> None:
        super().__init__()
        self.preset = preset
        self.autoencoder = build_autoencoder(preset, sequences.image_shape)

    def draw_noise(self, rows: int, generator: torch.Generator) -> ImageNoise:
        frames = 1 + self.preset.random_frames
        return ImageNoise(torch.randn(rows, frames, self.preset.latent_dim, generator=generator))

    def objective(self, batch: SequenceBatch, noise: ImageNoise, temperature: float) -> Terms:
        posterior, z = self.sample(batch.frames, noise.normal)
        reconstruction, kl = self.evidence(batch, posterior, z)
        return VAETerms(reconstruction + self.preset.beta * kl, reconstruction, kl)

    def sample(self, frames: Tensor, noise: Tensor) -> tuple[Posterior, Tensor]:
        """q(z|x) of each frame (B, M, C, H, W), of B·M rows, and a sample z of it, (B, M, D)."""
        # Under autocast the networks of images are in lower precision; codes and losses are in float32.
        posterior = Posterior(*(x.float() for x in self.autoencoder.encode(frames.flatten(0, 1))))
        return posterior, posterior.sample(noise.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def evidence(self, batch: SequenceBatch, posterior: Posterior, z: Tensor) -> tuple[Tensor, Tensor]:
        """Means over images of −log p(x|z) and KL(q(z|x) ‖ N(0, I))."""
        logits = self.autoencoder.decode_logits(z).float()
        nats = frame_nats(logits, batch.frames, self.preset.likelihood)
        kl = posterior.kl_to_standard_normal().unflatten(0, z.shape[:2])
        weights = batch.weights.float() / batch.weights.float().sum()
        # Autocast would round the products to its lower precision.
        with torch.autocast(z.device.type, enabled=False):
            return (nats @ weights).mean(), (kl @ weights).mean()

    def codes(self, frames: Tensor) -> Tensor:
        """Posterior means, frame by frame."""
        return self.autoencoder.codes(frames)

    def decode(self, codes: Tensor) -> Tensor:
        return self.autoencoder.decode(codes)

    def own_path(self, frames: Tensor, k: int) -> Tensor | None:
        return None

    @torch.no_grad()
    def log_weights(self, frames: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """Σ_t log p(x_t|z_t) + log p(z_0…z_S) − Σ_t log q(z_t|x_t), z_t ~ q(z_t|x_t).

        The prior, `prior_log_density`, is all that may tie the frames together; k changes nothing.
        """
        posterior = Posterior(
            *(x.unflatten(0, frames.shape[:2]) for x in self.autoencoder.encode(frames.flatten(0, 1)))
        )
        z = posterior.sample(torch.empty_like(posterior.mean).normal_(generator=generator))
        images = self.autoencoder.decode_logits(z) if self.preset.likelihood == "bernoulli" else self.decode(z)
        log_q = gaussian_log_density(z, *posterior).double().sum(dim=0)
        return log_likelihood(images, frames, self.preset.likelihood) + self.prior_log_density(z) - log_q

    def prior_log_density(self, z: Tensor) -> Tensor:
        """log p(z_0…z_S) of codes (S + 1, N, D), (N,) float64: Σ_t log N(z_t; 0, I)."""
        return standard_prior_log_density(z).double().sum(dim=0)

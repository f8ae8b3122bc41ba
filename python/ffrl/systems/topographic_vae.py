"""The Topographic VAE: codes in capsules whose content rolls on from frame to frame."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ffrl.data.batch import FrameChoice, SequenceBatch
from ffrl.data.dataset import SequenceFormat
from ffrl.density import gaussian_log_density, standard_prior_log_density
from ffrl.metrics.likelihood import log_likelihood
from ffrl.models import build_autoencoder
from ffrl.models.autoencoder import Posterior
from ffrl.objective import frame_nats
from ffrl.presets import Preset
from ffrl.systems.capsules import roll_along, topographic_sums
from ffrl.systems.image_noise import ImageNoise
from ffrl.systems.system import System

_INITIAL_MEAN = 30.0
_LEAST_VARIANCE = 1e-6


class TopographicVAETerms(NamedTuple):
    """`loss` = reconstruction + β·(kl + scale_kl), in nats an image.

    reconstruction: E[−log p(x|t)], summed over pixels; for the likelihood "normal" without its constant. kl:
    KL(q(z|x) ‖ N(0, I)). scale_kl: KL(q(u|x) ‖ N(0, I)).
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor
    scale_kl: Tensor


class TopographicVAE(System):
    """TVAE. Keller, Welling, NeurIPS 2021, arXiv 2109.01394.

        z_l ~ N(0, I), u_l ~ N(0, I),   t_l = (z_l − μ) / √(W u²)_l,   x_l ~ p(x|t_l)
        loss = mean over l of E[−log p(x_l|t_l)] + β·KL(q(z_l|x_l) ‖ N(0, I)) + β·KL(q(u_l|x_l) ‖ N(0, I))

    t_l, (D,), is a topographic Student's t, D / `capsule_length` capsules. With shifted temporal coherence, the sums of
    squares W u² join what rolls into one place (`topographic_sums`), so the prior expects capsules to roll on by one
    place a frame. It trains on whole sequences in their order and is never told k: the roll is the same for all.

    As in the paper's models of MNIST the windows have three neighbours, and as in its public code μ is learned, from
    −30 on. As in its model of full coherence (L = ½ S) every frame counts in the sums of each. There sequences are
    cycles and roll all around; here they have two ends, and a capsule of at least T + 1 places does not meet itself.
    Unlike in the paper q(z|x) and q(u|x) share one encoder up to its last layer, that of all systems.

    Codes are t with the mean of q(z|x) and the expectation of u² under q(u|x), of the whole sequence that is asked
    about: even t_0 has seen all frames, and so k.
    """

    supervision = "sequences"
    sees: str | None = "all of x_0…x_T"
    terms = TopographicVAETerms
    frame_choice = FrameChoice(whole_sequences=True)

    def __init__(self, preset: Preset, sequences: SequenceFormat) -> None:
        super().__init__()
        self.preset, self.num_steps = preset, sequences.num_steps
        self.autoencoder = build_autoencoder(preset, sequences.image_shape)
        twice = replace(preset, latent_dim=2 * preset.latent_dim)
        # Its means and log variances are those of z, then those of u.
        self.autoencoder.encoder = build_autoencoder(twice, sequences.image_shape).encoder
        self.mean = nn.Parameter(torch.tensor(-_INITIAL_MEAN))

    def draw_noise(self, rows: int, generator: torch.Generator) -> ImageNoise:
        return ImageNoise(torch.randn(rows, self.num_steps + 1, 2 * self.preset.latent_dim, generator=generator))

    def objective(self, batch: SequenceBatch, noise: ImageNoise, temperature: float) -> TopographicVAETerms:
        if batch.sequence is None:
            raise ValueError("objective: expected whole sequences, found none")
        frames = batch.sequence.transpose(0, 1)
        z, u = self.posteriors(frames)
        normal_z, normal_u = noise.normal.transpose(0, 1).chunk(2, dim=2)
        with torch.autocast(frames.device.type, enabled=False):
            t = self.capsules(z.sample(normal_z), u.sample(normal_u).square())
        logits = self.autoencoder.decode_logits(t).float()
        reconstruction = frame_nats(logits, frames, self.preset.likelihood).mean()
        kl, scale_kl = (q.kl_to_standard_normal().mean() for q in (z, u))
        loss = reconstruction + self.preset.beta * (kl + scale_kl)
        return TopographicVAETerms(loss, reconstruction, kl, scale_kl)

    def posteriors(self, frames: Tensor) -> tuple[Posterior, Posterior]:
        """q(z|x) and q(u|x) of frames (S + 1, N, C, H, W), each (S + 1, N, D)."""
        joint = (x.float().unflatten(0, frames.shape[:2]) for x in self.autoencoder.encode(frames.flatten(0, 1)))
        means, log_variances = (x.chunk(2, dim=2) for x in joint)
        return Posterior(means[0], log_variances[0]), Posterior(means[1], log_variances[1])

    def capsules(self, z: Tensor, squares: Tensor) -> Tensor:
        """t_0…t_S, (S + 1, N, D), of z and u² of whole sequences, alike."""
        variance = topographic_sums(squares, self.preset.capsule_length) + _LEAST_VARIANCE
        return (z - self.mean) * variance.rsqrt()

    def codes(self, frames: Tensor) -> Tensor:
        """t_0…t_S at the mean of z and the expectation of u²; each has seen all the frames."""
        z, u = self.posteriors(frames)
        return self.capsules(z.mean, u.mean.square() + u.log_variance.exp())

    def decode(self, codes: Tensor) -> Tensor:
        return self.autoencoder.decode(codes)

    def own_path(self, frames: Tensor, k: int) -> Tensor:
        """Roll_t(t_0), whatever k is; t_0 has seen all the frames."""
        return roll_along(self.codes(frames)[0], len(frames) - 1, self.preset.capsule_length)

    @torch.no_grad()
    def log_weights(self, frames: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """Σ_l log p(x_l|t_l) + log p(z_l, u_l) − log q(z_l, u_l|x_l), z_l and u_l ~ q; k changes nothing."""
        posteriors = self.posteriors(frames)
        z, u = (q.sample(torch.empty_like(q.mean).normal_(generator=generator)) for q in posteriors)
        t = self.capsules(z, u.square())
        images = self.autoencoder.decode_logits(t) if self.preset.likelihood == "bernoulli" else self.decode(t)
        found = log_likelihood(images, frames, self.preset.likelihood)
        for x, q in zip((z, u), posteriors, strict=True):
            found = found + (standard_prior_log_density(x) - gaussian_log_density(x, *q)).double().sum(dim=0)
        return found

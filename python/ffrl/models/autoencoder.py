"""The variational autoencoder of single images."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ffrl.data.transformations import IMAGE_SHAPE


class Posterior(NamedTuple):
    """q(z|x) = N(mean, diag exp(log_variance)), both (B, D)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + σ·noise with standard normal `noise` (B, D)."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def kl_to_standard_normal(self) -> Tensor:
        """KL(q ‖ N(0, I)) of each row, (B,): ½ Σ (μ² + σ² − 1 − log σ²)."""
        return 0.5 * (self.mean**2 + self.log_variance.exp() - 1 - self.log_variance).sum(dim=1)


class MLPAutoencoder(nn.Module):
    """Encoder pixels-…-2D and decoder D-…-pixels with ReLU between.

    latent_dim: D. hidden: the encoder's widths; the decoder has them in reverse.
    An MLP, because at this image size it is several times cheaper a step than convolutions and steps are what counts.
    """

    def __init__(self, latent_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        pixels = IMAGE_SHAPE[0] * IMAGE_SHAPE[1] * IMAGE_SHAPE[2]
        self.encoder = _mlp([pixels, *hidden, 2 * latent_dim])
        self.decoder = _mlp([latent_dim, *reversed(hidden), pixels])

    def encode(self, images: Tensor) -> Posterior:
        """images (B, 3, 28, 28) in [0, 1] → Posterior of (B, D)."""
        mean, log_variance = self.encoder(images.flatten(1)).chunk(2, dim=1)
        return Posterior(mean, log_variance)

    def decode_logits(self, z: Tensor) -> Tensor:
        """z (…, D) → logits (…, 3, 28, 28) of the Bernoulli p(x|z)."""
        logits: Tensor = self.decoder(z)
        return logits.reshape(*z.shape[:-1], *IMAGE_SHAPE)

    def decode(self, z: Tensor) -> Tensor:
        """z (…, D) → mean image (…, 3, 28, 28) of p(x|z), in [0, 1]."""
        return torch.sigmoid(self.decode_logits(z))


def _mlp(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])

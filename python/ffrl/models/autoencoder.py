"""The variational autoencoder of single images: what all of them have in common, and the one without convolutions."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Posterior(NamedTuple):
    """q(z|x) = N(mean, diag exp(log_variance)), both (…, D)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + σ·noise with standard normal `noise` (…, D)."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def kl_to_standard_normal(self) -> Tensor:
        """KL(q ‖ N(0, I)) of each row, (…,): ½ Σ (μ² + σ² − 1 − log σ²)."""
        return 0.5 * (self.mean**2 + self.log_variance.exp() - 1 - self.log_variance).sum(dim=-1)


class Autoencoder(nn.Module):
    """An encoder of images into codes of D numbers and a decoder of codes into images.

    image_shape: (C, H, W). encoder: (B, C, H, W) → (B, 2D), the mean beside the log variance. decoder: (N, D) → logits
    (N, C, H, W).
    """

    def __init__(self, image_shape: tuple[int, int, int], encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.encoder = encoder
        self.decoder = decoder

    def encode(self, images: Tensor) -> Posterior:
        """images (B, C, H, W) in [0, 1] → Posterior of (B, D)."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return Posterior(mean, log_variance)

    def codes(self, images: Tensor) -> Tensor:
        """images (…, C, H, W) → posterior means (…, D)."""
        return self.encode(images.flatten(0, -4)).mean.unflatten(0, images.shape[:-3])

    def decode_logits(self, z: Tensor) -> Tensor:
        """z (…, D) → logits (…, C, H, W) of the Bernoulli p(x|z)."""
        logits: Tensor = self.decoder(z.reshape(-1, z.shape[-1]))
        return logits.reshape(*z.shape[:-1], *self.image_shape)

    def decode(self, z: Tensor) -> Tensor:
        """z (…, D) → mean image (…, C, H, W) of p(x|z), in [0, 1]."""
        return torch.sigmoid(self.decode_logits(z))


class MLPAutoencoder(Autoencoder):
    """Encoder pixels-…-2D and decoder D-…-pixels with ReLU between.

    latent_dim: D. hidden: the encoder's widths; the decoder has them in reverse.
    At small image sizes it is several times cheaper a step than convolutions, and steps are what counts.
    """

    def __init__(self, latent_dim: int, hidden: Sequence[int], image_shape: tuple[int, int, int]) -> None:
        pixels = math.prod(image_shape)
        encoder = _mlp([pixels, *hidden, 2 * latent_dim])
        decoder = _mlp([latent_dim, *reversed(hidden), pixels])
        super().__init__(image_shape, encoder, decoder)

    def encode(self, images: Tensor) -> Posterior:
        return super().encode(images.flatten(1))


def _mlp(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])

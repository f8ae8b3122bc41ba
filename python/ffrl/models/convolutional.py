"""The paper's autoencoders of convolutions: one for images of 28 and 64 pixels, one for 128.

In both the image shrinks by strided convolutions and then in one convolution of the size that is left, to 1×1; the
decoder goes the same way back. ReLU between, and none before the linear heads.

Images and weights lie channels last in memory, and what makes one pixel of an image, or an image of one pixel, is a
matrix product: on a CPU both are faster (docs/performance.md).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ffrl.models.autoencoder import Autoencoder
from ffrl.presets import CONV_SIDES


class ConvAutoencoder(Autoencoder):
    """Two strided convolutions; s = `width`.

    Encoder: conv 4×4/2 (s), conv 4×4/2 (2s), conv of all that is left (3s), 1×1 (2s), 1×1 (2s), heads for mean and log
    variance. Decoder: linear (s), 1×1 (2s), 1×1 (3s), and the transposes of the three convolutions.
    """

    def __init__(self, latent_dim: int, width: int, image_shape: tuple[int, int, int]) -> None:
        channels, side = image_shape[0], image_shape[1] // CONV_SIDES["conv"][0]
        s = width
        encoder = _with_relu(
            _shrink(channels, s),
            _shrink(s, 2 * s),
            _ToPixel(2 * s, 3 * s, side),
            _ToPixel(3 * s, 2 * s, 1),
            _ToPixel(2 * s, 2 * s, 1),
        )
        decoder = _with_relu(
            _FromPixel(latent_dim, s, 1),
            _FromPixel(s, 2 * s, 1),
            _FromPixel(2 * s, 3 * s, 1),
            _FromPixel(3 * s, 2 * s, side),
            _grow(2 * s, s),
            _grow(s, channels),
        )
        super().__init__(image_shape, _with_heads(encoder, 2 * s, latent_dim), _from_code(decoder, latent_dim))
        _lie_channels_last(self)


class LargeConvAutoencoder(Autoencoder):
    """Four strided convolutions, each followed by one that keeps the size; `width` channels everywhere.

    Encoder: four of [conv 4×4/2, conv 3×3], conv of all that is left, 1×1, 1×1, heads. Decoder: linear, 1×1, 1×1, and
    the transposes of the others.
    """

    def __init__(self, latent_dim: int, width: int, image_shape: tuple[int, int, int]) -> None:
        channels, side = image_shape[0], image_shape[1] // CONV_SIDES["conv_large"][0]
        shrinking: list[nn.Module] = []
        growing: list[nn.Module] = []
        for stage in range(4):
            shrinking += [_shrink(width if stage else channels, width), nn.Conv2d(width, width, 3, padding=1)]
            into = width if stage < 3 else channels
            growing += [_grow(width, width), nn.ConvTranspose2d(width, into, 3, padding=1)]
        encoder = _with_relu(
            *shrinking, _ToPixel(width, width, side), _ToPixel(width, width, 1), _ToPixel(width, width, 1)
        )
        decoder = _with_relu(
            _FromPixel(latent_dim, width, 1),
            _FromPixel(width, width, 1),
            _FromPixel(width, width, 1),
            _FromPixel(width, width, side),
            *growing,
        )
        super().__init__(image_shape, _with_heads(encoder, width, latent_dim), _from_code(decoder, latent_dim))
        _lie_channels_last(self)


def _lie_channels_last(module: nn.Module) -> None:
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's own types


class _ToPixel(nn.Conv2d):
    """The convolution of an image as large as its kernel: (N, in, side, side) → (N, out, 1, 1)."""

    def forward(self, input: Tensor) -> Tensor:
        pixels = F.linear(_flat(input), _flat(self.weight), self.bias)
        return pixels[:, :, None, None]


class _FromPixel(nn.ConvTranspose2d):
    """The transposed convolution of an image of one pixel: (N, in, 1, 1) → (N, out, side, side)."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        side, _ = self.kernel_size
        assert output_size is None and self.bias is not None
        image = torch.addmm(self.bias.repeat(side * side), input.flatten(1), _flat(self.weight))
        return image.unflatten(1, (side, side, -1)).permute(0, 3, 1, 2)


def _flat(images: Tensor) -> Tensor:
    """(N, C, H, W) → (N, H·W·C), a view of what lies channels last."""
    return images.permute(0, 2, 3, 1).flatten(1)


def _shrink(channels: int, into: int) -> nn.Module:
    return nn.Conv2d(channels, into, 4, stride=2, padding=1)


def _grow(channels: int, into: int) -> nn.Module:
    return nn.ConvTranspose2d(channels, into, 4, stride=2, padding=1)


def _with_relu(first: nn.Module, *others: nn.Module) -> nn.Sequential:
    return nn.Sequential(first, *(layer for other in others for layer in (nn.ReLU(), other)))


def _with_heads(encoder: nn.Sequential, features: int, latent_dim: int) -> nn.Sequential:
    """Both heads as one linear layer, mean and log variance side by side."""
    return nn.Sequential(*encoder, nn.Flatten(), nn.Linear(features, 2 * latent_dim))


def _from_code(decoder: nn.Sequential, latent_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Unflatten(1, (latent_dim, 1, 1)), *decoder)

"""The autoencoders: shapes, the paper's numbers of parameters, and what the decoders' images are."""

import copy
import functools

import pytest
import torch
from torch import nn

from ffrl.models import Autoencoder, ConvAutoencoder, LargeConvAutoencoder, MLPAutoencoder

CODERS = [
    (MLPAutoencoder, (5, (12, 8)), (1, 6, 6)),
    (ConvAutoencoder, (5, 8), (3, 28, 28)),
    (ConvAutoencoder, (5, 8), (1, 64, 64)),
    (LargeConvAutoencoder, (5, 12), (3, 128, 128)),
    (LargeConvAutoencoder, (5, 12), (3, 16, 16)),
]


@pytest.mark.parametrize(("kind", "arguments", "image_shape"), CODERS)
def test_shapes(kind: type[Autoencoder], arguments: tuple[object, ...], image_shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    coder = kind(*arguments, image_shape)  # type: ignore[arg-type]
    posterior = coder.encode(torch.rand(2, *image_shape))
    assert posterior.mean.shape == posterior.log_variance.shape == (2, 5)
    z = torch.randn(3, 2, 5)
    logits = coder.decode_logits(z)
    assert logits.shape == (3, 2, *image_shape)
    torch.testing.assert_close(coder.decode_logits(z[1, 1]), logits[1, 1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(coder.decode(z), torch.sigmoid(logits))


@pytest.mark.parametrize(("kind", "arguments", "image_shape"), CODERS)
def test_every_parameter_learns(
    kind: type[Autoencoder], arguments: tuple[object, ...], image_shape: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    coder = kind(*arguments, image_shape)  # type: ignore[arg-type]
    posterior = coder.encode(torch.rand(4, *image_shape))
    (posterior.log_variance.sum() + coder.decode_logits(posterior.mean).square().sum()).backward()
    for name, parameter in coder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("kind", "width", "image_shape", "millions"),
    [
        (ConvAutoencoder, 324, (3, 28, 28), 70.9),
        (ConvAutoencoder, 226, (3, 64, 64), 161.4),
        (LargeConvAutoencoder, 324, (3, 128, 128), 32.6),
    ],
)
def test_numbers_of_parameters_are_the_papers(
    kind: type[ConvAutoencoder | LargeConvAutoencoder],
    width: int,
    image_shape: tuple[int, int, int],
    millions: float,
) -> None:
    with torch.device("meta"):
        coder = kind(width, width, image_shape)
    assert round(sum(p.numel() for p in coder.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize(("kind", "arguments", "image_shape"), [c for c in CODERS if c[0] is not MLPAutoencoder])
def test_convolutions_are_torchs(
    kind: type[Autoencoder], arguments: tuple[object, ...], image_shape: tuple[int, int, int]
) -> None:
    """Values and gradients, of torch's own layers on the same weights."""
    torch.manual_seed(0)
    coder = kind(*arguments, image_shape)  # type: ignore[arg-type]
    plain = copy.deepcopy(coder)
    for module in plain.modules():
        for layer in (nn.Conv2d, nn.ConvTranspose2d):
            if isinstance(module, layer):
                module.forward = functools.partial(layer.forward, module)  # type: ignore[method-assign]
    for module in (coder, plain):
        parts = module.encode(torch.rand(4, *image_shape, generator=torch.Generator().manual_seed(1)))
        (parts.log_variance.sum() + module.decode_logits(parts.mean).square().sum()).backward()
    for (name, found), exact in zip(coder.named_parameters(), plain.parameters(), strict=True):
        assert found.grad is not None and exact.grad is not None
        if found.dim() == 4:
            assert found.is_contiguous(memory_format=torch.channels_last), name
        # Fused Adam takes for granted that they lie alike.
        assert found.grad.stride() == found.stride(), name
        torch.testing.assert_close(found.grad, exact.grad, rtol=1e-4, atol=1e-4 * exact.grad.abs().max().item())

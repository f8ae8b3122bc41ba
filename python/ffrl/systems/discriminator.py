"""The network that tells joint codes from codes whose numbers come from different images."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import softplus

_HIDDEN_LAYERS = 6
_SLOPE = 0.2


class Discriminator(nn.Module):
    """log D(z)/(1 − D(z)) of codes z (N, D), (N,): the logarithm of the density ratio q(z) / Π_d q(z_d), once trained.

    Six layers of `width` with leaky ReLU (slope 0.2), as in Kim, Mnih, ICML 2018, and one linear number; there it is
    two logits, of which only the difference counts.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([dim, *[width] * _HIDDEN_LAYERS, 1]):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor) -> Tensor:
        ratio: Tensor = self.layers(z)
        return ratio.squeeze(-1)


def permute_dimensions(z: Tensor, keys: Tensor) -> Tensor:
    """Codes z (N, D) with every dimension permuted over the rows by itself: samples of Π_d q(z_d).

    keys: (N, D); the order of each column's keys is its permutation.
    """
    return z.gather(0, keys.argsort(dim=0))


def discrimination_nats(joint: Tensor, permuted: Tensor) -> Tensor:
    """½ E[−log D(z)] + ½ E[−log(1 − D(z'))] of log ratios (N,) each; log 2 for a network that cannot tell."""
    return 0.5 * (softplus(-joint).mean() + softplus(permuted).mean())


def detached(module: nn.Module) -> dict[str, Tensor]:
    """The parameters by name as constants, for `torch.func.functional_call`."""
    return {name: parameter.detach() for name, parameter in module.named_parameters()}

"""Do different flows go different ways? Cosines between them, beside those of random directions."""

import math
from dataclasses import dataclass

import torch
from scipy.special import betaincinv
from torch import Tensor

from ffrl.composed_paths import Pair, Potentials, potentials_of, superposed_moves
from ffrl.data import Dataset
from ffrl.models import LatentFlow


@dataclass(frozen=True)
class Cosines:
    """Of many pairs of directions: mean cos, mean |cos|, sample standard deviation of cos, and how many pairs. still:
    pairs left out since one of the two does not move at all. None where no pair is left, sd also where one is.
    """

    mean: float | None
    mean_absolute: float | None
    sd: float | None
    pairs: int
    still: int


@dataclass(frozen=True)
class RandomDirections:
    """|cos| of two independent random directions in D dimensions, uniform on the sphere: cos² ~ Beta(½, (D − 1)/2).

    mean: Γ(D/2) / (√π Γ((D + 1)/2)). quantile: 95 % of them are below. sd: of cos, 1/√D.
    """

    dim: int
    mean: float
    quantile: float
    sd: float


def random_directions(dim: int) -> RandomDirections:
    """In closed form, D = `dim` ≥ 1."""
    mean = math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)) / math.sqrt(math.pi)
    quantile = 1.0 if dim == 1 else math.sqrt(betaincinv(0.5, (dim - 1) / 2, 0.95))
    return RandomDirections(dim, mean, float(quantile), 1 / math.sqrt(dim))


@torch.no_grad()
def pair_cosines(
    model: LatentFlow, data: Dataset, pair: Pair, count: int | None = None, potentials: Potentials = None
) -> tuple[Cosines, Cosines]:
    """Of the flows of two transformations a, b from the same x_0, those of the held-out sequences along which both
    move, `count` or all of them: between ∇u^a(z_{t−1}, t) and ∇u^b(z_{t−1}, t) at all t = 1…T of both paths; and
    between what each has moved in the end, z_T − z_0.
    """
    chosen, steps = potentials_of(pair, potentials), data.num_steps
    gradients, displacements = [], []
    for frames in data.composed_sequences("held_out", superposed_moves(data, pair), count):
        z0 = model.autoencoder.encode(frames[0]).mean
        paths = [model.flow(z0, index=k, steps=steps) for k in chosen]
        displacements.append(_cosines(*(path[-1] - z0 for path in paths)))
        for path in paths:
            for t, z in enumerate(path[:-1]):
                gradients.append(_cosines(*(_gradient(model, z, k, t) for k in chosen)))
    return _summary(torch.cat(gradients)), _summary(torch.cat(displacements))


def _gradient(model: LatentFlow, z: Tensor, index: int, t: int) -> Tensor:
    """∇u at (z, t + 1): what one Euler step of length 1 adds."""
    return model.flow(z, index=index, steps=1, start=t, substeps=1)[1] - z


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Row by row, float64 (B,); NaN where one of the two is 0."""
    a, b = a.double(), b.double()
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))


def _summary(cosines: Tensor) -> Cosines:
    known = cosines[cosines.isfinite()]
    number = len(known)
    return Cosines(
        mean=known.mean().item() if number else None,
        mean_absolute=known.abs().mean().item() if number else None,
        sd=known.std().item() if number > 1 else None,
        pairs=number,
        still=len(cosines) - number,
    )

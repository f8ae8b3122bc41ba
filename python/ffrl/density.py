"""Densities along the latent flow: log q of a path's own points, the diffusion prior, and the KL between them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from rich.table import Table
from torch import Tensor

from ffrl.data import Dataset
from ffrl.models import FlowModel


def gaussian_log_densities(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(z; mean, exp(log_variance)) of each number by itself, in nats."""
    square = (z - mean) ** 2 * torch.exp(-log_variance)
    return -0.5 * (square + log_variance + math.log(2 * math.pi))


def gaussian_log_density(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(z; mean, diag exp(log_variance)), (…, D) → (…,), in nats."""
    return gaussian_log_densities(z, mean, log_variance).sum(dim=-1)


def path_log_density(log_q0: Tensor, log_det: Tensor) -> Tensor:
    """log q(z_t) at t = 1…T, (T, B), of points z_t = z_{t−1} + ∇u(z_{t−1}, t).

    log q(z_t) = log q(z_{t−1}) − log|det(I + ∇²u(z_{t−1}, t))|, from log_q0 = log q(z_0) (B,) and log_det (T, B).
    Where a step folds this is the density of one of its branches.
    """
    return log_q0 - log_det.cumsum(dim=0)


def standard_prior_log_density(z: Tensor) -> Tensor:
    """log N(z_t; 0, I) at t = 1…T, (T, B), for z (T, B, D): a prior that does not move."""
    return gaussian_log_density(z, torch.zeros_like(z), torch.zeros_like(z))


def diffusion_prior_log_density(z: Tensor, diffusion: Tensor) -> Tensor:
    """log p(z_t | k) at t = 1…T, (T, B), for z (T, B, D): N(0, (1 + 2 D_k t) I), the heat equation's from N(0, I).

    diffusion: D_k > 0 of each row, (B,).
    """
    t = torch.arange(1, len(z) + 1, dtype=z.dtype, device=z.device)
    log_variance = torch.log1p(2 * t[:, None] * diffusion)[:, :, None].expand_as(z)
    return gaussian_log_density(z, torch.zeros_like(z), log_variance)


@dataclass(frozen=True)
class VolumeChange:
    """How far the flow of one transformation stretches volumes, means over sequences of Σ_t over its steps, in nats.

    exact: log|det(I + Δ∇²u)| of its Euler steps of length Δ. row_sum: Σ_d log|1 + (Δ∇²u 1)_d|, which the paper's public
    code takes in its place. row_sum_error: mean of |row_sum − exact|, sequence by sequence. folding: share of
    (sequence, Euler step) pairs whose I + Δ∇²u has an eigenvalue that is not positive: such a step is not invertible,
    and log|det| is that of one branch. smallest: the smallest eigenvalue of all.
    """

    exact: float
    row_sum: float
    row_sum_error: float
    folding: float
    smallest: float


@torch.no_grad()
def volume_changes(
    model: FlowModel, data: Dataset, count: int | None = None, potentials: Sequence[int] | None = None
) -> dict[str, VolumeChange]:
    """Of each transformation, from the posterior means of x_0 of held-out sequences, `count` of each or all of them.

    potentials: which potential stands for each transformation (`ffrl.matching`); default: its own.
    """
    found = {}
    for k, name in enumerate(data.transformations):
        parts = []
        for frames in data.sequences("held_out", k, count):
            z0 = model.autoencoder.encode(frames[0]).mean
            parts.append(torch.stack(model.volume_change(z0, k if potentials is None else potentials[k])))
        exact, row_sum, smallest, folds = torch.cat(parts, dim=2).double()
        totals = exact.sum(0), row_sum.sum(0)
        found[name] = VolumeChange(
            exact=totals[0].mean().item(),
            row_sum=totals[1].mean().item(),
            row_sum_error=(totals[1] - totals[0]).abs().mean().item(),
            folding=folds.mean().item(),
            smallest=smallest.min().item(),
        )
    return found


def as_json(changes: dict[str, VolumeChange]) -> dict[str, dict[str, float]]:
    """For a JSON file."""
    return {name: asdict(change) for name, change in changes.items()}


def as_table(changes: dict[str, VolumeChange], num_steps: int) -> Table:
    """For the terminal, 80 columns."""
    title = f"Volume change along the flow, nats summed over t = 1…{num_steps}"
    table = Table(title=title, title_justify="left")
    table.add_column("", overflow="fold")
    headings = ("log|det(I + Δ∇²u)|\nexact", "row sums\n(paper's code)", "mean |row sums\n− exact|", "steps that\nfold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, c in changes.items():
        numbers = (f"{c.exact:.2f}", f"{c.row_sum:.2f}", f"{c.row_sum_error:.2f}", f"{100 * c.folding:.1f} %")
        table.add_row(name, *numbers)
    return table

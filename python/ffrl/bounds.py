"""The joint log-likelihood of held-out sequences, bounded with more and more importance samples."""

from collections.abc import Sequence
from typing import Any

import torch
from rich.table import Table

from ffrl.data import Dataset
from ffrl.metrics.likelihood import Likelihood, SequenceBound, joint_bound, of_flow_model, refuse_above_cap
from ffrl.models import FlowModel

NOISE_SEED = 20233
"""The noise of the importance samples is the same for every run and every number of them."""


@torch.no_grad()
def sequence_bounds(
    model: FlowModel,
    data: Dataset,
    likelihood: Likelihood,
    samples: Sequence[int],
    count: int,
    potentials: Sequence[int] | None = None,
) -> list[SequenceBound]:
    """For each S of `samples`, over `count` held-out sequences of each transformation, or as many as there are.

    potentials: which potential stands for each transformation (`ffrl.matching`); default: its own.
    """
    frames, index = [], []
    for k in range(len(data.transformations)):
        for part in data.sequences("held_out", k, count):
            frames.append(part)
            index.append(torch.full((part.shape[1],), k if potentials is None else potentials[k]))
    all_frames, all_index = torch.cat(frames, dim=1), torch.cat(index)
    bounds = []
    for number in samples:
        bound = joint_bound(
            of_flow_model(model, likelihood),
            all_frames,
            all_index,
            samples=number,
            likelihood=likelihood,
            generator=torch.Generator().manual_seed(NOISE_SEED),
        )
        refuse_above_cap(bound.mean, bound.caps.mean(), f"mean of the joint bound with {number} samples")
        bounds.append(bound)
    return bounds


def as_json(bounds: Sequence[SequenceBound]) -> list[dict[str, Any]]:
    """For a JSON file."""
    return [bound.as_json() | {"meaning": bound.meaning} for bound in bounds]


def as_table(bounds: Sequence[SequenceBound]) -> Table:
    """For the terminal, with what is bounded in words below."""
    most = bounds[-1]
    title = f"log p(x_0…x_{most.frames - 1} | k), bounds in nats, {len(most.rows)} sequences, {most.likelihood}"
    caption = f"No model exceeds {most.cap_per_frame:.1f} a frame of these sequences. {most.meaning}"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for heading in ("samples", "a sequence", "± of the mean", "a frame", "effective\nsamples"):
        table.add_column(heading, justify="right", no_wrap=True)
    for bound in bounds:
        numbers = (bound.mean, bound.standard_error, bound.per_frame, bound.effective.mean().item())
        table.add_row(str(bound.samples), *(f"{number:.1f}" for number in numbers))
    return table

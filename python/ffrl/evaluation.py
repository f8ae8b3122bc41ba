"""The equivariance error and its references that say what it is worth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from rich.table import Table
from torch import Tensor

from ffrl.data import Dataset
from ffrl.models import FlowModel


@dataclass(frozen=True)
class EquivarianceError:
    """Σ_t ‖x_t − y_t‖₁ for t = 1…T, summed over pixels and channels, mean over sequences, for several y_t.

    flow: decode(z_t), z_0 the posterior mean of x_0, then only the flow. The equivariance error proper.
    standing_still: decode(z_0) for every t. pixel_identity: x_0 for every t. black: a black image.
    reconstruction: decode of the posterior mean of x_t itself; it means something only when the encoder was trained on
        transformed states (of digits: random_start above 0).
    sequences: how many.
    """

    flow: float
    standing_still: float
    pixel_identity: float
    black: float
    reconstruction: float
    sequences: int

    @property
    def ratio(self) -> float:
        """flow / standing_still: 0 is perfect, 1 is a flow that does nothing."""
        return self.flow / self.standing_still


def equivariance_errors(
    model: FlowModel, data: Dataset, count: int | None = None, potentials: Sequence[int] | None = None
) -> dict[str, EquivarianceError]:
    """The errors of each transformation on held-out sequences, `count` of each or all of them.

    potentials: which potential stands for each transformation (`ffrl.matching`); default: its own.
    """
    found = {}
    for k, name in enumerate(data.transformations):
        total, rows = torch.zeros(5, dtype=torch.float64), 0
        for frames in data.sequences("held_out", k, count):
            total += _summed_errors(model, frames, k if potentials is None else potentials[k])
            rows += frames.shape[1]
        flow, standing_still, pixel_identity, black, reconstruction = (total / rows).tolist()
        found[name] = EquivarianceError(flow, standing_still, pixel_identity, black, reconstruction, rows)
    return found


def mean_ratio(errors: dict[str, EquivarianceError]) -> float:
    """Mean of flow / standing_still over the transformations."""
    return sum(error.ratio for error in errors.values()) / len(errors)


def as_json(errors: dict[str, EquivarianceError]) -> dict[str, dict[str, float]]:
    """The errors and their ratios, for a JSON file."""
    return {name: {**asdict(error), "ratio": error.ratio} for name, error in errors.items()}


def as_table(errors: dict[str, EquivarianceError], title: str, encoder_saw_states: bool) -> Table:
    """The errors as a table for the terminal.

    encoder_saw_states: whether training started from random states; if not, the reconstruction is marked so.
    """
    note = None if encoder_saw_states else "The encoder never saw transformed images: the last column is no aim."
    table = Table(title=title, title_justify="left", caption=note, caption_justify="left")
    table.add_column("", overflow="fold")
    # Broken by hand, so that the table fits into 80 columns.
    for heading in (
        "flow",
        "flow /\ndecode(z_0)",
        "decode(z_0)",
        "pixel\nidentity",
        "black\nimage",
        "decode(\nencode(x_t))",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, error in errors.items():
        numbers = (error.standing_still, error.pixel_identity, error.black, error.reconstruction)
        table.add_row(name, f"{error.flow:.0f}", f"{error.ratio:.3f}", *(f"{number:.0f}" for number in numbers))
    table.add_section()
    table.add_row("mean", "", f"{mean_ratio(errors):.3f}", "", "", "", "")
    return table


@torch.no_grad()
def _summed_errors(model: FlowModel, frames: Tensor, k: int) -> Tensor:
    """frames (T + 1, N, C, H, W) → the five errors summed over sequences, float64 (5,)."""
    coder, truth = model.autoencoder, frames[1:]
    z = model.flow(coder.encode(frames[0]).mean, k)
    encoded = coder.encode(truth.flatten(0, 1)).mean
    drawn = (
        coder.decode(z[1:]),
        coder.decode(z[:1]),
        frames[:1],
        torch.zeros_like(frames[:1]),
        coder.decode(encoded).view_as(truth),
    )
    return torch.stack([(truth - image).abs().sum(dtype=torch.float64) for image in drawn])

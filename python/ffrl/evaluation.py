"""The equivariance error and its references that say what it is worth."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from rich.table import Table
from torch import Tensor

from ffrl.data import Dataset
from ffrl.models import Autoencoder, LatentFlow


@dataclass(frozen=True)
class EquivarianceError:
    """Σ_t ‖x_t − y_t‖₁ for t = 1…T, summed over pixels and channels, mean over sequences, for several y_t.

    flow: decode(z_t), z_0 the posterior mean of x_0, then only the flow. The equivariance error proper.
    standing_still: decode(z_0) for every t. pixel_identity: x_0 for every t. black: a black image.
    reconstruction: decode of the posterior mean of x_t itself; it means something only when the encoder was trained on
        transformed states (of digits: random_start above 0).
    sequences: how many.

    Of a part of a path, t = s + 1…s + n, standing still is decode(z_s), and pixel identity x_s.
    """

    flow: float
    standing_still: float
    pixel_identity: float
    black: float
    reconstruction: float
    sequences: int

    @classmethod
    def of(cls, means: Sequence[float], sequences: int) -> "EquivarianceError":
        """From the five means in their order, as `segment_errors` has the sums."""
        flow, standing_still, pixel_identity, black, reconstruction = means
        return cls(flow, standing_still, pixel_identity, black, reconstruction, sequences)

    @property
    def ratio(self) -> float:
        """flow / standing_still: 0 is perfect, 1 is a flow that does nothing."""
        return self.flow / self.standing_still

    @property
    def reconstruction_ratio(self) -> float:
        """reconstruction / standing_still: what `ratio` would be if the flow met the codes of the true frames."""
        return self.reconstruction / self.standing_still


@torch.no_grad()
def equivariance_errors(
    model: LatentFlow, data: Dataset, count: int | None = None, potentials: Sequence[int] | None = None
) -> dict[str, EquivarianceError]:
    """The errors of each transformation on held-out sequences, `count` of each or all of them.

    potentials: which potential stands for each transformation (`ffrl.matching`); default: its own.
    """
    found = {}
    for k, name in enumerate(data.transformations):
        index = k if potentials is None else potentials[k]

        def sums(frames: Tensor, index: int = index) -> Tensor:
            z0 = model.autoencoder.encode(frames[0]).mean
            return segment_errors(model.autoencoder, frames, model.flow(z0, index, steps=len(frames) - 1))

        means, rows = mean_over_sequences(data.sequences("held_out", k, count), sums)
        found[name] = EquivarianceError.of(means.tolist(), rows)
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


def mean_over_sequences(chunks: Iterable[Tensor], sums: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
    """The mean over sequences of what `sums` adds up over those of a chunk (S + 1, N, C, H, W), and their number."""
    total, rows = torch.zeros((), dtype=torch.float64), 0
    for frames in chunks:
        total = total + sums(frames)
        rows += frames.shape[1]
    return total / rows, rows


def segment_errors(coder: Autoencoder, frames: Tensor, z: Tensor, start: int = 0) -> Tensor:
    """The five errors of `EquivarianceError` of t = start + 1…S, summed over sequences: float64 (5,).

    frames: the true x_0…x_S, (S + 1, N, C, H, W). z: z_0…z_S of the flow, (S + 1, N, D).
    """
    return frame_errors(coder, frames[start + 1 :], z[start + 1 :], frames[start], z[start]).sum(dim=1)


def frame_errors(coder: Autoencoder, truth: Tensor, z: Tensor, still: Tensor, still_z: Tensor) -> Tensor:
    """The five errors of `EquivarianceError` at each of n times, summed over sequences: float64 (5, n).

    truth (n, N, C, H, W), z (n, N, D): the true frames and the flow's codes. still (N, C, H, W), still_z (N, D): those
    that the references keep.
    """
    encoded = coder.encode(truth.flatten(0, 1)).mean
    drawn = (
        coder.decode(z),
        coder.decode(still_z),
        still,
        torch.zeros_like(still),
        coder.decode(encoded).view_as(truth),
    )
    return torch.stack([(truth - image).abs().flatten(1).sum(dim=1, dtype=torch.float64) for image in drawn])

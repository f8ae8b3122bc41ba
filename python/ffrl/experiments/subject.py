"""What an experiment is about, and what it finds."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.table import Table
from torch import Tensor

from ffrl.data import Dataset
from ffrl.errors import NoRoomError, UserError
from ffrl.matching import match
from ffrl.models import FlowModel
from ffrl.run import RunConfig, load_flow

MOST_SHOWN = 4
"""Sequences in a picture."""

V = TypeVar("V")


@dataclass(frozen=True)
class Subject:
    """A trained run. data: that it was trained on. potentials: which stands for each transformation. sequences: at
    most so many held-out sequences of each kind are measured. unseen: other data of the same transformations, if any.
    """

    config: RunConfig
    data: Dataset
    model: FlowModel
    iteration: int
    potentials: tuple[int, ...]
    sequences: int
    unseen: Dataset | None = None

    @classmethod
    def load(cls, run: Path, sequences: int, unseen: Dataset | None = None) -> "Subject":
        """The run in the folder `run`. UserError: no trained run there, unseen data of another format, or the run's."""
        config = RunConfig.load(run)
        data = config.load_data()
        if unseen is not None and unseen.format != data.format:
            expected, found = (
                f"{', '.join(of.transformations)} in {of.num_steps} steps of images {of.image_shape}"
                for of in (data, unseen)
            )
            raise UserError(f"--data {unseen.name}: expected {expected}, as the run has, found {found}")
        if unseen is not None and unseen.checksum() == data.checksum():
            raise UserError(f"--data {unseen.name}: expected images that the run has not seen, found its own data")
        model, iteration = load_flow(run, config, data.format)
        return cls(config, data, model, iteration, match(model, data, sequences).potentials, sequences, unseen)

    @property
    def measured(self) -> tuple[FlowModel, Dataset, int, tuple[int, ...]]:
        """The arguments model, data, count and potentials of a measure."""
        return self.model, self.data, self.sequences, self.potentials

    @property
    def shown(self) -> int:
        """How many sequences a picture shows."""
        return min(MOST_SHOWN, self.sequences)

    def codes(self, frames: Tensor) -> Tensor:
        """The posterior means of images (N, C, H, W): (N, D)."""
        return self.model.autoencoder.encode(frames).mean


@dataclass(frozen=True)
class Findings:
    """results: for the JSON file. tables: for the terminal. pictures: the files written."""

    results: dict[str, Any]
    tables: tuple[Table, ...]
    pictures: tuple[Path, ...]


def joined(chunks: Iterator[Tensor]) -> Tensor:
    """All sequences of the chunks, (S + 1, N, C, H, W)."""
    return torch.cat(list(chunks), dim=1)


def require_some(values: dict[str, V], left_out: dict[str, str], data: Dataset) -> None:
    """NoRoomError unless something could be measured."""
    if not values:
        few = f"{data.name}: expected several transformations to compose, found {len(data.transformations)}"
        raise NoRoomError(next(iter(left_out.values()), few))

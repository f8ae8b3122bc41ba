"""How well each flow meets its Hamilton–Jacobi equation, where it was trained to and half a step off."""

from collections.abc import Sequence
from dataclasses import asdict

import torch
from rich.table import Table

from ffrl.data import Dataset
from ffrl.metrics.folding import PathResidual, path_residual
from ffrl.models import FlowModel


def path_residuals(
    model: FlowModel, data: Dataset, count: int | None = None, potentials: Sequence[int] | None = None
) -> dict[str, PathResidual]:
    """Of each transformation, on the paths from the posterior means of x_0 of held-out sequences, `count` of each or
    all of them.

    potentials: which potential stands for each transformation (`ffrl.matching`); default: its own.
    """
    found = {}
    times = torch.arange(1.0, data.num_steps + 1)
    for k, name in enumerate(data.transformations):
        on_grid = off_grid = 0.0
        rows = 0
        for frames in data.sequences("held_out", k, count):
            part = path_residual(
                model.autoencoder.encode(frames[0]).mean,
                times,
                model.potentials,
                force=model.forces,
                index=k if potentials is None else potentials[k],
                substeps=model.substeps,
            )
            number = frames.shape[1]
            on_grid, off_grid, rows = on_grid + number * part.on_grid, off_grid + number * part.off_grid, rows + number
        found[name] = PathResidual(on_grid / rows, off_grid / rows)
    return found


def as_json(residuals: dict[str, PathResidual]) -> dict[str, dict[str, float]]:
    """For a JSON file."""
    return {name: asdict(residual) for name, residual in residuals.items()}


def as_table(residuals: dict[str, PathResidual]) -> Table:
    """For the terminal."""
    table = Table(title="Hamilton–Jacobi residual, mean r² along the flow", title_justify="left")
    table.add_column("")
    for heading in ("at the steps", "half a step off"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, residual in residuals.items():
        table.add_row(name, f"{residual.on_grid:.5f}", f"{residual.off_grid:.5f}")
    return table

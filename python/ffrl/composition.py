"""How flows compose: several at once, one after another, longer than trained, and in finer steps.

All on held-out sequences whose true frames are known (`Dataset.composed`); z_0 is the posterior mean of x_0, then only
the flow moves it. A transformation moves by one state a step. T is the data's number of steps; T/2 is rounded down.
`potentials` says which potential stands for each transformation (`ffrl.matching`); None: its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ffrl.composed_paths import (
    Potentials,
    extrapolated_moves,
    half_of,
    names_of,
    ordered_pairs,
    pairs,
    potentials_of,
    superposed_moves,
    superposed_path,
    switched_moves,
    switched_path,
)
from ffrl.data import Dataset
from ffrl.errors import NoRoomError
from ffrl.evaluation import EquivarianceError, equivariance_errors, mean_over_sequences, segment_errors
from ffrl.models import LatentFlow

FINER = 4
"""How many times more Euler steps the finer flow makes."""

M = TypeVar("M")
C = TypeVar("C")


@dataclass(frozen=True)
class Measured(Generic[M]):
    """values: by what was composed, "a", "a + b" or "a → b". left_out: why there is no value, where there is none."""

    values: dict[str, M]
    left_out: dict[str, str]

    def as_json(self, value: Callable[[M], dict[str, Any]]) -> dict[str, Any]:
        """For a JSON file; `value` makes it of each value."""
        return {
            "values": {name: value(measured) for name, measured in self.values.items()},
            "left_out": self.left_out,
        }


@dataclass(frozen=True)
class Switch:
    """The second half of a path along a, then b: t = T/2 + 1…T; standing still is decode(z_{T/2}).

    running: b's potential is asked for at the times T/2 + 1…T. restarted: at 1…T − T/2, as if the path began there.
    """

    running: EquivarianceError
    restarted: EquivarianceError


@dataclass(frozen=True)
class Finer:
    """The flow's equivariance error with the model's Euler steps, `own`, and with FINER times as many, `finer`."""

    own: float
    finer: float
    sequences: int

    @property
    def ratio(self) -> float:
        """finer / own: 1 where the flow does not depend on its steps."""
        return self.finer / self.own


@dataclass(frozen=True)
class Composition:
    """What `composition` measures; single: the equivariance errors of each transformation alone."""

    single: dict[str, EquivarianceError]
    superposition: Measured[EquivarianceError]
    switch: Measured[Switch]
    extrapolation: Measured[EquivarianceError]
    finer: dict[str, Finer]

    def as_json(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "single": {name: error_as_json(error) for name, error in self.single.items()},
            "superposition": self.superposition.as_json(error_as_json),
            "switch": self.switch.as_json(switch_as_json),
            "extrapolation": self.extrapolation.as_json(error_as_json),
            "finer": {name: {**asdict(finer), "ratio": finer.ratio} for name, finer in self.finer.items()},
        }


def error_as_json(error: EquivarianceError) -> dict[str, Any]:
    """The errors and both ratios."""
    return {**asdict(error), "ratio": error.ratio, "reconstruction_ratio": error.reconstruction_ratio}


def switch_as_json(switch: Switch) -> dict[str, Any]:
    """Both clocks."""
    return {"running": error_as_json(switch.running), "restarted": error_as_json(switch.restarted)}


def composition(
    model: LatentFlow, data: Dataset, substeps: int, count: int | None = None, potentials: Potentials = None
) -> Composition:
    """All measures, on `count` held-out sequences of each kind or all of them. substeps: the model's own."""
    common = (model, data, count, potentials)
    return Composition(
        single=equivariance_errors(*common),
        superposition=superposition(*common),
        switch=switches(*common),
        extrapolation=extrapolation(*common),
        finer=finer_steps(model, data, substeps, count, potentials),
    )


@torch.no_grad()
def superposition(
    model: LatentFlow, data: Dataset, count: int | None = None, potentials: Potentials = None
) -> Measured[EquivarianceError]:
    """Of each pair a + b: both move for T steps, z_{i+1} = z_i + ∇u^a + ∇u^b."""

    def measure(pair: tuple[int, int]) -> EquivarianceError:
        def sums(frames: Tensor) -> Tensor:
            z0 = model.autoencoder.encode(frames[0]).mean
            z = superposed_path(model, z0, data, potentials_of(pair, potentials))
            return segment_errors(model.autoencoder, frames, z)

        moves = superposed_moves(data, pair)
        means, rows = mean_over_sequences(data.composed_sequences("held_out", moves, count), sums)
        return EquivarianceError.of(means.tolist(), rows)

    return _measured({" + ".join(names_of(data, pair)): pair for pair in pairs(data)}, measure)


@torch.no_grad()
def switches(
    model: LatentFlow, data: Dataset, count: int | None = None, potentials: Potentials = None
) -> Measured[Switch]:
    """Of each ordered pair a → b: a moves for T/2 steps, then b for the rest."""

    def measure(pair: tuple[int, int]) -> Switch:
        moves, half = switched_moves(data, pair), half_of(data)

        def sums(frames: Tensor) -> Tensor:
            z0 = model.autoencoder.encode(frames[0]).mean
            chosen = potentials_of(pair, potentials)
            paths = [switched_path(model, z0, data, chosen, restart) for restart in (False, True)]
            return torch.stack([segment_errors(model.autoencoder, frames, z, half) for z in paths])

        means, rows = mean_over_sequences(data.composed_sequences("held_out", moves, count), sums)
        running, restarted = means.tolist()
        return Switch(EquivarianceError.of(running, rows), EquivarianceError.of(restarted, rows))

    return _measured({" → ".join(names_of(data, pair)): pair for pair in ordered_pairs(data)}, measure)


@torch.no_grad()
def extrapolation(
    model: LatentFlow, data: Dataset, count: int | None = None, potentials: Potentials = None
) -> Measured[EquivarianceError]:
    """Of each transformation, at t = T + 1…T + T/2, which no training sequence has; standing still is decode(z_T)."""

    def measure(k: int) -> EquivarianceError:
        moves, (index,) = extrapolated_moves(data, k), potentials_of((k,), potentials)

        def sums(frames: Tensor) -> Tensor:
            z = model.flow(model.autoencoder.encode(frames[0]).mean, index=index, steps=len(moves))
            return segment_errors(model.autoencoder, frames, z, data.num_steps)

        means, rows = mean_over_sequences(data.composed_sequences("held_out", moves, count), sums)
        return EquivarianceError.of(means.tolist(), rows)

    return _measured({name: k for k, name in enumerate(data.transformations)}, measure)


@torch.no_grad()
def finer_steps(
    model: LatentFlow, data: Dataset, substeps: int, count: int | None = None, potentials: Potentials = None
) -> dict[str, Finer]:
    """Of each transformation alone, t = 1…T. substeps: the model's own."""
    found = {}
    for k, name in enumerate(data.transformations):
        (index,) = potentials_of((k,), potentials)

        def sums(frames: Tensor, index: int = index) -> Tensor:
            z0, coder = model.autoencoder.encode(frames[0]).mean, model.autoencoder
            paths = [
                model.flow(z0, index=index, steps=data.num_steps, substeps=number)
                for number in (substeps, FINER * substeps)
            ]
            return torch.stack([(frames[1:] - coder.decode(z[1:])).abs().sum(dtype=torch.float64) for z in paths])

        means, rows = mean_over_sequences(data.sequences("held_out", k, count), sums)
        own, finer = means.tolist()
        found[name] = Finer(own, finer, rows)
    return found


def _measured(chosen: Mapping[str, C], measure: Callable[[C], M]) -> Measured[M]:
    values, left_out = {}, {}
    for name, choice in chosen.items():
        try:
            values[name] = measure(choice)
        except NoRoomError as error:
            left_out[name] = str(error)
    return Measured(values, left_out)

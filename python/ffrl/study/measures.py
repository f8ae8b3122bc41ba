"""What the study measures of one run: ``python -m ffrl.study.measures RUN SEQUENCES`` writes RUN/measures.json."""

import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffrl.campaign.measures import Measures, measure_and_save
from ffrl.composition import Composition, composition
from ffrl.density import volume_changes
from ffrl.evaluation import EquivarianceError
from ffrl.matching import match
from ffrl.residuals import path_residuals
from ffrl.run import RunConfig, installed_versions, load_flow
from ffrl.source import source_commit

FOLDS, ON_GRID, OFF_GRID, FINER, ITERATIONS = (
    "steps that fold",
    "r² at the steps",
    "r² between the steps",
    "error in 4 × finer steps / own",
    "iterations",
)
OF_THE_FLOW = (FOLDS, ON_GRID, OFF_GRID, FINER, ITERATIONS)
"""The values that describe the flow itself; all others say how flows compose."""


@dataclass(frozen=True)
class StudyMeasures(Measures):
    """values: means over transformations or pairs of them. composition: the same one by one, with all references."""

    composition: dict[str, Any]


def measure(run: Path, count: int) -> StudyMeasures:
    """Of the trained run in the folder `run`, on `count` held-out sequences of each kind or all of them."""
    config = RunConfig.load(run)
    data = config.load_data()
    model, iteration = load_flow(run, config, data.format)
    potentials = match(model, data, count).potentials
    composed = composition(model, data, config.preset.substeps, count, potentials)
    values, missing = _of_composition(composed)
    if (reason := model.dynamics.without_volumes) is None:
        volumes = volume_changes(model, data, count, potentials)
        values[FOLDS] = statistics.fmean(volume.folding for volume in volumes.values())
    else:
        missing[FOLDS] = reason
    if (reason := model.dynamics.without_residual) is None:
        residuals = path_residuals(model, data, count, potentials).values()
        values[ON_GRID] = statistics.fmean(residual.on_grid for residual in residuals)
        values[OFF_GRID] = statistics.fmean(residual.off_grid for residual in residuals)
    else:
        missing |= dict.fromkeys((ON_GRID, OFF_GRID), reason)
    values[FINER] = statistics.fmean(finer.ratio for finer in composed.finer.values())
    values[ITERATIONS] = float(iteration)
    return StudyMeasures(
        asked=count,
        iteration=iteration,
        seed=config.seed,
        data_checksum=config.data_checksum,
        values=values,
        missing=missing,
        composition=composed.as_json(),
        versions=installed_versions(),
        commit=source_commit(),
    )


def _of_composition(composed: Composition) -> tuple[dict[str, float], dict[str, str]]:
    """Errors over those of holding still, and those of the reconstruction beside them; and why there are none."""
    pairs, switches, beyond = composed.superposition, composed.switch, composed.extrapolation
    missing = {**pairs.left_out, **switches.left_out, **beyond.left_out}
    values = {"single": _mean(composed.single.values())}
    values |= {name: error.ratio for name, error in pairs.values.items()}
    if pairs.values:
        values["pairs, reconstruction"] = _mean_reconstruction(pairs.values.values())
    if switches.values:
        values["switch, clock running"] = _mean(switch.running for switch in switches.values.values())
        values["switch, clock restarted"] = _mean(switch.restarted for switch in switches.values.values())
    if beyond.values:
        values["beyond T"] = _mean(beyond.values.values())
        values["beyond T, reconstruction"] = _mean_reconstruction(beyond.values.values())
    return values, missing


def _mean(errors: Iterable[EquivarianceError]) -> float:
    return statistics.fmean(error.ratio for error in errors)


def _mean_reconstruction(errors: Iterable[EquivarianceError]) -> float:
    return statistics.fmean(error.reconstruction_ratio for error in errors)


if __name__ == "__main__":
    measure_and_save(measure, *sys.argv[1:])

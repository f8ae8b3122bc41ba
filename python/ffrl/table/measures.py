"""What the table measures of one run: ``python -m ffrl.table.measures RUN SEQUENCES`` writes RUN/measures.json."""

import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffrl.campaign.measures import Measures, measure_and_save
from ffrl.data import Dataset, FactorDataset
from ffrl.matching import Matching, match
from ffrl.models import FlowModel
from ffrl.run import RunConfig, installed_versions, load_trained
from ffrl.source import source_commit
from ffrl.systems import Comparable
from ffrl.table.bound import bound_of_system
from ffrl.table.errors import TransitionErrors, transition_errors
from ffrl.training.checkpoint import read_progress

if TYPE_CHECKING:
    from ffrl.disentanglement import Disentanglement

SAMPLES = 64
"""S of the joint bound."""
BOUND_SEQUENCES = 20
"""Held-out sequences of each transformation that the bound is measured on, at most and of those asked for."""

RATIO, OVER_PIXELS, BOUND = "mean error / decode(z_0)", "least error / pixels", "joint bound a frame"
ITERATIONS, SECONDS, ACCURACY = "iterations", "training seconds", "accuracy of q(k|x)"

OF_ERRORS = (
    "error", "ratio", "own", "constant", "affine", "standing_still", "pixel_identity", "black", "reconstruction"
)  # fmt: skip
"""The values of each transformation, fields and properties of `TransitionErrors`; "own" only where there is one."""


@dataclass(frozen=True)
class TableMeasures(Measures):
    """supervision, sees: texts of `Comparable`. parameters: numbers that training changes. errors: by transformation,
    `TransitionErrors` and which transition counts. bound, disentanglement: with what they were measured on.
    """

    supervision: str
    sees: str | None
    parameters: int
    errors: dict[str, dict[str, Any]]
    bound: dict[str, Any]
    disentanglement: dict[str, Any] | None


def value_name(transformation: str, quantity: str) -> str:
    """The name among `values` of one of OF_ERRORS of one transformation."""
    return f"{transformation}: {quantity}"


def measure(run: Path, count: int) -> TableMeasures:
    """Of the trained run in the folder `run`, on `count` held-out sequences of each transformation or all of them."""
    config = RunConfig.load(run)
    data = config.load_data()
    model, iteration = load_trained(run, config, data.format)
    progress = read_progress(run)
    assert progress is not None  # it was loaded from a checkpoint
    matching = _matching(model, data, count)
    errors = {
        name: transition_errors(model, data, k, count, matching.potentials[k])
        for k, name in enumerate(data.transformations)
    }
    bounded = min(BOUND_SEQUENCES, count)
    bound = bound_of_system(model, data, config.preset.likelihood, SAMPLES, bounded, matching.potentials)
    values = {
        **_of_errors(errors),
        BOUND: bound.per_frame,
        ITERATIONS: float(iteration),
        SECONDS: progress[1],
    }
    missing: dict[str, str] = {}
    if matching.inferred is not None:
        values[ACCURACY] = matching.inferred.accuracy
    scores = None
    if isinstance(data, FactorDataset):
        scores = _scores(model, data)
        values |= scores.values()
    else:
        missing["disentanglement"] = f"{data.name} is no data set of images by their factors"
    return TableMeasures(
        asked=count,
        iteration=iteration,
        seed=config.seed,
        data_checksum=config.data_checksum,
        values=values,
        missing=missing,
        versions=installed_versions(),
        commit=source_commit(),
        supervision=model.supervision,
        sees=model.sees,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        errors={name: {**asdict(error), "counted": error.counted} for name, error in errors.items()},
        bound=bound.as_json(),
        disentanglement=None if scores is None else scores.as_json(),
    )


def _matching(model: object, data: Dataset, count: int) -> Matching:
    if isinstance(model, FlowModel):
        return match(model, data, count)
    return Matching(tuple(range(len(data.transformations))), None)


def _of_errors(errors: dict[str, TransitionErrors]) -> dict[str, float]:
    values = {RATIO: statistics.fmean(error.ratio for error in errors.values())}
    values[OVER_PIXELS] = min(error.over_pixels for error in errors.values())
    for name, error in errors.items():
        for quantity in OF_ERRORS:
            if (value := getattr(error, quantity)) is not None:
                values[value_name(name, quantity)] = value
    return values


def _scores(model: Comparable, data: FactorDataset) -> "Disentanglement":
    # The scores need scikit-learn, whose import takes a second that nothing else here needs.
    from ffrl.disentanglement import scores_of_codes

    # Each image is a sequence of one frame.
    return scores_of_codes(lambda images: model.codes(images[None])[0], data)


if __name__ == "__main__":
    measure_and_save(measure, *sys.argv[1:])

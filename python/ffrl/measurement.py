"""Everything that a trained run is measured by: computed, printed, written, and summed up over runs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ffrl import bounds, density, evaluation, residuals
from ffrl.data import Dataset, FactorDataset
from ffrl.errors import UserError
from ffrl.evaluation import EquivarianceError, mean_ratio
from ffrl.files import write_json
from ffrl.matching import Matching, match
from ffrl.metrics import clustering
from ffrl.metrics.folding import PathResidual
from ffrl.metrics.likelihood import SequenceBound
from ffrl.metrics.summary import SeedResult, Summary, summarise
from ffrl.run import EVALUATION_NAME, RunConfig, load_flow
from ffrl.training.checkpoint import read_progress

if TYPE_CHECKING:
    from ffrl.disentanglement import Disentanglement
    from ffrl.models import FlowModel

MOST_SAMPLES = 1_000_000
"""Of the bound, which gains a nat with each factor e: more would take days."""


@dataclass(frozen=True)
class Request:
    """What to measure. sequences: at most so many held-out sequences of each transformation. samples: the numbers S of
    importance samples of the bound, on `bound_sequences` sequences of each transformation.
    """

    sequences: int = 1_000
    samples: tuple[int, ...] = (1, 8, 64, 512)
    bound_sequences: int = 4
    disentanglement: bool = False

    def __post_init__(self) -> None:
        if not self.samples or min(self.samples) < 1 or sorted(set(self.samples)) != list(self.samples):
            raise UserError(f"--samples: expected increasing numbers from 1 on, found {self.samples}")
        if self.samples[-1] > MOST_SAMPLES:
            raise UserError(f"--samples: expected at most {MOST_SAMPLES:,}, found {self.samples[-1]}")


@dataclass(frozen=True)
class Measurement:
    """The measures of one run, and where they come from.

    volumes, residuals: None where the flow has none; `missing` says why, by the names that JSON has.
    """

    config: RunConfig
    data: Dataset
    iteration: int
    matching: Matching
    errors: dict[str, EquivarianceError]
    volumes: dict[str, density.VolumeChange] | None
    residuals: dict[str, PathResidual] | None
    bounds: list[SequenceBound]
    disentanglement: "Disentanglement | None"
    missing: dict[str, str]

    def tables(self) -> list[Table]:
        """For the terminal."""
        steps, count = self.data.num_steps, max(error.sequences for error in self.errors.values())
        title = f"L1 error of t = 1…{steps}, summed, on {count} held-out sequences each (iteration {self.iteration})"
        tables = [evaluation.as_table(self.errors, title, encoder_saw_states=self._encoder_saw_states)]
        if self.volumes is not None:
            tables.append(density.as_table(self.volumes, steps))
        if self.residuals is not None:
            tables.append(residuals.as_table(self.residuals))
        tables.append(bounds.as_table(self.bounds))
        if self.matching.inferred is not None:
            tables.append(clustering.as_table(self.matching.inferred, self.data.transformations))
        if self.disentanglement is not None:
            tables.append(self.disentanglement.as_table())
        return tables

    def as_json(self) -> dict[str, Any]:
        """For a JSON file. Under "provenance" what trained the model, under "evaluated_by" what measured it."""
        inferred, scores = self.matching.inferred, self.disentanglement
        return {
            "equivariance_error": evaluation.as_json(self.errors),
            "mean_ratio": mean_ratio(self.errors),
            "volume_change": None if self.volumes is None else density.as_json(self.volumes),
            "path_residual": None if self.residuals is None else residuals.as_json(self.residuals),
            "missing": self.missing,
            "log_likelihood": bounds.as_json(self.bounds),
            "potentials": self.matching.potentials,
            "inferred_k": None if inferred is None else asdict(inferred),
            "disentanglement": None if scores is None else scores.as_json(),
            **self.config.result_provenance(self.iteration),
        }

    def values(self) -> dict[str, float]:
        """The numbers that are worth a mean over seeds, by name."""
        found = {"mean flow / decode(z_0)": mean_ratio(self.errors)}
        for name, error in self.errors.items():
            found |= {f"{name}: flow": error.flow, f"{name}: flow / decode(z_0)": error.ratio}
            found[f"{name}: reconstruction"] = error.reconstruction
        for name, volume in (self.volumes or {}).items():
            found |= {f"{name}: log|det|": volume.exact, f"{name}: steps that fold": volume.folding}
        for name, residual in (self.residuals or {}).items():
            found |= {f"{name}: r² at the steps": residual.on_grid, f"{name}: r² off them": residual.off_grid}
        for bound in self.bounds:
            found[f"bound a frame, {bound.likelihood}, S = {bound.samples}"] = bound.per_frame
        if self.matching.inferred is not None:
            found["accuracy of q(k|x)"] = self.matching.inferred.accuracy
        if self.disentanglement is not None:
            found |= self.disentanglement.values()
        return found

    @property
    def _encoder_saw_states(self) -> bool:
        return isinstance(self.data, FactorDataset) or self.config.preset.random_start > 0


def measure(run: Path, request: Request) -> Measurement:
    """Measure the run in the folder `run` on its held-out data."""
    config = RunConfig.load(run)
    data = config.load_data()
    scores_of = _disentanglement_on(data, config.preset.latent_dim) if request.disentanglement else None
    model, iteration = load_flow(run, config, data.format)
    matching = match(model, data, request.sequences)
    common = (model, data, request.sequences, matching.potentials)
    likelihood, dynamics = config.preset.likelihood, model.dynamics
    reasons = {"volume_change": dynamics.without_volumes, "path_residual": dynamics.without_residual}
    return Measurement(
        config=config,
        data=data,
        iteration=iteration,
        matching=matching,
        errors=evaluation.equivariance_errors(*common),
        volumes=None if dynamics.without_volumes else density.volume_changes(*common),
        residuals=None if dynamics.without_residual else residuals.path_residuals(*common),
        bounds=bounds.sequence_bounds(
            model, data, likelihood, request.samples, request.bound_sequences, matching.potentials
        ),
        disentanglement=None if scores_of is None else scores_of(model),
        missing={name: reason for name, reason in reasons.items() if reason is not None},
    )


def _disentanglement_on(data: Dataset, latent_dim: int) -> Callable[["FlowModel"], "Disentanglement"]:
    # The scores need scikit-learn, whose import takes a second that nothing else here needs.
    from ffrl.disentanglement import disentanglement, require_factors, require_two_dimensions

    factors = require_factors(data)
    require_two_dimensions(latent_dim)
    return lambda model: disentanglement(model, factors)


def write_measurement(run: Path, measurement: Measurement) -> Path:
    """Write evaluation.json into the folder `run`; its path."""
    path = run / EVALUATION_NAME
    write_json(path, measurement.as_json())
    return path


def require_comparable(runs: Sequence[Path]) -> None:
    """UserError, before anything is measured: no run, a seed twice, or settings that differ beside the seeds."""
    configs = [RunConfig.load(run) for run in runs]
    first = _settings(configs[0])
    for run, config in zip(runs, configs, strict=True):
        progress = read_progress(run)
        if len(runs) > 1 and progress is not None and config.budget.fraction(*progress) < 1:
            raise UserError(
                f"evaluate: expected several runs that have ended, found {run} at iteration {progress[0]:,} of a "
                f"budget of {config.budget.describe()}; train it on with --resume, or evaluate it alone"
            )
    for config in configs[1:]:
        other = _settings(config)
        differing = sorted(name for name in first if first[name] != other[name])
        if differing:
            found = ", ".join(f"{name} {first[name]} and {other[name]}" for name in differing)
            raise UserError(f"evaluate: expected runs that differ in their seeds alone, found {found}")
    seeds = [config.seed for config in configs]
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise UserError(f"evaluate: expected each seed once, found seed {seed} {seeds.count(seed)} times")


def summarise_runs(measurements: Sequence[Measurement]) -> Summary:
    """Means and standard deviations over runs that `require_comparable` lets pass."""
    return summarise(
        [
            SeedResult(measurement.config.seed, measurement.config.data_checksum, measurement.values())
            for measurement in measurements
        ]
    )


def _settings(config: RunConfig) -> dict[str, Any]:
    values = asdict(config)
    kept = ("budget", "data", "accumulate", "processes", "precision")
    return {**values["preset"], **{name: values[name] for name in kept}}

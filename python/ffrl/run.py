"""The run folder: config.json says how a run is trained, so that it can be resumed, evaluated and drawn."""

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ffrl.data import Dataset, SequenceFormat, find_dataset
from ffrl.errors import UserError
from ffrl.files import read_json, write_json
from ffrl.kinds import require_kinds
from ffrl.models import FlowModel
from ffrl.presets import Preset
from ffrl.source import source_commit
from ffrl.systems import System, build
from ffrl.training.budget import Budget
from ffrl.training.checkpoint import INDEX_NAME, is_of_checkpoints, load_checkpoint
from ffrl.training.log import CSV_NAME

CONFIG_NAME = "config.json"
LARGEST_SEED = 2**32 - 1
EVALUATION_NAME = "evaluation.json"
MEASURES_NAME = "measures.json"
_OWN_FILES = (CONFIG_NAME, INDEX_NAME, CSV_NAME, EVALUATION_NAME, MEASURES_NAME)


@dataclass(frozen=True)
class RunConfig:
    """What a run trains on and how. data, root: the name of the data set and the folder of its files, if it has
    any.

    accumulate, processes: how many batches of the preset's size make a step's batch, one after another and side by
    side. precision: of the autoencoder's products.
    data_checksum: SHA-256 of the data (`Dataset.checksum`). versions: of Python and the packages that computed it.
    commit: of the source, where it is known.
    """

    preset: Preset
    budget: Budget
    seed: int
    data: str
    root: str | None
    data_checksum: str
    versions: dict[str, str]
    commit: str | None
    accumulate: int = 1
    processes: int = 1
    precision: str = "32-true"

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("accumulate", 1), ("processes", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name}: expected at least {least}, found {getattr(self, name)}")
        if self.seed > LARGEST_SEED:
            raise UserError(f"seed: expected at most {LARGEST_SEED}, found {self.seed}")

    def save(self, run: Path) -> None:
        """Write config.json into the folder `run`."""
        write_json(run / CONFIG_NAME, asdict(self))

    @classmethod
    def load(cls, run: Path) -> "RunConfig":
        """Read config.json. UserError: missing, or not what this version writes."""
        path = run / CONFIG_NAME
        if not path.is_file():
            raise UserError(f"{run}: expected a run with a {CONFIG_NAME}, found none")
        values = read_json(path)
        try:
            require_kinds(cls, values)
            require_kinds(Budget, values["budget"])
            preset, budget = Preset.from_dict(values["preset"]), Budget(**values["budget"])
            return cls(**{**values, "preset": preset, "budget": budget})
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def load_data(self) -> Dataset:
        """The data of this run. UserError: they are not those that the run was started with."""
        data = find_dataset(self.data, Path(self.root) if self.root else None)
        found = data.checksum()
        if found != self.data_checksum:
            raise UserError(f"--data {self.data}: expected the data of SHA-256 {self.data_checksum}, found {found}")
        return data

    def provenance(self) -> dict[str, Any]:
        """What a result must say about where it comes from."""
        return {
            "seed": self.seed,
            "data": self.data,
            "data_checksum": self.data_checksum,
            "versions": self.versions,
            "commit": self.commit,
        }

    def result_provenance(self, iteration: int) -> dict[str, Any]:
        """`provenance`, the iterations trained, and under "evaluated_by" what computes the result."""
        return {
            "iteration": iteration,
            **self.provenance(),
            "evaluated_by": {"versions": installed_versions(), "commit": source_commit()},
        }


def require_new(option: str, run: Path) -> None:
    """UserError: the folder that an option names for a new run holds files that a run writes or removes."""
    found = sorted(path.name for path in run.glob("*") if path.name in _OWN_FILES or is_of_checkpoints(path.name))
    if CONFIG_NAME in found:
        raise UserError(f"{option} {run}: expected a new folder, found a run; use --resume or another folder")
    if found:
        raise UserError(f"{option} {run}: expected a folder without files of a run, found {', '.join(found)}")


def discard(run: Path) -> None:
    """Remove what a run has written that failed before its first checkpoint, so that the folder may be used again."""
    # Killed in between, a run is left that can be resumed.
    for name in (CSV_NAME, CONFIG_NAME):
        (run / name).unlink(missing_ok=True)


def require_no_run_file(option: str, path: Path) -> None:
    """UserError: what an option names to be written is a folder, or a file that a run needs."""
    if path.is_dir():
        raise UserError(f"{option} {path}: expected a file, found a folder")
    if path.suffix == ".safetensors" or ((path.parent / CONFIG_NAME).exists() and path.name in _OWN_FILES):
        raise UserError(f"{option} {path}: expected a file of its own, found one of a run")


def load_trained(run: Path, config: RunConfig, sequences: SequenceFormat) -> tuple[System, int]:
    """The system of a run with its averaged weights, in evaluation mode, and how many iterations it was trained.

    sequences: of the run's data.
    """
    checkpoint = load_checkpoint(run)
    model = build(config.preset, sequences)
    checkpoint.require_shapes(run, "average", model.state_dict())
    average = checkpoint.part("average")
    for name, value in average.items():
        if not value.isfinite().all():
            raise UserError(f"{run}: expected finite weights, found NaN or infinity in {name}")
    model.load_state_dict(average)
    return model.eval().requires_grad_(False), checkpoint.iteration


def load_flow(run: Path, config: RunConfig, sequences: SequenceFormat) -> tuple[FlowModel, int]:
    """As `load_trained`, of a run whose system moves codes by a flow for each k. UserError: it has none, or one that
    diverged.
    """
    model, iteration = load_trained(run, config, sequences)
    if not isinstance(model, FlowModel):
        raise UserError(
            f"{run}: expected a system with a flow for each transformation, found {config.preset.system}, which only "
            "ffrl table measures"
        )
    _require_finite_flow(run, model, sequences)
    return model, iteration


@torch.no_grad()
def _require_finite_flow(run: Path, model: FlowModel, sequences: SequenceFormat) -> None:
    z0 = model.autoencoder.encode(torch.zeros(1, *sequences.image_shape)).mean
    for k, name in enumerate(sequences.transformations):
        z = model.flow(z0, k, steps=sequences.num_steps)
        if not (z.isfinite().all() and model.autoencoder.decode_logits(z[-1]).isfinite().all()):
            raise UserError(
                f"{run}: expected a flow that stays finite, found NaN or infinity along {name} from a black image"
            )


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    versions = {"python": platform.python_version()}
    for package in ("ffrl-fast", "torch", "kornia", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions

"""The run folder: config.json says how a run is trained, so that it can be resumed, evaluated and drawn."""

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ffrl.data import Digits, load_digits
from ffrl.errors import UserError
from ffrl.files import read_json, write_json
from ffrl.models import FlowModel
from ffrl.presets import Preset
from ffrl.training.budget import Budget
from ffrl.training.checkpoint import load_checkpoint

CONFIG_NAME = "config.json"


@dataclass(frozen=True)
class RunConfig:
    """What a run trains on and how. data: "digits" or "mnist". root: folder of the IDX files for "mnist".

    accumulate, processes: how many batches of the preset's size make a step's batch, one after another and side by
    side. precision: of the autoencoder's products.
    data_checksum: SHA-256 of the digits (`Digits.checksum`). versions: of Python and the packages that computed it.
    """

    preset: Preset
    budget: Budget
    seed: int
    data: str
    root: str | None
    data_checksum: str
    versions: dict[str, str]
    accumulate: int = 1
    processes: int = 1
    precision: str = "32-true"

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
        expected = set(cls.__dataclass_fields__)
        if set(values) != expected:
            raise UserError(f"{path}: expected {sorted(expected)}, found {sorted(values)}")
        try:
            preset, budget = Preset.from_dict(values["preset"]), Budget(**values["budget"])
        except (TypeError, UserError) as error:
            raise UserError(f"{path}: {error}") from None
        return cls(**{**values, "preset": preset, "budget": budget})

    def load_data(self) -> Digits:
        """The digits of this run. UserError: they are not those that the run was started with."""
        digits = load_digits(self.data, Path(self.root) if self.root else None)
        found = digits.checksum()
        if found != self.data_checksum:
            raise UserError(f"--data {self.data}: expected the digits of SHA-256 {self.data_checksum}, found {found}")
        return digits

    def provenance(self) -> dict[str, Any]:
        """What a result must say about where it comes from."""
        return {"seed": self.seed, "data": self.data, "data_checksum": self.data_checksum, "versions": self.versions}


def load_trained(run: Path, config: RunConfig) -> tuple[FlowModel, int]:
    """The model of a run with its averaged weights, in evaluation mode, and how many iterations it was trained."""
    checkpoint = load_checkpoint(run)
    model = FlowModel(config.preset)
    try:
        model.load_state_dict(checkpoint.part("average"))
    except RuntimeError as error:
        raise UserError(f"{run}: expected weights of the run's preset, found others ({error})") from None
    return model.eval().requires_grad_(False), checkpoint.iteration


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    versions = {"python": platform.python_version()}
    for package in ("ffrl-fast", "torch", "kornia", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions

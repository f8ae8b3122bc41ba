"""One run of a campaign: where its folder is, and what is left to do in it."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ffrl.campaign.measures import Measures
from ffrl.errors import UserError
from ffrl.presets import find_preset
from ffrl.run import CONFIG_NAME, RunConfig
from ffrl.training.budget import Budget
from ffrl.training.checkpoint import read_progress

_PYTHON = (sys.executable, "-P", "-m")


@dataclass(frozen=True)
class Plan:
    """What all runs have in common. out: folder of the campaign. budget: of training of each run, on one thread. data,
    root: as of `ffrl train`; data_checksum: of what is found there. sequences: at most so many held-out ones of each
    kind are measured.
    """

    out: Path
    budget: Budget
    data: str
    root: Path | None
    data_checksum: str
    sequences: int


@dataclass(frozen=True)
class PlannedRun(ABC):
    """The run of one seed and of what a subclass adds."""

    plan: Plan
    seed: int

    @property
    @abstractmethod
    def label(self) -> str:
        """Of all runs that differ in their seeds alone: a folder's name."""

    @property
    @abstractmethod
    def base(self) -> str:
        """The preset that it starts from."""

    @property
    @abstractmethod
    def settings(self) -> Sequence[str]:
        """What differs from the preset, as `ffrl train --set` takes it."""

    @property
    @abstractmethod
    def measuring(self) -> str:
        """The module that measures the run: ``python -m MODULE RUN SEQUENCES``."""

    @abstractmethod
    def found(self) -> Measures | None:
        """What was measured in the folder, if anything was."""

    @property
    def place(self) -> str:
        """Of the run's folder in that of the campaign."""
        return f"{self.label}/seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Of the run, as `ffrl train` writes it."""
        return self.plan.out / self.place

    @property
    def log(self) -> Path:
        """What its commands say."""
        return self.folder / "output.log"

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.label}, seed {self.seed}"

    def next_command(self) -> list[str] | None:
        """Train, go on training, measure, or None when all is done."""
        if not (self.folder / CONFIG_NAME).exists():
            return self._train()
        progress = read_progress(self.folder)
        if progress is None or self.plan.budget.fraction(*progress) < 1:
            return [*_PYTHON, "ffrl", "train", "--resume", "--out", str(self.folder), "--threads", "1"]
        if not self.measured:
            return [*_PYTHON, self.measuring, str(self.folder), str(self.plan.sequences)]
        return None

    @property
    def measured(self) -> bool:
        """Whether the folder has measures of its checkpoint, of as many sequences as are asked for."""
        found, progress = self.found(), read_progress(self.folder)
        if found is None or progress is None:
            return False
        return (found.asked, found.iteration) == (self.plan.sequences, progress[0])

    def require_ours(self) -> None:
        """UserError: the folder holds a run of other settings."""
        if not (self.folder / CONFIG_NAME).exists():
            return
        found = RunConfig.load(self.folder)
        budget = "--minutes" if self.plan.budget.minutes else "--iterations"
        expected = {
            "settings": (find_preset(self.base).override(list(self.settings)), found.preset),
            budget: (self.plan.budget, found.budget),
            "--data": (self.plan.data, found.data),
            "data": (self.plan.data_checksum, found.data_checksum),
            "seed": (self.seed, found.seed),
            "batches or precision": ((1, 1, "32-true"), (found.accumulate, found.processes, found.precision)),
        }
        differing = [name for name, (asked, there) in expected.items() if asked != there]
        if differing:
            raise UserError(f"{self.folder}: expected a run of this command, found other {', '.join(differing)}")

    def _train(self) -> list[str]:
        plan, budget = self.plan, self.plan.budget
        root = [] if plan.root is None else ["--root", str(plan.root)]
        settings = [argument for setting in self.settings for argument in ("--set", setting)]
        amount = ["--minutes", str(budget.minutes)] if budget.minutes else ["--iterations", str(budget.iterations)]
        clock = ["--processor-time"] if budget.processor_time else []
        return [
            *_PYTHON, "ffrl", "train", "--out", str(self.folder), "--preset", self.base, "--data", plan.data, *root,
            *settings, *amount, *clock, "--seed", str(self.seed), "--threads", "1",
        ]  # fmt: skip

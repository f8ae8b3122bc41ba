"""One run of the study: where its folder is, and what is left to do in it."""

import sys
from dataclasses import dataclass
from pathlib import Path

from ffrl.errors import UserError
from ffrl.run import CONFIG_NAME, RunConfig
from ffrl.study.measures import StudyMeasures
from ffrl.study.variants import Variant
from ffrl.training.budget import Budget
from ffrl.training.checkpoint import read_progress

_FFRL = (sys.executable, "-P", "-m")


@dataclass(frozen=True)
class Plan:
    """What all runs have in common. out: folder of the study. minutes: of training of each run, on one thread.
    data, root: as of `ffrl train`. sequences: at most so many held-out ones of each kind are measured.
    """

    out: Path
    minutes: float
    data: str
    root: Path | None
    sequences: int


@dataclass(frozen=True)
class StudyRun:
    """The run of one variant and one seed."""

    plan: Plan
    variant: Variant
    seed: int

    @property
    def folder(self) -> Path:
        """Of the run, as `ffrl train` writes it."""
        return self.plan.out / self.variant.name / f"seed{self.seed}"

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.variant.name}, seed {self.seed}"

    def next_command(self) -> list[str] | None:
        """Train, go on training, measure, or None when all is done."""
        if not (self.folder / CONFIG_NAME).exists():
            return self._train()
        progress = read_progress(self.folder)
        if progress is None or Budget(minutes=self.plan.minutes).fraction(*progress) < 1:
            return [*_FFRL, "ffrl", "train", "--resume", "--out", str(self.folder), "--threads", "1"]
        if self.measures() is None:
            return [*_FFRL, "ffrl.study.measures", str(self.folder), str(self.plan.sequences)]
        return None

    def require_ours(self) -> None:
        """UserError: the folder holds a run of another study."""
        if not (self.folder / CONFIG_NAME).exists():
            return
        found = RunConfig.load(self.folder)
        expected = {
            "settings": (self.variant.preset, found.preset),
            "--minutes": (Budget(minutes=self.plan.minutes), found.budget),
            "--data": (self.plan.data, found.data),
            "seed": (self.seed, found.seed),
        }
        differing = [name for name, (asked, there) in expected.items() if asked != there]
        if differing:
            raise UserError(f"{self.folder}: expected a run of this study, found other {', '.join(differing)}")

    def measures(self) -> StudyMeasures | None:
        """What was measured of the trained run, on so many sequences; None if nothing was yet."""
        found = StudyMeasures.load(self.folder)
        return found if found is not None and found.sequences == self.plan.sequences else None

    def _train(self) -> list[str]:
        plan = self.plan
        root = [] if plan.root is None else ["--root", str(plan.root)]
        settings = [argument for setting in self.variant.settings for argument in ("--set", setting)]
        return [
            *_FFRL, "ffrl", "train", "--out", str(self.folder), "--data", plan.data, *root, *settings,
            "--minutes", str(plan.minutes), "--seed", str(self.seed), "--threads", "1",
        ]  # fmt: skip

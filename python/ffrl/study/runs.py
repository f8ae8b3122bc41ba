"""One run of the study."""

from collections.abc import Sequence
from dataclasses import dataclass

from ffrl.campaign.runs import PlannedRun
from ffrl.study.measures import StudyMeasures
from ffrl.study.variants import BASE, Variant


@dataclass(frozen=True)
class StudyRun(PlannedRun):
    """The run of one variant and one seed."""

    variant: Variant

    @property
    def label(self) -> str:
        return self.variant.name

    @property
    def base(self) -> str:
        return BASE

    @property
    def settings(self) -> Sequence[str]:
        return self.variant.settings

    @property
    def measuring(self) -> str:
        return "ffrl.study.measures"

    def found(self) -> StudyMeasures | None:
        return StudyMeasures.load(self.folder)

    def measures(self) -> StudyMeasures | None:
        """What was measured of the trained run, on as many sequences as are asked for; None if nothing was yet."""
        return self.found() if self.measured else None

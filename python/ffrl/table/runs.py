"""One run of the table."""

from collections.abc import Sequence
from dataclasses import dataclass

from ffrl.campaign.runs import PlannedRun
from ffrl.table.measures import TableMeasures
from ffrl.table.rows import Row, base_of


@dataclass(frozen=True)
class TableRun(PlannedRun):
    """The run of one row and one seed."""

    row: Row

    @property
    def label(self) -> str:
        return self.row.name

    @property
    def base(self) -> str:
        return base_of(self.plan.data)

    @property
    def settings(self) -> Sequence[str]:
        return self.row.settings

    @property
    def measuring(self) -> str:
        return "ffrl.table.measures"

    def found(self) -> TableMeasures | None:
        return TableMeasures.load(self.folder)

    def measures(self) -> TableMeasures | None:
        """What was measured of the trained run, on as many sequences as are asked for; None if nothing was yet."""
        return self.found() if self.measured else None

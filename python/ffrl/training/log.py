"""The training log: log.csv always, TensorBoard when asked for."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ffrl.errors import UserError
from ffrl.files import write_text

CSV_NAME = "log.csv"
COLUMNS = ("iteration", "seconds", "learning_rate")
"""Before the terms of the objective."""


class TrainingLog:
    """Appends one row per call of `write`: COLUMNS, then the terms of the objective.

    terms: their names. iteration: where the run starts. Rows beyond it, written before an interruption but after the
    last checkpoint, are dropped first, so that a resumed run has each row once.
    """

    def __init__(self, run: Path, terms: Sequence[str], iteration: int, tensorboard: bool = False) -> None:
        path = run / CSV_NAME
        self.columns = (*COLUMNS, *terms)
        rows = _rows_until(path, iteration, len(self.columns))
        self._tensorboard: Any = _summary_writer(run, iteration) if tensorboard else None
        write_text(path, "\n".join([",".join(self.columns), *rows]) + "\n")
        self._file = path.open("a", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file, lineterminator="\n")

    def write(self, values: Mapping[str, float]) -> None:
        """Append a row; `values` has the names of all columns."""
        self._rows.writerow([f"{values[name]:.8g}" for name in self.columns])
        self._file.flush()
        if self._tensorboard is not None:
            for name in self.columns[1:]:
                self._tensorboard.add_scalar(name, values[name], int(values["iteration"]))

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _rows_until(path: Path, iteration: int, columns: int) -> list[str]:
    if iteration == 0 or not path.exists():
        return []
    rows = _text(path).splitlines()[1:]
    # A killed run may leave a part of its last row; it lies beyond the checkpoint, like all that is dropped here.
    whole = [row for row in rows if row.count(",") == columns - 1]
    try:
        return [row for row in whole if int(row.split(",")[0]) <= iteration]
    except ValueError as error:
        raise UserError(f"{path}: expected rows that begin with an iteration, found another ({error})") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, found something else ({error})") from None


def _summary_writer(run: Path, iteration: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "--tensorboard: expected the package tensorboard, found none; pip install 'ffrl-fast[tensorboard]'"
        ) from None
    return SummaryWriter(str(run / "tensorboard"), purge_step=iteration)

"""log.csv, read leniently about its columns and strictly about its numbers."""

import csv
from dataclasses import dataclass
from pathlib import Path

from ffrl.errors import UserError


@dataclass(frozen=True)
class Log:
    """Columns by name, in the order of the file, all of one length. cut: a half written last row is left out."""

    columns: dict[str, tuple[float, ...]]
    cut: bool

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(next(iter(self.columns.values())))

    def last(self, name: str) -> float | None:
        """The last value of a column; None without that column or without rows."""
        values = self.columns.get(name, ())
        return values[-1] if values else None


def parse_log(path: Path, text: str) -> Log:
    """Read CSV with a header. UserError: no header, a name twice, a short or long row, or a word for a number."""
    # A run that is being trained, or was killed, may have written a part of its last row.
    whole = text[: text.rfind("\n") + 1]
    try:
        lines = [row for row in csv.reader(whole.splitlines()) if row]
    except csv.Error as error:
        raise UserError(f"{path}: expected CSV, found something else ({error})") from None
    if not lines:
        raise UserError(f"{path}: expected a header and rows, found no whole line")
    names, rows = lines[0], lines[1:]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: expected each column once, found {names}")
    numbers = [_parse_row(path, number, names, row) for number, row in enumerate(rows, 1)]
    return Log({name: tuple(row[i] for row in numbers) for i, name in enumerate(names)}, cut=whole != text)


def _parse_row(path: Path, number: int, names: list[str], row: list[str]) -> list[float]:
    if len(row) != len(names):
        raise UserError(f"{path}: row {number}: expected {len(names)} values, found {len(row)}")
    values = []
    for name, text in zip(names, row, strict=True):
        try:
            values.append(float(text))
        except ValueError:
            raise UserError(f"{path}: row {number}, {name}: expected a number, found {text!r}") from None
    return values

"""Mean and spread over seeds of named results, of one data set only."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from ffrl.errors import UserError


@dataclass(frozen=True)
class SeedResult:
    """What one seed gave. data_checksum: SHA-256 of the data (`Digits.checksum`). values: numbers by name."""

    seed: int
    data_checksum: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Spread:
    """mean and sample standard deviation (n − 1) over seeds; sd None for one seed: no spread is known then."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Summary:
    """Spreads by name, in the order of the first result; the seeds, ascending; the data they have in common."""

    values: dict[str, Spread]
    seeds: tuple[int, ...]
    data_checksum: str


def summarise(results: Sequence[SeedResult]) -> Summary:
    """Mean and standard deviation over seeds.

    UserError: no result, results of different data, a seed twice, different names, or a number that is not finite.
    """
    if not results:
        raise UserError("results: expected at least one, found none")
    first = results[0]
    seeds = sorted(result.seed for result in results)
    for result in results:
        if result.data_checksum != first.data_checksum:
            raise UserError(
                f"results: expected one data set, SHA-256 {first.data_checksum} as of seed {first.seed}, "
                f"found {result.data_checksum} of seed {result.seed}"
            )
        if seeds.count(result.seed) > 1:
            raise UserError(
                f"results: expected each seed once, found seed {result.seed} {seeds.count(result.seed)} times"
            )
        if set(result.values) != set(first.values):
            differing = sorted(set(result.values) ^ set(first.values))
            raise UserError(f"results: expected the same names of every seed, found {differing} not in all")
        for name, value in result.values.items():
            if not math.isfinite(value):
                raise UserError(f"results: expected finite numbers, found {name} = {value} of seed {result.seed}")
    spreads = {name: _spread([result.values[name] for result in results]) for name in first.values}
    return Summary(spreads, tuple(seeds), first.data_checksum)


def as_rows(summary: Summary, digits: int = 3) -> list[tuple[str, str, str]]:
    """(name, mean, sd) as text, `digits` after the point; "–" where no spread is known."""
    return [
        (name, f"{spread.mean:.{digits}f}", "–" if spread.sd is None else f"{spread.sd:.{digits}f}")
        for name, spread in summary.values.items()
    ]


def as_table(summary: Summary, title: str, digits: int = 3) -> Table:
    """For the terminal."""
    count = len(summary.seeds)
    caption = f"{count} seeds, data {summary.data_checksum[:12]}" if count > 1 else "One seed: no spread is known."
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("")
    table.add_column("mean", justify="right", no_wrap=True)
    table.add_column("sd", justify="right", no_wrap=True)
    for row in as_rows(summary, digits):
        table.add_row(*row)
    return table


def as_json(summary: Summary) -> dict[str, Any]:
    """For a JSON file."""
    return {
        "seeds": list(summary.seeds),
        "data_checksum": summary.data_checksum,
        "values": {name: asdict(spread) for name, spread in summary.values.items()},
    }


def _spread(numbers: list[float]) -> Spread:
    return Spread(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None)

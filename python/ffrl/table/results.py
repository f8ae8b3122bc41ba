"""The table's numbers: spreads over the seeds of each system, as JSON and as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ffrl.campaign.runs import Plan
from ffrl.data import SequenceFormat
from ffrl.metrics.summary import SeedResult, summarise
from ffrl.table.errors import FITTING_SEQUENCES
from ffrl.table.rows import Row, base_of
from ffrl.table.runs import TableRun
from ffrl.table.transitions import RIDGE
from ffrl_fast.env import describe


def as_json(
    plan: Plan, sequences: SequenceFormat, runs: Sequence[TableRun], failed: Mapping[str, str]
) -> dict[str, Any]:
    """All that was measured so far, by system. failed: why, by the names of runs."""
    rows = list(dict.fromkeys(run.row for run in runs))
    return {
        "budget": asdict(plan.budget),
        "threads": 1,
        "data": plan.data,
        "preset": base_of(plan.data),
        "transformations": list(sequences.transformations),
        "steps": sequences.num_steps,
        "sequences": plan.sequences,
        "fitting_sequences": FITTING_SEQUENCES,
        "ridge": RIDGE,
        "processor": describe()["processor"],
        "systems": {row.name: _row_as_json(row, [run for run in runs if run.row == row]) for row in rows},
        "failed": dict(failed),
    }


def _row_as_json(row: Row, runs: Sequence[TableRun]) -> dict[str, Any]:
    found = {run.place: measures for run in runs if (measures := run.measures()) is not None}
    if not found:
        return {"settings": list(row.settings), "seeds": [], "values": {}, "runs": {}}
    first = next(iter(found.values()))
    summary = summarise([SeedResult(m.seed, m.data_checksum, m.values) for m in found.values()])
    return {
        "settings": list(row.settings),
        "supervision": first.supervision,
        "sees": first.sees,
        "parameters": first.parameters,
        "seeds": list(summary.seeds),
        "values": {name: asdict(spread) for name, spread in summary.values.items()},
        "missing": first.missing,
        "runs": {place: asdict(measures) for place, measures in found.items()},
    }


def as_csv(table: Mapping[str, Any]) -> str:
    """A line for each system and quantity of `as_json`: mean, sd (empty for one seed), then every seed's value."""
    seeds = sorted({seed for system in table["systems"].values() for seed in system["seeds"]})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["system", "quantity", "mean", "sd", *(f"seed {seed}" for seed in seeds)])
    for name, system in table["systems"].items():
        by_seed = {run["seed"]: run["values"] for run in system["runs"].values()}
        for quantity, spread in system["values"].items():
            each = [by_seed[seed][quantity] if seed in by_seed else "" for seed in seeds]
            sd = "" if spread["sd"] is None else spread["sd"]
            writer.writerow([name, quantity, spread["mean"], sd, *each])
    return text.getvalue()

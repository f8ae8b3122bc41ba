"""The study's results: spreads over the seeds of each variant, as JSON and as Markdown tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ffrl.campaign.runs import Plan
from ffrl.metrics.summary import SeedResult, summarise
from ffrl.study.measures import FOLDS, ITERATIONS, OF_THE_FLOW, OFF_GRID, ON_GRID
from ffrl.study.runs import StudyRun
from ffrl.study.variants import Variant
from ffrl_fast.env import describe

_DIGITS_AFTER_POINT = {ON_GRID: 4, OFF_GRID: 4, ITERATIONS: 0}


def as_json(plan: Plan, runs: Sequence[StudyRun], failed: Mapping[str, str]) -> dict[str, Any]:
    """All that was measured so far, by variant. failed: why, by the names of runs."""
    variants = list(dict.fromkeys(run.variant for run in runs))
    return {
        "minutes": plan.budget.minutes,
        "processor_time": plan.budget.processor_time,
        "threads": 1,
        "data": plan.data,
        "sequences": plan.sequences,
        "processor": describe()["processor"],
        "variants": {
            variant.name: _variant_as_json(variant, [run for run in runs if run.variant == variant])
            for variant in variants
        },
        "failed": dict(failed),
    }


def _variant_as_json(variant: Variant, runs: Sequence[StudyRun]) -> dict[str, Any]:
    found = {run.place: measures for run in runs if (measures := run.measures()) is not None}
    seeds: list[int] = []
    values, missing = {}, {}
    if found:
        summary = summarise([SeedResult(m.seed, m.data_checksum, m.values) for m in found.values()])
        seeds, missing = list(summary.seeds), next(iter(found.values())).missing
        values = {name: asdict(spread) for name, spread in summary.values.items()}
    return {
        **asdict(variant),
        "settings": variant.settings,
        "seeds": seeds,
        "values": values,
        "missing": missing,
        "runs": {place: asdict(measures) for place, measures in found.items()},
    }


def as_markdown(study: Mapping[str, Any]) -> str:
    """Two tables, of how flows compose and of the flows themselves, below what they were made by; of `as_json`."""
    measured = [variant for variant in study["variants"].values() if variant["seeds"]]
    if not measured:
        return "Nothing is measured yet.\n"
    seeds = sorted({seed for variant in measured for seed in variant["seeds"]})
    torch = next(iter(measured[0]["runs"].values()))["versions"]["torch"]
    spread = "one seed, no spread is known" if len(seeds) == 1 else f"mean ± standard deviation of {len(seeds)} seeds"
    clock = "processor" if study["processor_time"] else "wall-clock"
    lines = [
        f"{study['processor']}, one thread, {study['minutes']:g} minutes of {clock} time of training a run; "
        f"torch {torch}; {study['data']}, up to {study['sequences']:,} held-out sequences of each kind; {spread}."
    ]
    names = list(dict.fromkeys(name for variant in measured for name in variant["values"]))
    composed = [name for name in names if name not in OF_THE_FLOW]
    for columns in (composed, [name for name in OF_THE_FLOW if name in names]):
        lines += ["", f"| flow | sub-steps | start | {' | '.join(columns)} |", "|---" * (3 + len(columns)) + "|"]
        lines += [_row(variant, columns, seeds) for variant in measured]
    failed = [f"- {name}: {reason}" for name, reason in study["failed"].items()]
    return "\n".join([*lines, *(["", "Failed:", "", *failed] if failed else []), ""])


def _row(variant: Mapping[str, Any], columns: Sequence[str], seeds: Sequence[int]) -> str:
    short = "" if variant["seeds"] == seeds else f" (seeds {', '.join(map(str, variant['seeds']))})"
    cells = [_cell(column, variant["values"].get(column)) for column in columns]
    return (
        f"| {variant['flow']}{short} | {variant['substeps']} | {variant['start'] or 'random'} | {' | '.join(cells)} |"
    )


def _cell(column: str, spread: Mapping[str, float | None] | None) -> str:
    if spread is None:
        return "–"
    times, unit = (100, " %") if column == FOLDS else (1, "")
    digits = 1 if column == FOLDS else _DIGITS_AFTER_POINT.get(column, 3)
    mean, sd = (None if x is None else f"{times * x:,.{digits}f}" for x in (spread["mean"], spread["sd"]))
    return f"{mean}{unit}" if sd is None else f"{mean} ± {sd}{unit}"

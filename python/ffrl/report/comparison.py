"""What runs have in common, and means over those that differ only by their seed."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ffrl.errors import UserError
from ffrl.metrics.summary import SeedResult, Spread, summarise
from ffrl.report.contents import RunContents

# Counted exactly by a double; larger integers are no measurements.
_LARGEST_INTEGER = 2**53
# What an evaluation says of how it measured, and of the training before it.
_SIZES = ("sequences", "samples")
_ITERATION = "iteration"


@dataclass(frozen=True)
class SeedGroup:
    """Two or more runs that differ only by their seed.

    spreads: like an evaluation.json, with a `Spread` in place of each measured number and without the rest; None where
    there is no mean, and `problem` says why.
    """

    runs: tuple[RunContents, ...]
    spreads: dict[str, Any] | None
    problem: str | None


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Dotted names and the values without named parts below `value`."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    return {
        path: leaf
        for key, child in value.items()
        for path, leaf in flat(child, f"{name}.{key}" if name else key).items()
    }


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same: 1, 1.0 and true are equal in Python, and are different settings."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def seed_groups(runs: Sequence[RunContents]) -> list[SeedGroup]:
    """The groups among the runs that have been evaluated."""
    groups: dict[str, list[RunContents]] = {}
    for run in runs:
        if run.evaluation is not None and type(run.config.get("seed")) is int:
            rest = {name: value for name, value in run.config.items() if name != "seed"}
            groups.setdefault(json.dumps(rest, sort_keys=True), []).append(run)
    return [_group(members) for members in groups.values() if len(members) > 1]


def _group(runs: list[RunContents]) -> SeedGroup:
    leaves = [dict(_leaves(run.evaluation, ())) for run in runs]
    measured = {path for found in leaves for path, value in found.items() if isinstance(value, float)}
    try:
        _require_same_conditions(runs, leaves)
        summary = summarise(
            [
                SeedResult(
                    run.config["seed"],
                    str(run.config.get("data_checksum")),
                    {json.dumps(path): float(value) for path, value in found.items() if path in measured},
                )
                for run, found in zip(runs, leaves, strict=True)
            ]
        )
    except UserError as error:
        return SeedGroup(tuple(runs), None, str(error))
    return SeedGroup(tuple(runs), _only_spreads(runs[0].evaluation, (), summary.values), None)


def _require_same_conditions(runs: Sequence[RunContents], leaves: Sequence[dict[tuple[str | int, ...], float]]) -> None:
    """UserError: measures on different numbers of sequences or samples, or after different numbers of iterations
    although these are what the budget counts; they have no mean.
    """
    in_minutes = flat(runs[0].config).get("budget.minutes") is not None
    conditions = _SIZES if in_minutes else (*_SIZES, _ITERATION)
    for run, found in zip(runs, leaves, strict=True):
        for path, value in found.items():
            if path[-1] in conditions and value != leaves[0].get(path, value):
                name, first = ".".join(map(str, path)), leaves[0][path]
                what = f"at the same {_ITERATION}" if path[-1] == _ITERATION else f"on as many {path[-1]}"
                raise UserError(
                    f"results: expected measures {what} of every seed, found {name} = {first} of seed "
                    f"{runs[0].config['seed']} and {value} of seed {run.config['seed']}"
                )


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], float]]:
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(child, (*path, key))
    elif isinstance(value, float) or (type(value) is int and abs(value) < _LARGEST_INTEGER):
        yield path, value


def _only_spreads(value: Any, path: tuple[str | int, ...], spreads: dict[str, Spread]) -> Any:
    """`value` with its numbers replaced by their spreads and all else taken away; None where nothing is left."""
    if isinstance(value, dict):
        kept = {key: _only_spreads(child, (*path, key), spreads) for key, child in value.items()}
        return {key: child for key, child in kept.items() if child is not None} or None
    if isinstance(value, list):
        found = [_only_spreads(child, (*path, i), spreads) for i, child in enumerate(value)]
        return [child for child in found if child is not None] or None
    return spreads.get(json.dumps(path))

"""The table as Markdown."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ffrl.table.measures import ACCURACY, BOUND, ITERATIONS, OVER_PIXELS, RATIO, SECONDS, value_name

_DECIMALS = {BOUND: 1, ITERATIONS: 0, SECONDS: 0}
_SCORES = ("DCI disentanglement", "DCI completeness", "DCI informativeness", "MIG", "SAP", "FactorVAE")
NONE = "–"
BAR = r"\|"
"""How a bar is written within a cell."""

System = Mapping[str, Any]


def as_markdown(table: Mapping[str, Any]) -> str:
    """Of `results.as_json`: the errors relative to standing still, those of each transformation with all references,
    the other measures, and above how they were made.
    """
    measured = {name: system for name, system in table["systems"].items() if system["seeds"]}
    if not measured:
        return "Nothing is measured yet.\n"
    lines = [_made_by(table, measured), "", *_ratios(table, measured)]
    for transformation in table["transformations"]:
        lines += ["", *_errors(transformation, table["steps"], measured)]
    lines += ["", *_others(measured)]
    if table["failed"]:
        lines += ["", "Failed:", "", *(f"- {name}: {reason}" for name, reason in table["failed"].items())]
    return "\n".join([*lines, ""])


def _made_by(table: Mapping[str, Any], measured: Mapping[str, System]) -> str:
    seeds = {seed for system in measured.values() for seed in system["seeds"]}
    spread = "one seed, no spread is known" if len(seeds) == 1 else f"mean ± standard deviation of {len(seeds)} seeds"
    budget = table["budget"]
    clock = "processor" if budget["processor_time"] else "wall-clock"
    amount = (
        f"{budget['minutes']:g} minutes of {clock} time"
        if budget["minutes"]
        else f"{budget['iterations']:,} iterations"
    )
    run = next(iter(next(iter(measured.values()))["runs"].values()))
    return (
        f"{table['processor']}, one thread, {amount} of training a run; torch {run['versions']['torch']}; "
        f"{table['data']}, preset {table['preset']}, up to {table['sequences']:,} held-out sequences of each "
        f"transformation; {spread}."
    )


def _ratios(table: Mapping[str, Any], measured: Mapping[str, System]) -> Iterable[str]:
    transformations = table["transformations"]
    names = [value_name(transformation, "ratio") for transformation in transformations]
    yield from _heading("system", "told in training", "sees to predict", *transformations, "mean", "best / pixels")
    for name, system in _in_order(measured):
        # The codes that a fitted transition starts from are those of x_0; its coefficients are those of k.
        sees = system["sees"] or "x_0 and k (fitted)"
        cells = [_cell(system, value) for value in (*names, RATIO, OVER_PIXELS)]
        yield _line(name, system["supervision"], sees, *cells)


def _errors(transformation: str, steps: int, measured: Mapping[str, System]) -> Iterable[str]:
    def spread(system: System, quantity: str) -> str:
        return _cell(system, value_name(transformation, quantity), 0)

    one = next(iter(measured.values()))
    yield (
        f"**{transformation}**, L1 error of t = 1…{steps}: pixel identity {spread(one, 'pixel_identity')}, "
        f"black image {spread(one, 'black')}."
    )
    yield ""
    columns = ("error", "own", "constant", "affine", "standing_still", "reconstruction")
    yield from _heading(
        "system", "error", "own transition", "constant step", "affine map", "decode(z_0)", "decode(code of x_t)",
        "counts",
    )  # fmt: skip
    for name, system in _in_order(measured):
        counted = Counter(run["errors"][transformation]["counted"] for run in system["runs"].values())
        which = ", ".join(counted) if len(counted) == 1 else ", ".join(f"{n} {c}" for n, c in counted.items())
        yield _line(name, *(spread(system, column) for column in columns), which)


def _others(measured: Mapping[str, System]) -> Iterable[str]:
    bound = next(iter(next(iter(measured.values()))["runs"].values()))["bound"]
    yield (
        f"The joint bound of log p(x_0…x_{bound['frames'] - 1} | k) a frame, {bound['likelihood']}, "
        f"{bound['samples']} samples, {bound['sequences']} sequences, of which no model "
        f"exceeds {bound['cap_per_frame']:.1f}."
    )
    yield ""
    known = {value for system in measured.values() for value in system["values"]}
    columns = [value for value in (BOUND, *_SCORES, ACCURACY, ITERATIONS, SECONDS) if value in known]
    yield from _heading("system", *columns, "parameters")
    for name, system in _in_order(measured):
        yield _line(name, *(_cell(system, column) for column in columns), f"{system['parameters']:,}")


def _in_order(measured: Mapping[str, System]) -> Iterable[tuple[str, System]]:
    """The name of each system, with its seeds where they are not those of all together."""
    every = {seed for system in measured.values() for seed in system["seeds"]}
    for name, system in measured.items():
        seeds = system["seeds"]
        short = "" if set(seeds) == every else f" (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"
        yield f"{name}{short}", system


def _cell(system: System, value: str, decimals: int | None = None) -> str:
    spread = system["values"].get(value)
    if spread is None:
        return NONE
    digits = _DECIMALS.get(value, 3) if decimals is None else decimals
    mean, sd = (None if x is None else f"{x:,.{digits}f}" for x in (spread["mean"], spread["sd"]))
    # What is the same for every seed, like the references without a model, has no spread to show.
    return str(mean) if not spread["sd"] else f"{mean} ± {sd}"


def _heading(*columns: str) -> Sequence[str]:
    return [_line(*columns), "|---" * len(columns) + "|"]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"

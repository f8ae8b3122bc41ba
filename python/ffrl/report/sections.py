"""The sections of the page, each from the runs."""

from collections.abc import Sequence
from typing import Any

from ffrl.report.chart import Series, line_chart, swatch
from ffrl.report.comparison import seed_groups
from ffrl.report.configuration import ABSENT
from ffrl.report.contents import Picture, RunContents
from ffrl.report.log_file import Log
from ffrl.report.markup import Markup, element, joined
from ffrl.report.measures import evaluation
from ffrl.report.numerals import in_words, number
from ffrl.report.tables import nested, table
from ffrl.run import EVALUATION_NAME

Runs = Sequence[RunContents]

_UNITS = {
    "seconds": "s",
    "reconstruction": "nats",
    "kl": "nats",
    "flow_kl": "nats",
    "k_kl": "nats",
    "balance": "nats",
    "loss": "nats and penalties",
    "hj": "mean squared residual",
    "initial": "mean ‖∇u(z₀, 0)‖²",
    "wave": "mean squared residual",
    "transition": "nats, a pair",
    "total_correlation": "nats",
    "discrimination": "nats",
    "scale_kl": "nats",
    "learning_rate": "per step",
}
_X = "iteration"


def overview(runs: Runs) -> Markup:
    """One line for each run: how far it is, its last loss, its headline measures, and what it lacks."""
    columns: dict[str, list[Any]] = {
        "seed": [run.config.get("seed", ABSENT) for run in runs],
        "iterations": [_iterations(run) for run in runs],
        "budget": [_budget(run) for run in runs],
        "minutes": [None if (seconds := _last(run, "seconds")) is None else seconds / 60 for run in runs],
        "last loss": [_last(run, "loss") for run in runs],
        "mean ratio": [_measure(run, "mean_ratio") for run in runs],
        "accuracy of q(k|x)": [_measure(run, "inferred_k", "accuracy") for run in runs],
        "missing": [element("span", ", ".join(part for part, _ in missing(run)) or "nothing") for run in runs],
    }
    kept = {title: cells for title, cells in columns.items() if any(cell is not None for cell in cells)}
    rows = [(run.name, [cells[i] for cells in kept.values()]) for i, run in enumerate(runs)]
    return table(["run", *kept], rows)


def missing(run: RunContents) -> list[tuple[str, str]]:
    """The parts that a run lacks, and what makes them."""
    parts = (
        ("log.csv", "ffrl train writes it", run.log),
        (EVALUATION_NAME, "ffrl evaluate writes it", run.evaluation),
        ("traversal", "ffrl traverse draws it", run.traversal),
        ("experiments", "no folder below experiments", run.experiments),
    )
    return [(name, remedy) for name, remedy, found in parts if found is None or found == ()]


def curves(runs: Runs) -> Markup:
    """A chart for each column of log.csv that changes, and a table of the last rows, which has every column."""
    logs = [(place, run, run.log) for place, run in enumerate(runs) if run.log is not None]
    parts: list[Markup] = []
    for run in runs:
        if run.log is None:
            parts.append(_lacks(run, "log.csv"))
        elif run.log.rows == 0:
            parts.append(element("p", f"{run.name}: log.csv has no row yet.", class_="missing"))
        elif run.log.cut:
            parts.append(
                element("p", f"{run.name}: the last row of log.csv, half written, is left out.", class_="note")
            )
    logs = [(place, run, log) for place, run, log in logs if log.rows]
    if not logs:
        return joined(*parts)
    if len(logs) > 1:
        signs = (element("li", swatch(place), run.name) for place, run, _ in logs)
        parts.append(element("ul", *signs, class_="legend"))
    columns = list(dict.fromkeys(name for _, _, log in logs for name in log.columns))
    level = [name for name in columns if len({y for _, _, log in logs for y in log.columns.get(name, ())}) == 1]
    figures = [_curve(name, logs) for name in columns if name != _X and name not in level]
    parts.append(element("div", *figures, class_="charts"))
    if said := ", ".join(f"{name} = {_level_value(name, logs)}" for name in level if name != _X):
        parts.append(element("p", f"Not drawn, one value throughout: {said}.", class_="note"))
    parts.append(element("h3", "Last row of each log"))
    rows = [
        (run.name, [_iterations(run) if name == _X else log.last(name) for name in columns]) for _, run, log in logs
    ]
    parts.append(table(["run", *columns], rows))
    return joined(*parts)


def evaluations(runs: Runs) -> Markup:
    """Means over seeds where there are several, then the measures of each run."""
    parts: list[Markup] = []
    explained = False
    for group in seed_groups(runs):
        seeds = ", ".join(str(run.config["seed"]) for run in group.runs)
        parts.append(element("h3", f"Mean ± sd over {len(group.runs)} runs that differ only by their seed ({seeds})"))
        if group.spreads is None:
            parts.append(element("p", f"No mean: {group.problem}.", class_="missing"))
        else:
            parts.append(element("p", f"{', '.join(run.name for run in group.runs)}. {_SPREAD}", class_="note"))
            parts.append(evaluation(group.spreads, {}, not explained))
            explained = True
    for run in runs:
        parts.append(element("h3", run.name))
        if run.evaluation is None:
            parts.append(_lacks(run, EVALUATION_NAME))
        else:
            parts.append(evaluation(run.evaluation, run.config, not explained))
            explained = True
    return joined(*parts)


def traversals(runs: Runs) -> Markup:
    """The strips and animations of each run, those of one name together."""
    parts: list[Markup] = []
    for run in runs:
        parts.append(element("h3", run.name))
        parts.append(pictures(run.name, run.traversal) if run.traversal else _lacks(run, "traversal"))
    return joined(*parts)


def experiments(runs: Runs) -> Markup:
    """Each folder below experiments: its results, its pictures, the names of its other files."""
    parts: list[Markup] = []
    for run in runs:
        parts.append(element("h3", run.name))
        if not run.experiments:
            parts.append(_lacks(run, "experiments"))
        for one in run.experiments:
            body: list[Markup] = [element("h4", one.name)]
            for name, value in one.results.items():
                body.append(element("p", element("code", name), class_="file"))
                body.append(nested(value))
            if one.pictures:
                body.append(pictures(f"{run.name}, {one.name}", one.pictures))
            if not one.results and not one.pictures:
                body.append(element("p", "No JSON, PNG or GIF in this folder.", class_="missing"))
            if one.others:
                body.append(element("p", f"Also in the folder, not shown: {', '.join(one.others)}.", class_="note"))
            parts.append(element("section", *body, class_="experiment"))
    return joined(*parts)


def pictures(owner: str, found: Sequence[Picture]) -> Markup:
    """Figures side by side; pictures that differ only by their ending share one."""
    by_stem: dict[str, list[Picture]] = {}
    for picture in found:
        by_stem.setdefault(picture.name.rpartition(".")[0], []).append(picture)
    figures = []
    for stem, several in by_stem.items():
        # The animation above the strip.
        ordered = sorted(several, key=lambda picture: picture.name.lower().endswith(".png"))
        images = (
            element(
                "img", src=one.uri, width=one.width, height=one.height, alt=f"{owner}: {one.name}",
                class_="moving" if one is not ordered[-1] else None,
            )
            for one in ordered
        )  # fmt: skip
        names = ", ".join(one.name for one in ordered)
        caption = element("figcaption", element("strong", stem), element("span", f" {names}", class_="unit"))
        figures.append(element("figure", caption, *images, tabindex=0))
    return element("div", *figures, class_="pictures")


_SPREAD = "sd: sample standard deviation (n − 1)."


def _lacks(run: RunContents, part: str) -> Markup:
    remedy = dict(missing(run))[part]
    return element("p", f"{run.name}: {part} is missing ({remedy}).", class_="missing")


def _last(run: RunContents, name: str) -> float | None:
    return run.log.last(name) if run.log else None


def _iterations(run: RunContents) -> float | None:
    value = _last(run, _X)
    return int(value) if value is not None and value.is_integer() else value


def _budget(run: RunContents) -> str | None:
    budget = run.config.get("budget")
    if not isinstance(budget, dict):
        return None
    # A name of a flag is said where it is set.
    said = (
        name.replace("_", " ") if value is True else f"{in_words(value)} {name}"
        for name, value in budget.items()
        if value is not None and value is not False
    )
    return ", ".join(said) or None


def _measure(run: RunContents, *path: str) -> Any:
    value: Any = run.evaluation
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, int | float) else None


def _level_value(name: str, logs: Sequence[tuple[int, RunContents, Log]]) -> str:
    return next(number(value) for _, _, log in logs for value in log.columns.get(name, ()))


def _curve(name: str, logs: Sequence[tuple[int, RunContents, Log]]) -> Markup:
    series = []
    for place, run, log in logs:
        if name in log.columns:
            x = log.columns.get(_X, tuple(float(i) for i in range(1, log.rows + 1)))
            series.append(Series(run.name, place, x, log.columns[name]))
    return line_chart(name, _UNITS.get(name, ""), series, _X)

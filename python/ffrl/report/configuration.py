"""How the runs were set up: what they share, and marked, where they differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from ffrl.report.comparison import flat, same
from ffrl.report.contents import RunContents
from ffrl.report.markup import Markup, element, joined
from ffrl.report.measures import as_written, settings
from ffrl.report.tables import table

ABSENT = element("span", "missing", class_="missing")
"""Stands where a run has no value."""

_PROVENANCE = ("seed", "data", "data_checksum", "versions")
_NO_SETTINGS = ("data_checksum", "versions")


def configuration(runs: Sequence[RunContents]) -> Markup:
    """The settings in which the runs differ, then those that they share."""
    return _compared(
        runs, [flat({name: value for name, value in run.config.items() if name not in _NO_SETTINGS}) for run in runs]
    )


def provenance(runs: Sequence[RunContents]) -> Markup:
    """Seed, data, its checksum and the versions of each run; those that a run does not say are named."""
    return _compared(runs, [flat({name: run.config.get(name, ABSENT) for name in _PROVENANCE}) for run in runs])


def _compared(runs: Sequence[RunContents], found: Sequence[Mapping[str, Any]]) -> Markup:
    names = dict.fromkeys(name for values in found for name in values)
    differing = [
        name
        for name in names
        # A setting that is absent is not one that is null.
        if any(name not in values or not same(values[name], found[0].get(name)) for values in found)
    ]
    shared = _grouped({name: found[0][name] for name in names if name not in differing})
    if len(runs) == 1:
        return shared
    parts: list[Markup] = [element("h3", "Differences between the runs")]
    if differing:
        rows = ((name, [_cell(values, name) for values in found]) for name in differing)
        parts.append(element("div", table(["", *(run.name for run in runs)], rows), class_="differences"))
    else:
        parts.append(element("p", "None."))
    return joined(*parts, element("h3", "The same in all runs"), shared)


def _cell(values: Mapping[str, Any], name: str) -> Markup:
    return as_written(values[name]) if name in values else ABSENT


def _grouped(values: Mapping[str, Any]) -> Markup:
    """Settings by the name before their dot, those without one first."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        head, dot, tail = name.partition(".")
        groups.setdefault(head if dot else "", {})[tail if dot else name] = value
    ordered = sorted(groups.items(), key=lambda group: group[0] != "")
    return joined(
        *(
            element("section", *([element("h4", head)] if head else []), settings(group), class_="group")
            for head, group in ordered
        )
    )

"""Any JSON value as tables, nothing left out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffrl.metrics.summary import Spread
from ffrl.report.markup import Markup, element
from ffrl.report.numerals import decimals_of_column, number


@dataclass(frozen=True)
class Strong:
    """A scalar that stands out in its column."""

    value: Any


def table(
    head: Sequence[str],
    rows: Iterable[tuple[str, Sequence[Any]]],
    foot: tuple[str, Sequence[Any]] | None = None,
) -> Markup:
    """A table of scalars (or markup), each column with as many decimals as its numbers ask for.

    head: titles, the first of the column of row names. rows: name and cells. foot: a last row, set apart.
    """
    body = list(rows)
    whole = [cells for _, cells in [*body, *([foot] if foot else [])]]
    columns = list(zip(*whole, strict=True))
    decimals = [_decimals(column) for column in columns]
    numeric = [any(_is_number(value) for value in column) for column in columns]

    def line(name: str, cells: Sequence[Any]) -> Markup:
        written = [
            element("td", scalar(value, places), class_="number" if right else None)
            for value, places, right in zip(cells, decimals, numeric, strict=True)
        ]
        return element("tr", element("th", name, scope="row"), *written)

    # A table without rows has no columns that could tell.
    aligned = numeric or [False] * len(head[1:])
    titles = [
        element("th", title, scope="col", class_="number" if right else None)
        for title, right in zip(head[1:], aligned, strict=True)
    ]
    titles.insert(0, element("th", head[0], scope="col"))
    parts = [element("thead", element("tr", *titles)), element("tbody", *(line(*row) for row in body))]
    if foot:
        parts.append(element("tfoot", line(*foot)))
    return element("div", element("table", *parts), class_="scroll", tabindex=0)


def scalar(value: Any, decimals: int | None = None) -> Markup:
    """A value without parts. A number that is rounded carries its full value, which a pointer shows."""
    match value:
        case Markup():
            return value
        case None:
            return element("span", "–", class_="none")
        case bool():
            return element("span", "yes" if value else "no")
        case int():
            return element("data", number(value), value=value)
        case float():
            return element("data", number(value, decimals), value=repr(value), title=repr(value))
        case Strong(value=inner):
            return element("strong", scalar(inner, decimals))
        case Spread(mean=mean, sd=sd):
            spread = "" if sd is None else f" ± {number(sd, decimals)}"
            return element("data", number(mean, decimals) + spread, value=repr(mean), title=f"{mean!r} ± {sd!r}")
        case _:
            return element("span", str(value))


def nested(value: Any) -> Markup:
    """Any value: rows of like parts become a table, other parts a list of names and values."""
    if isinstance(value, dict):
        if not value:
            return element("span", "empty", class_="none")
        if alike := _like_rows(list(value.values())):
            return table(["", *alike], ((name, [row[key] for key in alike]) for name, row in value.items()))
        if lists := _like_lists(list(value.values())):
            return table(["", *map(str, range(lists))], value.items())
        return named(value)
    if isinstance(value, list):
        if not value:
            return element("span", "empty", class_="none")
        if all(is_scalar(child) for child in value):
            return sequence(value)
        if alike := _like_rows(value):
            return table(["", *alike], ((str(i), [row[key] for key in alike]) for i, row in enumerate(value)))
        if lists := _like_lists(value):
            return table(["", *map(str, range(lists))], ((str(i), row) for i, row in enumerate(value)))
        return named({str(i): child for i, child in enumerate(value)})
    return scalar(value)


def named(values: Mapping[str, Any]) -> Markup:
    """Names and values in two columns; a value with parts is a table inside."""
    rows = (
        element("tr", element("th", name, scope="row"), element("td", nested(value))) for name, value in values.items()
    )
    return element("div", element("table", element("tbody", *rows), class_="named"), class_="scroll", tabindex=0)


def sequence(values: Sequence[Any]) -> Markup:
    """Scalars one after another."""
    children: list[str] = []
    for value in values:
        children += [", ", scalar(value)]
    return element("span", *children[1:])


def is_scalar(value: Any) -> bool:
    """A value without parts."""
    return not isinstance(value, dict | list)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Spread | Strong) and not isinstance(value, bool)


def _decimals(column: Sequence[Any]) -> int | None:
    numbers = [value for value in column if isinstance(value, float)]
    numbers += [part for value in column if isinstance(value, Spread) for part in (value.mean, value.sd) if part]
    return decimals_of_column(numbers)


def _like_rows(values: Sequence[Any]) -> list[str]:
    """The names that all of these are dictionaries of scalars with; none if they are not."""
    first = values[0]
    if not isinstance(first, dict) or not first:
        return []
    alike = all(
        isinstance(value, dict) and value.keys() == first.keys() and all(map(is_scalar, value.values()))
        for value in values
    )
    return list(first) if alike else []


def _like_lists(values: Sequence[Any]) -> int:
    """The length that all of these are lists of scalars of; 0 if they are not, or are too long for a table."""
    first = values[0]
    if len(values) < 2 or not isinstance(first, list) or not 0 < len(first) <= 16:
        return 0
    alike = all(isinstance(value, list) and len(value) == len(first) and all(map(is_scalar, value)) for value in values)
    return len(first) if alike else 0

"""The tables of an evaluation.json: parts that ffrl knows with titles and headings, all others as they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffrl.report.comparison import flat, same
from ffrl.report.markup import Markup, element
from ffrl.report.tables import Strong, is_scalar, nested, table


@dataclass(frozen=True)
class _Rows:
    """A part that holds a row of numbers for each transformation. headings: by name, in the order of the table."""

    title: str
    caption: str
    headings: Mapping[str, str]


_EQUIVARIANCE = "equivariance_error"
_MEAN_RATIO = "mean_ratio"
_INFERRED = "inferred_k"

_KNOWN = {
    _EQUIVARIANCE: _Rows(
        "Equivariance error",
        "Σ ‖x_t − y_t‖₁ over the steps t ≥ 1, summed over pixels and channels, mean over held-out sequences. y_t is "
        "what the flow draws from the encoding of x_0 alone; beside it the references: the image that stands still, "
        "x_0 itself, a black image, and the reconstruction of x_t. Ratio: 0 is perfect, 1 is a flow that does nothing.",
        {
            "flow": "flow",
            "ratio": "ratio: flow / standing still",
            "standing_still": "standing still",
            "pixel_identity": "pixel identity",
            "black": "black image",
            "reconstruction": "reconstruction",
        },
    ),
    "volume_change": _Rows(
        "Volume change along the flow",
        "Nats, summed over the steps, means over held-out sequences. Folding: share of the Euler steps whose I + Δ∇²u "
        "has an eigenvalue that is not positive, so that they are not invertible.",
        {
            "exact": "log|det(I + Δ∇²u)|, exact",
            "row_sum": "by row sums",
            "row_sum_error": "mean |row sums − exact|",
            "folding": "folding",
            "smallest": "smallest eigenvalue",
        },
    ),
}


def evaluation(values: Mapping[str, Any], config: Mapping[str, Any], explained: bool) -> Markup:
    """All of an evaluation.json, or of the spreads over several.

    config: of the run; what the evaluation repeats of it is named only. explained: with captions.
    """
    parts: list[Markup] = []
    repeated = [key for key, value in values.items() if key in config and same(config[key], value)]
    rest = {key: value for key, value in values.items() if key not in repeated}
    names = list(rest[_EQUIVARIANCE]) if isinstance(rest.get(_EQUIVARIANCE), dict) else []
    for key, known in _KNOWN.items():
        if _is_of_rows(rest.get(key)):
            mean = rest.pop(_MEAN_RATIO, None) if key == _EQUIVARIANCE else None
            parts.append(_rows(known, rest.pop(key), mean, explained))
    if isinstance(rest.get(_INFERRED), dict):
        parts.append(
            _part(
                "Inferred k",
                _inferred(rest.pop(_INFERRED), names, rest.get("potentials")),
                _INFERRED_CAPTION if explained else "",
            )
        )
    elif _INFERRED in rest and rest[_INFERRED] is None:
        del rest[_INFERRED]
        parts.append(_part("Inferred k", element("p", "None: k was given in training.", class_="note"), ""))
    short = {key: value for key, value in rest.items() if is_scalar(value) or _is_short(value)}
    parts += [_part(key, nested(value), "") for key, value in rest.items() if key not in short]
    if short or repeated:
        also = f"As in config.json: {', '.join(repeated)}." if repeated else ""
        parts.append(_part("Made from", settings(short) if short else Markup(), also))
    return element("div", *parts, class_="parts")


def settings(values: Mapping[str, Any], exact: bool = True) -> Markup:
    """Names and short values in as many columns as fit the page.

    exact: numbers as they were written, 0.5 and 0.002, not rounded to so many digits.
    """
    entries = (
        element("div", element("dt", name), element("dd", as_written(value) if exact else nested(value)))
        for name, value in flat(dict(values)).items()
    )
    return element("dl", *entries, class_="settings")


def as_written(value: Any) -> Markup:
    """A setting: its numbers not rounded."""
    return element("span", str(value)) if type(value) in (int, float) else nested(value)


def _part(title: str, body: Markup, caption: str) -> Markup:
    note = [element("p", caption, class_="note")] if caption else []
    return element("section", element("h4", title), body, *note, class_="part")


def _is_of_rows(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(row, dict) and all(map(is_scalar, row.values())) for row in value.values())
    )


def _is_short(value: Any) -> bool:
    """Whether a value may stand among the settings: names with scalars, or a few scalars."""
    children = list(value.values()) if isinstance(value, dict) else value
    return len(children) <= 12 and all(map(is_scalar, children))


def _rows(known: _Rows, rows: Mapping[str, Mapping[str, Any]], mean: Any, explained: bool) -> Markup:
    found = dict.fromkeys(key for row in rows.values() for key in row)
    keys = [key for key in known.headings if key in found] + [key for key in found if key not in known.headings]
    foot = None
    if mean is not None:
        if "ratio" not in keys:
            keys.append("ratio")
        foot = ("mean", [mean if key == "ratio" else Markup() for key in keys])
    body = table(
        ["", *(known.headings.get(key, key) for key in keys)],
        ((name, [row.get(key) for key in keys]) for name, row in rows.items()),
        foot,
    )
    return _part(known.title, body, known.caption if explained else "")


_INFERRED_CAPTION = (
    "Accuracy of arg max q(k|x) after the best one-to-one matching of clusters to transformations; collapsed: what one "
    "cluster for all would score. Rows: the potential that q(k|x) "
    "chooses; columns: the true transformation; counts."
)


def _inferred(values: Mapping[str, Any], names: Sequence[str], potentials: Any) -> Markup:
    """The confusion with its matching, if they have the form that ffrl writes; whatever else stands beside them."""
    confusion, label_of = values.get("confusion"), values.get("label_of")
    if not _is_confusion(confusion, label_of, len(names)):
        return nested(dict(values))
    assert isinstance(confusion, list) and isinstance(label_of, list)
    # ffrl evaluate writes the clusters in the order of the transformations that their potentials stand for.
    clusters = potentials if isinstance(potentials, list) and len(potentials) == len(confusion) else range(len(names))
    rows = (
        (
            f"{cluster}, matched to {'none' if label is None else names[label]}",
            [Strong(count) if i == label else count for i, count in enumerate(counts)],
        )
        for cluster, label, counts in zip(clusters, label_of, confusion, strict=True)
    )
    rest = {key: value for key, value in values.items() if key not in ("confusion", "label_of")}
    return element("div", settings(rest, exact=False), table(["potential", *names], rows))


def _is_confusion(confusion: Any, label_of: Any, count: int) -> bool:
    return (
        isinstance(confusion, list)
        and isinstance(label_of, list)
        and len(confusion) == len(label_of) > 0
        and all(isinstance(row, list) and len(row) == count and all(map(is_scalar, row)) for row in confusion)
        and all(label is None or (type(label) is int and 0 <= label < count) for label in label_of)
    )

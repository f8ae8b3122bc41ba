"""The table as a picture: the equivariance errors of all systems, transformation by transformation."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from ffrl.drawing import Dot, dot_plot
from ffrl.table.measures import value_name

_REFERENCES = {
    "reconstruction": "decode(code of x_t)",
    "pixel_identity": "pixel identity",
    "black": "black image",
}


def chart(table: Mapping[str, Any]) -> Image.Image | None:
    """Of `results.as_json`; None: nothing is measured yet. Error and references are shown over decode(z_0)."""
    measured = {name: system for name, system in table["systems"].items() if system["seeds"]}
    if not measured:
        return None
    panels = {
        transformation: {name: _dot(system["values"], transformation) for name, system in measured.items()}
        for transformation in table["transformations"]
    }
    seeds = max(len(system["seeds"]) for system in measured.values())
    spread = f", mean and standard deviation of {seeds} seeds" if seeds > 1 else ", one seed"
    return dot_plot(
        panels,
        f"{table['data']}: equivariance error of t = 1 ... {table['steps']}{spread}",
        "error",
        "error / decode(z_0): 0 is perfect, 1 does nothing",
        line=1.0,
    )


def _dot(values: Mapping[str, Mapping[str, float]], transformation: str) -> Dot:
    def mean(quantity: str) -> float:
        return values[value_name(transformation, quantity)]["mean"]

    ratio = values[value_name(transformation, "ratio")]
    still = mean("standing_still")
    return Dot(ratio["mean"], ratio["sd"], {shown: mean(name) / still for name, shown in _REFERENCES.items()})

"""The variants that the study compares: which flow, how many Euler steps a step, and where sequences start."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from ffrl.data import Dataset, FactorDataset
from ffrl.errors import UserError
from ffrl.presets import Preset, find_preset

BASE = "quickstart"
"""The preset that the variants change."""

FLOWS: dict[str, tuple[str, ...]] = {
    "clocked": ("time_embedding=sinusoidal", "initial_weight=200", "collocation_points=1"),
    "random-clock": ("time_embedding=sinusoidal", "random_clock=true", "collocation_points=1"),
    "separable": ("time_embedding=separable",),
    "autonomous": ("time_embedding=none", "hj_weight=0"),
    "velocity": ("flow=velocity",),
}
"""The flows by name, and what makes each of the quickstart preset."""

SUBSTEPS = (1, 4)

STARTS: dict[str, tuple[str, ...]] = {"x0": ("random_start=0",), "random": ("random_start=0.5",)}
"""Where training sequences of digits start: in x_0, or half of the time in a random state of each other factor."""


@dataclass(frozen=True)
class Variant:
    """flow: of FLOWS. substeps: of SUBSTEPS. start: of STARTS; None where the data decide it."""

    flow: str
    substeps: int
    start: str | None

    @property
    def name(self) -> str:
        """The folder of its runs, e.g. "separable-4-random"."""
        return "-".join([self.flow, str(self.substeps), *([self.start] if self.start else [])])

    @property
    def settings(self) -> list[str]:
        """What differs from the quickstart preset, as `ffrl train --set` takes it."""
        return [*FLOWS[self.flow], f"substeps={self.substeps}", *(STARTS[self.start] if self.start else ())]

    @property
    def preset(self) -> Preset:
        """The whole preset."""
        return find_preset(BASE).override(self.settings)


def all_variants(data: Dataset) -> list[Variant]:
    """Those that differ on these data. UserError: the quickstart preset does not fit them.

    Sequences of images by factors always start in a random state of the other factors: there is one start for them.
    """
    starts: Sequence[str | None] = (None,) if isinstance(data, FactorDataset) else tuple(STARTS)
    variants = [Variant(flow, substeps, start) for flow, substeps, start in product(FLOWS, SUBSTEPS, starts)]
    for variant in variants:
        variant.preset.require_fit(data)
    return variants


def chosen(variants: Sequence[Variant], only: str | None) -> list[Variant]:
    """Those whose name, or whose flow's name, stands in "NAME,NAME"; all of them for None. UserError: unknown names."""
    if only is None:
        return list(variants)
    asked = only.split(",")
    known = {variant.name for variant in variants} | set(FLOWS)
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise UserError(
            f"--only: expected flows ({', '.join(FLOWS)}) or variants ({variants[0].name}, …), found {unknown}"
        )
    return [variant for variant in variants if variant.name in asked or variant.flow in asked]

"""The rows of the table: the compared systems, each as a few settings on the preset of the data."""

from dataclasses import dataclass

from ffrl.errors import UserError
from ffrl.presets import Preset, find_preset


@dataclass(frozen=True)
class Row:
    """name: of the folder of its runs. settings: what differs from the base preset, as `ffrl train --set` takes it."""

    name: str
    settings: tuple[str, ...]

    def preset(self, base: str) -> Preset:
        """On the preset `base`."""
        return find_preset(base).override(list(self.settings))


ROWS = (
    Row("vae", ("system=vae",)),
    Row("beta-vae", ("system=vae", "beta=4")),
    Row("factor-vae", ("system=factor_vae", "discriminator_width=256", "discriminator_learning_rate=0.001")),
    Row("slow-vae", ("system=slow_vae",)),
    Row("tvae", ("system=topographic_vae",)),
    Row("poflow", ("system=potential_traversal", "wave_weight=100")),
    Row("ffrl", ()),
    Row("ffrl-weak", ("supervision=weak",)),
)
"""All of them, in the order of the table."""

_BASES = {"sprites": "sprites", "dsprites": "sprites", "digits": "quickstart", "digits-validation": "quickstart"}
_BASES |= {"mnist": "quickstart"} | dict.fromkeys(("shapes", "shapes3d", "falcor3d", "isaac3d"), "shapes")


def base_of(data: str) -> str:
    """The preset that all rows share on the data set of this name, of `ffrl.data.DATASETS`."""
    return _BASES[data]


def chosen(models: str | None) -> list[Row]:
    """Those that "NAME,NAME" names, in the order of the table; all of them for None. UserError: unknown names."""
    if models is None:
        return list(ROWS)
    asked = models.split(",")
    names = [row.name for row in ROWS]
    unknown = [name for name in asked if name not in names]
    if unknown:
        raise UserError(f"--models: expected some of {','.join(names)}, found {','.join(unknown) or 'none'}")
    return [row for row in ROWS if row.name in asked]

"""The disentanglement scores of a model's encoder on a data set of images by factors."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from ffrl.data import Dataset, FactorDataset
from ffrl.data.factor_dataset import to_unit
from ffrl.errors import UserError
from ffrl.metrics.disentanglement import DCI, MIG, SAP, FactorVAEScore, dci, factor_vae_score, mig, sampler_of, sap
from ffrl.models import FlowModel

IMAGES = 10_000
IMAGES_AT_ONCE = 128
STATE_SEED = 20234
"""The images that are encoded are the same for every run."""


@dataclass(frozen=True)
class Disentanglement:
    """The scores of the codes of `images` random images; factors: those that were asked about, in order."""

    dci: DCI
    mig: MIG
    sap: SAP
    factor_vae: FactorVAEScore
    factors: tuple[str, ...]
    images: int

    def values(self) -> dict[str, float]:
        """The scores by name."""
        return {
            "DCI disentanglement": self.dci.disentanglement,
            "DCI completeness": self.dci.completeness,
            "DCI informativeness": self.dci.informativeness,
            "MIG": self.mig.score,
            "SAP": self.sap.score,
            "FactorVAE": self.factor_vae.score,
        }

    def as_json(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)

    def as_table(self) -> Table:
        """For the terminal."""
        guessing = {"DCI informativeness": self.dci.guessing, "FactorVAE": self.factor_vae.guessing}
        title = f"Disentanglement of the posterior means, {self.images} images"
        table = Table(title=title, title_justify="left")
        for heading in ("", "score", "guessing"):
            table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        for name, value in self.values().items():
            table.add_row(name, f"{value:.3f}", f"{guessing[name]:.3f}" if name in guessing else "")
        return table


def require_factors(data: Dataset) -> FactorDataset:
    """UserError unless `data` are images by factors."""
    if not isinstance(data, FactorDataset):
        raise UserError(f"--disentanglement: expected a data set of images by their factors, found {data.name}")
    return data


def require_two_dimensions(latent_dim: int) -> None:
    """UserError: codes of one dimension, of which no second best can be compared with the best."""
    if latent_dim < 2:
        raise UserError(f"--disentanglement: expected a latent_dim of at least 2, found {latent_dim}")


def disentanglement(model: FlowModel, data: FactorDataset, images: int = IMAGES) -> Disentanglement:
    """`scores_of_codes` of the posterior means."""
    return scores_of_codes(lambda x: model.autoencoder.encode(x).mean, data, images)


@torch.no_grad()
def scores_of_codes(encode: Callable[[Tensor], Tensor], data: FactorDataset, images: int = IMAGES) -> Disentanglement:
    """All scores, of the codes (B, D) that `encode` has for random images (B, C, H, W), each factor's different values
    equally likely; for SAP the values of a cyclic factor or one without order are categories. Factors of one value are
    left out.
    """
    factors = data.images.factors
    generator = torch.Generator().manual_seed(STATE_SEED)
    states = torch.stack([torch.randint(f.distinct, (images,), generator=generator) for f in factors], dim=1)
    columns = [column for column, factor in enumerate(factors) if factor.distinct > 1]
    chunks = (to_unit(data.images.images(part)) for part in torch.split(states, IMAGES_AT_ONCE))
    codes = torch.cat([encode(chunk) for chunk in chunks]).numpy()
    values = states[:, columns].numpy()
    categorical = [n for n, column in enumerate(columns) if factors[column].cyclic or not factors[column].ordered]
    return Disentanglement(
        dci=dci(codes, values),
        mig=mig(codes, values),
        sap=sap(codes, values, categorical=categorical),
        factor_vae=factor_vae_score(sampler_of(codes, values), len(columns)),
        factors=tuple(factors[column].name for column in columns),
        images=images,
    )

"""What the measures of flows ask of a model."""

from typing import Protocol

from torch import Tensor

from ffrl.models.autoencoder import Autoencoder


class LatentFlow(Protocol):
    """Images ↔ latents, and the motion of latents; `FlowModel` is one. autoencoder: images ↔ latents."""

    @property
    def autoencoder(self) -> Autoencoder: ...

    def flow(
        self,
        z0: Tensor,
        index: int | Tensor | None = None,
        *,
        gates: Tensor | None = None,
        steps: int | None = None,
        start: int = 0,
        substeps: int | None = None,
    ) -> Tensor:
        """z_0…z_steps, (steps + 1, B, D), from z0 (B, D); arguments and their defaults as of `FlowModel.flow`."""
        ...

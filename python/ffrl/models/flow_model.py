"""The latent-flow model: an autoencoder whose codes move along learned flows, one for each transformation."""

import torch
from torch import Tensor, nn

from ffrl.data.dataset import SequenceFormat
from ffrl.errors import UserError
from ffrl.models.choice import build_autoencoder
from ffrl.models.classifier import SequenceClassifier
from ffrl.models.path import FlowWithResidual
from ffrl.models.potential_flow import PotentialFlow
from ffrl.models.velocity_flow import VelocityFlow
from ffrl.presets import Preset
from ffrl_fast import PotentialBank

_FLOWS: dict[str, type[PotentialFlow] | type[VelocityFlow]] = {"potential": PotentialFlow, "velocity": VelocityFlow}


class FlowModel(nn.Module):
    """q(z_0|x_0), p(x_t|z_t) and z_t = z_{t−1} + ∇u^k(z_{t−1}, t), t = 1…T, or + v^k(z_{t−1}).

    Song, Keller, Sebe, Welling, NeurIPS 2023, arXiv 2309.13167; there the potentials are clocked, here any bank serves,
    and any velocity. With n `substeps` each step is made of n Euler steps of 1/n, at the times t, t + 1/n, …

    sequences: K, T and the shape of the images, as of `Dataset.format`.
    autoencoder: images ↔ latents. dynamics: what moves the codes, by the preset's `flow`. log_diffusion: log D_k of the
    prior flow, (K,), where the preset asks for densities and the diffusion prior, else None. prior_scale: the free
    σ_2…σ_T of the paper code's prior, (K, T − 1), where the preset asks for its KL, else None. classifier:
    q(k|x_0…x_T) of weak supervision, else None.
    """

    def __init__(self, preset: Preset, sequences: SequenceFormat) -> None:
        super().__init__()
        self.autoencoder = build_autoencoder(preset, sequences.image_shape)
        count = len(sequences)
        self.num_steps, self.substeps = sequences.num_steps, preset.substeps
        self.dynamics = _FLOWS[preset.flow](preset, count)
        weak = preset.supervision == "weak"
        self.classifier = SequenceClassifier(sequences, preset.classifier_width) if weak else None
        dense, paper_code = preset.density != "none", preset.convention == "paper_code"
        diffuses = dense and preset.prior == "diffusion" and not paper_code
        self.log_diffusion = nn.Parameter(torch.zeros(count)) if diffuses else None
        scales = torch.ones(count, sequences.num_steps - 1)
        self.prior_scale = nn.Parameter(scales) if dense and paper_code else None

    def flow(
        self,
        z0: Tensor,
        index: int | Tensor | None = None,
        *,
        gates: Tensor | None = None,
        steps: int | None = None,
        start: float = 0,
        substeps: int | None = None,
    ) -> Tensor:
        """Follow the flow of `index` (one k, or int64 (B,)) from z0 (B, D): z_0…z_steps, (steps + 1, B, D).

        gates: (B, K), instead of `index`: the flow of Σ_k g_k u^k, several at once where several are 1. steps: T when
        not given. start: what the clock shows at z0; the steps ask for the potentials at start + 1 … start + steps.
        substeps: those of the preset when not given.
        """
        number = self.substeps if substeps is None else substeps
        return self.dynamics.path(z0, self.times(z0, steps, start), substeps=number, index=index, gates=gates)

    def flow_with_residual(
        self,
        z0: Tensor,
        index: int | Tensor | None = None,
        *,
        gates: Tensor | None = None,
        steps: int | None = None,
        start: float = 0,
        generator: torch.Generator | None = None,
    ) -> FlowWithResidual:
        """As `flow`, with the residual of each Euler step where the preset asks for the equation and log|det| of each
        step where it asks for densities.

        generator: of the random directions of density "hutchinson".
        """
        return self.dynamics.path_with_residual(
            z0,
            self.times(z0, steps, start),
            substeps=self.substeps,
            index=index,
            gates=gates,
            generator=generator,
        )

    def volume_change(
        self, z0: Tensor, index: int | Tensor, *, steps: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`PotentialFlow.volume_change` of the flow from z0. UserError: of a velocity."""
        return self.potential_flow.volume_change(z0, self.times(z0, steps), substeps=self.substeps, index=index)

    @property
    def potential_flow(self) -> PotentialFlow:
        """The dynamics where they are those of potentials. UserError: they are a velocity."""
        if not isinstance(self.dynamics, PotentialFlow):
            raise UserError("flow: expected potential, found velocity, which is no gradient of one")
        return self.dynamics

    @property
    def potentials(self) -> PotentialBank:
        """The bank of u^k. UserError: a velocity has none."""
        return self.potential_flow.potentials

    @property
    def forces(self) -> PotentialBank | None:
        """The bank of F^k, None where no equation is asked for. UserError: a velocity has none."""
        return self.potential_flow.forces

    def times(self, z0: Tensor, steps: int | None = None, start: float = 0) -> Tensor:
        """start + 1 … start + steps, when the steps of the flow ask for the potential."""
        last = self.num_steps if steps is None else steps
        return start + torch.arange(1, last + 1, dtype=z0.dtype, device=z0.device)

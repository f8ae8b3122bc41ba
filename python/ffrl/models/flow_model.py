"""The latent-flow model: an autoencoder whose codes move along the gradients of learned potentials."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ffrl.data.dataset import SequenceFormat
from ffrl.models.autoencoder import Autoencoder, MLPAutoencoder
from ffrl.models.classifier import SequenceClassifier
from ffrl.models.convolutional import ConvAutoencoder, LargeConvAutoencoder
from ffrl.presets import Preset
from ffrl_fast import PotentialBank, integrate, log_det

# What a force must know of the time is what its potential knows of it: with u = S(z) − E·t the equation has no t left.
_FORCE_TIME_EMBEDDING: dict[str, Literal["none", "sinusoidal"]] = {
    "separable": "none",
    "none": "none",
    "sinusoidal": "sinusoidal",
}

# Which output of `integrate` a density comes from; "hutchinson" needs its random directions besides.
_DENSITY_OUTPUT = {"exact": "log_det", "row_sum": "row_sum"}


class FlowModel(nn.Module):
    """q(z_0|x_0), p(x_t|z_t) and z_t = z_{t−1} + ∇u^k(z_{t−1}, t), t = 1…T.

    Song, Keller, Sebe, Welling, NeurIPS 2023, arXiv 2309.13167; there the potentials are clocked, here any bank serves.
    With n `substeps` each step is made of n Euler steps of 1/n, at the times t, t + 1/n, …

    sequences: K, T and the shape of the images, as of `Dataset.format`.
    autoencoder: images ↔ latents. potentials: the bank of u^k, one for each transformation. forces: the bank of F^k,
    tanh-bounded, f^k = −(F^k)² in the Hamilton–Jacobi equation ∂_t u + ½‖∇u‖² = f. log_diffusion: log D_k of the prior
    flow, (K,), where the preset asks for densities and the diffusion prior, else None. prior_scale: the free σ_2…σ_T of
    the paper code's prior, (K, T − 1), where the preset asks for its KL, else None. classifier: q(k|x_0…x_T) of weak
    supervision, else None.
    """

    def __init__(self, preset: Preset, sequences: SequenceFormat) -> None:
        super().__init__()
        self.autoencoder = _autoencoder(preset, sequences.image_shape)
        count = len(sequences)
        self.num_steps, self.substeps = sequences.num_steps, preset.substeps
        self.potentials = PotentialBank(
            count,
            preset.latent_dim,
            width=preset.potential_width,
            depth=preset.potential_depth,
            out_activation=preset.potential_output,
            time_embedding=preset.time_embedding,
        )
        self.forces = PotentialBank(
            count,
            preset.latent_dim,
            width=preset.potential_width,
            depth=preset.potential_depth,
            out_activation="tanh",
            time_embedding=_FORCE_TIME_EMBEDDING[preset.time_embedding],
        )
        self.density, self.density_directions = preset.density, preset.density_directions
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
        start: int = 0,
        substeps: int | None = None,
    ) -> Tensor:
        """Follow the flow of `index` (one k, or int64 (B,)) from z0 (B, D): z_0…z_steps, (steps + 1, B, D).

        gates: (B, K), instead of `index`: the flow of Σ_k g_k u^k, several at once where several are 1. steps: T when
        not given. start: what the clock shows at z0; the steps ask for the potentials at start + 1 … start + steps.
        substeps: those of the preset when not given.
        """
        times = start + self._times(z0, steps)
        number = self.substeps if substeps is None else substeps
        return integrate(z0, times, self.potentials, index=index, gates=gates, substeps=number).z

    def flow_with_residual(
        self,
        z0: Tensor,
        index: int | Tensor | None = None,
        *,
        gates: Tensor | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> "FlowWithResidual":
        """As `flow`, with the residual of each Euler step and, where the preset asks for densities, log|det| of each
        step.

        gates: (B, K), instead of `index`: the flow of Σ_k g_k u^k. generator: of the random directions of density
        "hutchinson".
        """
        moments, length = self._euler_steps(z0, steps)
        own = _DENSITY_OUTPUT.get(self.density)
        outputs: tuple[Any, ...] = ("residual",) if own is None else ("residual", own)
        path = integrate(
            z0, moments, self.potentials, index=index, gates=gates, force=self.forces, step=length, outputs=outputs
        )
        assert path.residual is not None  # it was asked for
        volume = None if own is None else getattr(path, own)
        if self.density == "hutchinson":
            points = zip(path.z[:-1], moments, strict=True)
            volume = torch.stack([self._estimated_log_det(z, t, index, gates, generator) for z, t in points])
        return FlowWithResidual(
            path.z[:: self.substeps], path.residual, None if volume is None else self._of_steps(volume)
        )

    def _estimated_log_det(
        self,
        z: Tensor,
        t: Tensor,
        index: int | Tensor | None,
        gates: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return log_det(
            z,
            t,
            self.potentials,
            index=index,
            gates=gates,
            step=1 / self.substeps,
            method="hutchinson",
            num_directions=self.density_directions,
            generator=generator,
        ).value

    def volume_change(
        self, z0: Tensor, index: int | Tensor, *, steps: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of each step of the flow from z0 (B, D), (steps, B), Δ = 1/substeps: Σ log|det(I + Δ∇²u)| over its Euler
        steps, exact; the paper code's row sums in its place; and the smallest eigenvalue of all I + Δ∇²u, which is
        positive unless the step folds.
        """
        moments, length = self._euler_steps(z0, steps)
        path = integrate(z0, moments, self.potentials, index=index, step=length, outputs=("row_sum",))
        points = zip(path.z[:-1], moments, strict=True)
        exact = [log_det(z, t, self.potentials, index=index, step=length, smallest=True) for z, t in points]
        assert path.row_sum is not None
        smallest = torch.stack([e.smallest for e in exact if e.smallest is not None])
        return (
            self._of_steps(torch.stack([e.value for e in exact])),
            self._of_steps(path.row_sum),
            smallest.unflatten(0, (-1, self.substeps)).amin(dim=1),
        )

    def _times(self, z0: Tensor, steps: int | None) -> Tensor:
        """t = 1…steps, when the steps of the flow ask for the potential."""
        last = self.num_steps if steps is None else steps
        return torch.arange(1, last + 1, dtype=z0.dtype, device=z0.device)

    def _euler_steps(self, z0: Tensor, steps: int | None) -> tuple[Tensor, float]:
        """The times at which the Euler steps start, (steps·substeps,), and their length."""
        offsets = torch.arange(self.substeps, dtype=z0.dtype, device=z0.device) / self.substeps
        return (self._times(z0, steps)[:, None] + offsets).flatten(), 1 / self.substeps

    def _of_steps(self, volume: Tensor) -> Tensor:
        """(steps·substeps, B) → sums over the Euler steps of each step, (steps, B)."""
        return volume.unflatten(0, (-1, self.substeps)).sum(dim=1)


class FlowWithResidual(NamedTuple):
    """z_0…z_steps (steps + 1, B, D); r = ∂_t u + ½‖∇u‖² + F² at each (z, t) that the flow asks (steps·substeps, B); and
    Σ log|det(I + Δ∇²u)| over each step's Euler steps (steps, B), by the preset's density, or None.
    """

    z: Tensor
    residual: Tensor
    log_det: Tensor | None


def _autoencoder(preset: Preset, image_shape: tuple[int, int, int]) -> Autoencoder:
    if preset.autoencoder == "conv":
        return ConvAutoencoder(preset.latent_dim, preset.conv_width, image_shape)
    if preset.autoencoder == "conv_large":
        return LargeConvAutoencoder(preset.latent_dim, preset.conv_width, image_shape)
    return MLPAutoencoder(preset.latent_dim, preset.hidden, image_shape)

"""PoFlow: codes that move along learned potentials which obey the wave equation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ffrl.data.batch import SequenceBatch
from ffrl.data.dataset import SequenceFormat
from ffrl.models.autoencoder import Posterior
from ffrl.objective import reconstruction_nats
from ffrl.presets import Preset
from ffrl.systems.flow import FlowSystem
from ffrl.systems.wave import wave_residual


@dataclass  # not frozen: Fabric sets the fields of what it passes to a module
class TraversalNoise:
    """posterior: standard normal (B, D). step: int64 (B,), uniform in 1…T, where each row meets the wave equation."""

    posterior: Tensor
    step: Tensor

    def share(self, number: int, shares: int) -> "TraversalNoise":
        """The numbers of every `shares`-th row from row `number` on."""
        return TraversalNoise(self.posterior[number::shares], self.step[number::shares])

    def to(self, device: torch.device) -> "TraversalNoise":
        """The same on `device`."""
        return TraversalNoise(self.posterior.to(device), self.step.to(device))


class TraversalTerms(NamedTuple):
    """`loss` = reconstruction + β·kl + wave_weight·(wave + initial); scalars, batch means.

    reconstruction: −log p(x|z) in nats, summed over pixels and (in expectation) over the T + 1 frames; for likelihood
    "normal" without its constant. kl: KL(q(z_0|x_0) ‖ N(0, I)). wave: mean over rows of the squared residual of the
    wave equation, each at a random step. initial: mean over rows of ‖∇u^k(z_0, 0)‖².
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor
    wave: Tensor
    initial: Tensor


class PotentialTraversal(FlowSystem):
    """PoFlow. Song, Keller, Sebe, Welling, "Latent Traversals in Generative Models as Potential Flows", ICML 2023,
    arXiv 2304.12944; here as a VAE of sequences with known k.

        z_t = z_{t−1} + ∇u^k(z_{t−1}, t), z_0 ~ q(z_0|x_0)
        loss = Σ_t E[−log p(x_t|z_t)] + β·KL(q(z_0|x_0) ‖ N(0, I))
               + λ·(E_t (u_tt − c_k² ∇·∇u)² at (z_{t−1}, t) + ‖∇u^k(z_0, 0)‖²),   t uniform in 1…T

    λ is `wave_weight`, c_k a learned speed of each k, 1 at first. The potentials are those of the paper: a network
    for each k, with a sinusoidal clock and one Euler step a step, whatever flow the preset has; their sizes and their
    output are the preset's. No force, no Hamilton–Jacobi equation, and no density along the flow.

    What differs from the paper and its public code (docs/systems.md has more): any frames are decoded and compared, in
    the place of two, and without a distance of codes; the wave equation is asked for at one random step of each row,
    not at all of them, which has the same expectation; k is known, so nothing has to guess it from the images; what
    maximises the images' change along the flow (the Jacobian term, for traversals without data) is left out, since the
    data say how they change. ∇·∇u is the Laplacian, where the code has the row sums of the Hessian, ∂_t u that of
    each row, where it sums over the batch, and ‖∇u‖² a sum over dimensions, where it has their mean.
    """

    terms = TraversalTerms

    def __init__(self, preset: Preset, sequences: SequenceFormat) -> None:
        super().__init__(
            replace(
                preset,
                time_embedding="sinusoidal",
                random_clock=False,
                substeps=1,
                hj_weight=0.0,
                initial_weight=0.0,
                collocation_points=0,
                density="none",
            ),
            sequences,
        )
        self.speed = nn.Parameter(torch.ones(len(sequences)))

    def draw_noise(self, rows: int, generator: torch.Generator) -> TraversalNoise:
        posterior = torch.randn(rows, self.preset.latent_dim, generator=generator)
        return TraversalNoise(posterior, torch.randint(1, self.num_steps + 1, (rows,), generator=generator))

    def objective(self, batch: SequenceBatch, noise: TraversalNoise, temperature: float) -> TraversalTerms:
        # Under autocast the networks of images are in lower precision; codes, flow and losses are in float32.
        posterior = Posterior(*(x.float() for x in self.autoencoder.encode(batch.frames[:, 0])))
        with torch.autocast(posterior.mean.device.type, enabled=False):
            z = self.flow(posterior.sample(noise.posterior), batch.index)
            initial = self.potential_flow.initial_speed(z[0], index=batch.index)
            wave = self.residual(z, noise.step, batch.index).square().mean()
        reconstruction = reconstruction_nats(self, z, batch, self.preset)
        kl = posterior.kl_to_standard_normal().mean()
        loss = reconstruction + self.preset.beta * kl + self.preset.wave_weight * (wave + initial)
        return TraversalTerms(loss, reconstruction, kl, wave, initial)

    def residual(self, path: Tensor, step: Tensor, index: Tensor) -> Tensor:
        """u_tt − c_k² ∇·∇u at (z_{t−1}, t), (B,), t = `step` of each row, of z_0…z_T (T + 1, B, D)."""
        points = path[step - 1, torch.arange(len(step), device=step.device)]
        return wave_residual(points, step.to(path.dtype), self.potentials, index, self.speed[index])

    def headline(self, values: Mapping[str, float]) -> str:
        return f"loss {values['loss']:.0f}  KL {values['kl']:.1f}  wave {values['wave']:.4f}"

"""Flow factorized representation learning as a compared system, with known and with inferred transformations."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ffrl import noise as flow_noise
from ffrl.data.batch import FrameChoice, SequenceBatch
from ffrl.data.dataset import SequenceFormat
from ffrl.metrics.likelihood import joint_bound, of_flow_model
from ffrl.models import FlowModel
from ffrl.objective import Objective, objective
from ffrl.presets import Preset
from ffrl.systems.system import Noise, System, Terms


class FlowSystem(FlowModel, System):
    """`FlowModel` with `ffrl.objective` (Song, Keller, Sebe, Welling, NeurIPS 2023, arXiv 2309.13167).

    Its own path is z_0 = mean of q(z_0|x_0), z_t = z_{t−1} + ∇u^k(z_{t−1}, t): of a test sequence it sees x_0 and k.
    Under weak supervision k is the number of a potential; `ffrl.matching` finds which stands for which transformation.
    """

    terms: ClassVar[type[Any]] = Objective

    def __init__(self, preset: Preset, sequences: SequenceFormat) -> None:
        super().__init__(preset, sequences)
        self.preset, self.format = preset, sequences
        weak = preset.supervision == "weak"
        self.supervision = "sequences" if weak else "sequences and k"
        self.sees = "x_0 and k"
        self.frame_choice = FrameChoice(whole_sequences=weak, one_transformation=preset.convention == "paper_code")

    def draw_noise(self, rows: int, generator: torch.Generator) -> Noise:
        return flow_noise.Noise.draw(self.preset, self.format, rows, generator)

    def objective(self, batch: SequenceBatch, noise: Any, temperature: float) -> Terms:
        return objective(self, batch, self.preset, noise, temperature)

    def headline(self, values: Mapping[str, float]) -> str:
        equation = f"  HJ {values['hj']:.4f}" if self.preset.has_equation else ""
        return super().headline(values) + equation

    def codes(self, frames: Tensor) -> Tensor:
        """Posterior means, frame by frame."""
        return self.autoencoder.codes(frames)

    def decode(self, codes: Tensor) -> Tensor:
        return self.autoencoder.decode(codes)

    def own_path(self, frames: Tensor, k: int) -> Tensor:
        return self.flow(self.autoencoder.encode(frames[0]).mean, k, steps=len(frames) - 1)

    def log_weights(self, frames: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """log p(z_0) − log q(z_0|x_0) + Σ_t log p(x_t|z_t), z_0 ~ q(z_0|x_0): as `joint_bound` has it."""
        likelihood = self.preset.likelihood
        index = torch.full((frames.shape[1],), k, device=frames.device)
        model = of_flow_model(self, likelihood)
        return joint_bound(model, frames, index, samples=1, likelihood=likelihood, generator=generator).rows

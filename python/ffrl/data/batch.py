"""What a training step looks at: some frames of each sequence, and the weights that make them stand for all."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass  # not frozen: Fabric sets the fields of what it passes to a module
class SequenceBatch:
    """The frames of B sequences that a training step looks at, M = 1 + random frames of each.

    index: int64 (B,), the transformation k of each row. times: int64 (B, M), the frames drawn; times[:, 0] is 0, unless
    they are pairs of neighbours. frames: float32 (B, M, C, H, W) in [0, 1]. weights: float32 (M,), so that the weighted
    sum over the M frames has the sum over all T + 1 frames as its expectation, or that over the T pairs. sequence: all
    frames in order, (B, T + 1, C, H, W), where the
    sampler draws whole sequences, else None.
    """

    index: Tensor
    times: Tensor
    frames: Tensor
    weights: Tensor
    sequence: Tensor | None = None

    def to(self, device: torch.device) -> "SequenceBatch":
        """The same on `device`."""
        sequence = None if self.sequence is None else self.sequence.to(device, non_blocking=True)
        index, times, frames, weights = (
            x.to(device, non_blocking=True) for x in (self.index, self.times, self.frames, self.weights)
        )
        return SequenceBatch(index, times, frames, weights, sequence)


class FrameChoice(NamedTuple):
    """Which frames of each sequence a training step looks at; the arguments of `Dataset.sampler` of these names."""

    whole_sequences: bool = False
    one_transformation: bool = False
    neighbours: bool = False


def draw_times(
    rows: int, num_steps: int, random_frames: int, generator: torch.Generator, neighbours: bool = False
) -> Tensor:
    """Frame 0 and `random_frames` distinct ones of 1…T for each row: int64 (rows, 1 + random_frames).

    neighbours: instead t_1, t_1 + 1, t_2, t_2 + 1, …, `neighbouring_pairs` of them, every t_i uniform in 0…T − 1.
    """
    if neighbours:
        first = torch.randint(num_steps, (rows, neighbouring_pairs(random_frames)), generator=generator)
        return torch.stack([first, first + 1], dim=2).flatten(1)
    order = torch.rand(rows, num_steps, generator=generator).argsort(dim=1)
    return torch.cat([torch.zeros(rows, 1, dtype=torch.int64), 1 + order[:, :random_frames]], dim=1)


def neighbouring_pairs(random_frames: int) -> int:
    """How many pairs of neighbours take the place of frame 0 and so many others, about as many frames."""
    return max(1, (1 + random_frames) // 2)


def frame_weights(num_steps: int, random_frames: int, neighbours: bool = False) -> Tensor:
    """The weights of the frames that `draw_times` draws, float32 (M,)."""
    if neighbours:
        pairs = neighbouring_pairs(random_frames)
        return torch.full((2 * pairs,), num_steps / pairs)
    return torch.tensor([1.0] + [num_steps / random_frames] * random_frames)

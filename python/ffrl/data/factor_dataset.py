"""Images by factors, one factor moving, as a data set of sequences."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ffrl.data.batch import SequenceBatch, draw_times, frame_weights
from ffrl.data.dataset import Dataset, Part, SequenceFormat, require_moves
from ffrl.data.factor_composition import composed_starts, states_along
from ffrl.data.factor_sequences import FactorSequences
from ffrl.data.factors import FactorImages


@dataclass(frozen=True)
class FactorPlan:
    """A batch that is not rendered yet: index (B,), times (B, M), states (B, T + 1, F), all int64."""

    index: Tensor
    times: Tensor
    states: Tensor

    def share(self, number: int, shares: int) -> "FactorPlan":
        """Every `shares`-th row from row `number` on."""
        rows = slice(number, None, shares)
        return FactorPlan(self.index[rows], self.times[rows], self.states[rows])


class FactorSampler:
    """Draws batches of `FactorSequences` without end; its whole state is in `state_dict`."""

    def __init__(
        self,
        sequences: FactorSequences,
        batch_size: int,
        random_frames: int,
        whole_sequences: bool = False,
        one_transformation: bool = False,
        neighbours: bool = False,
    ) -> None:
        if not 1 <= random_frames <= sequences.num_steps:
            raise ValueError(f"random_frames: expected 1 to {sequences.num_steps}, found {random_frames}")
        self.sequences = sequences
        self.batch_size = batch_size
        self.random_frames = random_frames
        self.whole_sequences = whole_sequences
        self.one_transformation = one_transformation
        self.neighbours = neighbours
        self._weights = frame_weights(sequences.num_steps, random_frames, neighbours)

    def draw(self) -> SequenceBatch:
        """The next batch."""
        return self.render(self.plan())

    def plan(self) -> FactorPlan:
        """The next batch, to be rendered whole or in shares."""
        drawn = self.sequences.draw(self.batch_size, self.one_transformation)
        steps, generator = self.sequences.num_steps, self.sequences.generator
        times = draw_times(self.batch_size, steps, self.random_frames, generator, self.neighbours)
        return FactorPlan(drawn.index, times, drawn.states)

    def render(self, plan: FactorPlan) -> SequenceBatch:
        """The frames of a plan or of a share of one."""
        rows = torch.arange(len(plan.index))[:, None]
        if not self.whole_sequences:
            frames = to_unit(self.sequences.frames(plan.states[rows, plan.times]))
            return SequenceBatch(plan.index, plan.times, frames, self._weights)
        sequence = to_unit(self.sequences.frames(plan.states))
        return SequenceBatch(plan.index, plan.times, sequence[rows, plan.times], self._weights, sequence)

    def state_dict(self) -> dict[str, Tensor]:
        """The generator's state; draws do not depend on anything else."""
        return self.sequences.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict`'s value."""
        self.sequences.load_state_dict(state)


class FactorDataset(Dataset):
    """Sequences of one moving factor; the other factors stand anywhere in their ranges, in both parts.

    images: the data set. moving: the names of the K factors that move. num_steps: T. The split into parts and its
    UserErrors are those of `FactorSequences`.
    """

    def __init__(self, images: FactorImages, moving: Sequence[str], num_steps: int) -> None:
        self.images = images
        self.name = images.name
        self.format = SequenceFormat(tuple(moving), num_steps, images.image_shape)
        # The split is the same for all, and finding it takes as long as reading all combinations of the factors.
        self._part = cache(self._find_part)
        self._composed_starts = cache(self._find_composed_starts)

    def checksum(self) -> str:
        return self.images.checksum()

    def describe(self) -> str:
        counts = [self.count("train", k) for k in range(len(self.format))]
        return f"{sum(counts)} sequences of {len(self.images)} images"

    def drawn(self, part: Part, generator: torch.Generator) -> FactorSequences:
        """Sequences of one part that are drawn by `generator`."""
        return FactorSequences(self.images, self.transformations, self.num_steps, part, generator)

    def sampler(
        self,
        batch_size: int,
        random_frames: int,
        random_start: float,
        generator: torch.Generator,
        whole_sequences: bool = False,
        one_transformation: bool = False,
        neighbours: bool = False,
    ) -> FactorSampler:
        """As `Dataset.sampler`; random_start changes nothing, since no state of the other factors is a plain one."""
        drawn = self.drawn("train", generator)
        return FactorSampler(drawn, batch_size, random_frames, whole_sequences, one_transformation, neighbours)

    def count(self, part: Part, k: int) -> int:
        return self._part(part).count(k)

    def fixed(self, part: Part, k: int, first: int, last: int) -> Tensor:
        sequences = self._part(part)
        return to_unit(sequences.frames(sequences.fixed(k, last).states[first:].movedim(1, 0)))

    def count_composed(self, part: Part, moves: Tensor) -> int:
        return len(self._starts_of(part, moves))

    def composed(self, part: Part, moves: Tensor, first: int, last: int) -> Tensor:
        starts = self._starts_of(part, moves)[first:last]
        states = states_along(self.images, self.transformations, starts, moves)
        images = self.images.images(states.flatten(0, 1))
        return to_unit(images.reshape(*states.shape[:2], *images.shape[1:]))

    def _starts_of(self, part: Part, moves: Tensor) -> Tensor:
        require_moves(moves, len(self.format))
        return self._composed_starts(part, tuple(map(tuple, moves.tolist())))

    def _find_composed_starts(self, part: Part, moves: tuple[tuple[int, ...], ...]) -> Tensor:
        return composed_starts(self.images, self.transformations, part, torch.tensor(moves))

    def _find_part(self, part: Part) -> FactorSequences:
        return self.drawn(part, torch.Generator())


def to_unit(images: Tensor) -> Tensor:
    """uint8 0…255 → float32 in [0, 1]."""
    return images.to(torch.float32) / 255

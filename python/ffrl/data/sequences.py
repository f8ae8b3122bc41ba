"""Batches of sequences of digits: which digits, which transformation, from which state, and which frames."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ffrl.data.batch import SequenceBatch, draw_times, frame_weights
from ffrl.data.transformations import NUM_STEPS, TRANSFORMATIONS, render


@dataclass(frozen=True)
class SequencePlan:
    """A batch that is not rendered yet: digits, index (B,), times (B, M), states (B, M, factors), all int64."""

    digits: Tensor
    index: Tensor
    times: Tensor
    states: Tensor

    def share(self, number: int, shares: int) -> "SequencePlan":
        """Every `shares`-th row from row `number` on: of equal rows of each transformation, equal rows again."""
        rows = slice(number, None, shares)
        return SequencePlan(self.digits[rows], self.index[rows], self.times[rows], self.states[rows])


class SequenceSampler:
    """Draws batches of sequences without end; its whole state is in `state_dict`.

    grey: uint8 (N, 28, 28). Every epoch visits all digits once, in a random order. The rows of a batch are shared out
    equally among the transformations, a remainder at random. Of the T = 8 frames after frame 0, `random_frames`
    distinct ones are drawn for each row. With probability `random_start` each OTHER factor of a row is held at a
    state drawn from 0…8, so that flows meet each other's outcomes; without it they compose badly. whole_sequences:
    render all frames, for who must find k from them. one_transformation: all rows of a batch show the same, a random
    one. neighbours: draw pairs of neighbouring frames instead, as `draw_times` says.
    """

    def __init__(
        self,
        grey: Tensor,
        batch_size: int,
        random_frames: int,
        random_start: float,
        generator: torch.Generator,
        whole_sequences: bool = False,
        one_transformation: bool = False,
        neighbours: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, found {batch_size}")
        if not 1 <= random_frames <= NUM_STEPS:
            raise ValueError(f"random_frames: expected 1 to {NUM_STEPS}, found {random_frames}")
        if not 0 <= random_start <= 1:
            raise ValueError(f"random_start: expected a probability, found {random_start}")
        self.grey = grey
        self.batch_size = batch_size
        self.random_frames = random_frames
        self.random_start = random_start
        self.generator = generator
        self.whole_sequences = whole_sequences
        self.one_transformation = one_transformation
        self.neighbours = neighbours
        self._queue = torch.empty(0, dtype=torch.int64)
        self._weights = frame_weights(NUM_STEPS, random_frames, neighbours)

    def draw(self) -> SequenceBatch:
        """The next batch."""
        return self.render(self.plan())

    def plan(self) -> SequencePlan:
        """The next batch, to be rendered whole or in shares."""
        rows, factors = self.batch_size, len(TRANSFORMATIONS)
        digits, index = self._next_digits(), self._next_index()
        times = draw_times(rows, NUM_STEPS, self.random_frames, self.generator, self.neighbours)
        start = torch.randint(0, NUM_STEPS + 1, (rows, factors), generator=self.generator)
        start *= torch.rand(rows, factors, generator=self.generator) < self.random_start
        start[torch.arange(rows), index] = 0
        states = start[:, None, :].repeat(1, times.shape[1], 1)
        states[torch.arange(rows), :, index] = times
        return SequencePlan(digits, index, times, states)

    def render(self, plan: SequencePlan) -> SequenceBatch:
        """The frames of a plan or of a share of one."""
        if not self.whole_sequences:
            return SequenceBatch(plan.index, plan.times, self._frames(plan.digits, plan.states), self._weights)
        rows = torch.arange(len(plan.index))
        states = plan.states[:, :1].repeat(1, NUM_STEPS + 1, 1)
        states[rows, :, plan.index] = torch.arange(NUM_STEPS + 1)
        sequence = self._frames(plan.digits, states)
        frames = sequence[rows[:, None], plan.times]
        return SequenceBatch(plan.index, plan.times, frames, self._weights, sequence)

    def _frames(self, digits: Tensor, states: Tensor) -> Tensor:
        """digits (B,) in states (B, M, factors) → (B, M, 3, 28, 28)."""
        frames = render(self.grey[digits].repeat_interleave(states.shape[1], dim=0), states.flatten(0, 1))
        return frames.reshape(*states.shape[:2], *frames.shape[1:])

    def state_dict(self) -> dict[str, Tensor]:
        """The digits still to come in this epoch and the generator's state."""
        return {"queue": self._queue.clone(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict`'s value."""
        self._queue = state["queue"].clone()
        self.generator.set_state(state["generator"])

    def _next_digits(self) -> Tensor:
        while len(self._queue) < self.batch_size:
            self._queue = torch.cat([self._queue, torch.randperm(len(self.grey), generator=self.generator)])
        digits, self._queue = self._queue[: self.batch_size], self._queue[self.batch_size :]
        return digits

    def _next_index(self) -> Tensor:
        count = len(TRANSFORMATIONS)
        if self.one_transformation:
            return torch.randint(count, (1,), generator=self.generator).repeat(self.batch_size)
        index = torch.arange(count).repeat(self.batch_size // count)
        remainder = self.batch_size % count
        if remainder:
            index = torch.cat([index, torch.randperm(count, generator=self.generator)[:remainder]])
        return index.sort().values

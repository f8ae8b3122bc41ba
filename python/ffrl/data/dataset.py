"""What a run trains on and is measured on: sequences of images, whatever they come from."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from ffrl.data.batch import SequenceBatch

ELEMENTS_AT_ONCE = 2**22
"""Numbers in a chunk of fixed sequences, down to one sequence."""

Part = Literal["train", "held_out"]


@dataclass(frozen=True)
class SequenceFormat:
    """What the sequences x_0…x_T of a data set look like.

    transformations: the names of the K transformations. num_steps: T. image_shape: (C, H, W).
    """

    transformations: tuple[str, ...]
    num_steps: int
    image_shape: tuple[int, int, int]

    def __len__(self) -> int:
        """K."""
        return len(self.transformations)


class Plan(Protocol):
    """A batch that is not rendered yet."""

    @property
    def index(self) -> Tensor:
        """int64 (B,), the transformation k of each row."""

    def share(self, number: int, shares: int) -> "Plan":
        """Every `shares`-th row from row `number` on."""


P = TypeVar("P", bound=Plan)


class Sampler(Protocol[P]):
    """Draws batches of sequences without end; its whole state is in `state_dict`."""

    def plan(self) -> P:
        """The next batch, to be rendered whole or in shares."""

    def render(self, plan: P) -> SequenceBatch:
        """The frames of a plan or of a share of one."""

    def state_dict(self) -> dict[str, Tensor]:
        """From here `load_state_dict` goes on to the same draws."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict`'s value."""


class Dataset(ABC):
    """Sequences to train on and fixed sequences to evaluate on, of a part that is trained on or one held out.

    name: for reports. format: K, T and the images' shape.
    """

    name: str
    format: SequenceFormat

    @property
    def transformations(self) -> tuple[str, ...]:
        """The names of the K transformations."""
        return self.format.transformations

    @property
    def num_steps(self) -> int:
        """T, the steps of a sequence."""
        return self.format.num_steps

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.format.image_shape

    @abstractmethod
    def checksum(self) -> str:
        """SHA-256 of the data, so that a report can say on which it was made."""

    @abstractmethod
    def describe(self) -> str:
        """What is trained on, in a few words, e.g. "4000 digits"."""

    @abstractmethod
    def sampler(
        self,
        batch_size: int,
        random_frames: int,
        random_start: float,
        generator: torch.Generator,
        whole_sequences: bool = False,
        one_transformation: bool = False,
        neighbours: bool = False,
    ) -> Sampler[Any]:
        """Batches of the trained part, rows shared out equally among the transformations, a remainder at random.

        random_frames: how many distinct frames of 1…T are drawn for each row, besides frame 0. random_start:
        probability that each other factor is held at a random state. whole_sequences: render all frames, for who must
        find k from them. one_transformation: all rows of a batch show the same, a random one. neighbours: draw
        pairs of neighbouring frames instead, as `draw_times` says.
        """

    @abstractmethod
    def count(self, part: Part, k: int) -> int:
        """How many fixed sequences of transformation k there are."""

    @abstractmethod
    def fixed(self, part: Part, k: int, first: int, last: int) -> Tensor:
        """The fixed sequences number first…last − 1 of transformation k: float32 (T + 1, N, C, H, W) in [0, 1]."""

    @abstractmethod
    def count_composed(self, part: Part, moves: Tensor) -> int:
        """How many sequences `composed` has for these moves, at least 1. NoRoomError: none."""

    @abstractmethod
    def composed(self, part: Part, moves: Tensor, first: int, last: int) -> Tensor:
        """Sequences number first…last − 1 along which several transformations move: float32 (S + 1, N, C, H, W) in
        [0, 1], in an order that never changes.

        moves: int64 (S, K), how many states transformation k goes on at step s. They start where a fixed sequence of
        a transformation that moves might; with moves of one alone, by 1 at T steps, they are its fixed sequences.
        ValueError: other moves. NoRoomError: the data have no sequence with room for them.
        """

    def sequences(self, part: Part, k: int, count: int | None = None) -> Iterator[Tensor]:
        """The first `count` fixed sequences of transformation k (all of them by default, or where there are fewer), in
        chunks of bounded memory: float32 (T + 1, N, C, H, W) in [0, 1].

        ValueError: `count` is below 1.
        """
        for first, last in self._chunks(count, self.count(part, k), self.num_steps):
            yield self.fixed(part, k, first, last)

    def composed_sequences(self, part: Part, moves: Tensor, count: int | None = None) -> Iterator[Tensor]:
        """As `sequences`, of `composed`: float32 (S + 1, N, C, H, W) in [0, 1].

        ValueError: `count` is below 1, or as `composed`. NoRoomError: as `composed`.
        """
        for first, last in self._chunks(count, self.count_composed(part, moves), len(moves)):
            yield self.composed(part, moves, first, last)

    def _chunks(self, count: int | None, available: int, steps: int) -> Iterator[tuple[int, int]]:
        """First and last + 1 of the sequences of each chunk."""
        if count is not None and count < 1:
            raise ValueError(f"count: expected at least 1 sequence, found {count}")
        channels, height, width = self.image_shape
        at_once = max(1, ELEMENTS_AT_ONCE // ((steps + 1) * channels * height * width))
        end = available if count is None else min(count, available)
        for first in range(0, end, at_once):
            yield first, min(first + at_once, end)


def require_moves(moves: Tensor, count: int) -> None:
    """ValueError unless `moves` is int64 (S, K) with K = `count` and S ≥ 1, none negative, and something moves."""
    if moves.dtype != torch.int64 or moves.ndim != 2 or moves.shape[1] != count or len(moves) == 0:
        raise ValueError(f"moves: expected int64 (S, {count}) with S ≥ 1, found {moves.dtype} {tuple(moves.shape)}")
    if int(moves.min()) < 0 or int(moves.max()) == 0:
        raise ValueError(f"moves: expected numbers ≥ 0, some of them above, found {moves.tolist()}")

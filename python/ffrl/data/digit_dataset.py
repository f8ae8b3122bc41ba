"""Digits that grow, turn and change colour, as a data set of sequences."""

import torch
from torch import Tensor

from ffrl.data.dataset import Dataset, Part, require_moves
from ffrl.data.digits import Digits
from ffrl.data.sequences import SequenceSampler
from ffrl.data.transformations import FORMAT, render, render_sequences


class DigitDataset(Dataset):
    """Fixed sequence number n of every transformation starts from digit n, untransformed; composed ones do so too, and
    may go on past the states 0…8 that are trained on.
    """

    format = FORMAT

    def __init__(self, digits: Digits) -> None:
        self.digits = digits
        self.name = digits.name

    def checksum(self) -> str:
        return self.digits.checksum()

    def describe(self) -> str:
        return f"{len(self.digits.train)} digits"

    def sampler(
        self,
        batch_size: int,
        random_frames: int,
        random_start: float,
        generator: torch.Generator,
        whole_sequences: bool = False,
        one_transformation: bool = False,
        neighbours: bool = False,
    ) -> SequenceSampler:
        return SequenceSampler(
            self.digits.train,
            batch_size,
            random_frames,
            random_start,
            generator,
            whole_sequences=whole_sequences,
            one_transformation=one_transformation,
            neighbours=neighbours,
        )

    def count(self, part: Part, k: int) -> int:
        return len(self._grey(part))

    def fixed(self, part: Part, k: int, first: int, last: int) -> Tensor:
        return render_sequences(self._grey(part)[first:last], k)

    def count_composed(self, part: Part, moves: Tensor) -> int:
        require_moves(moves, len(FORMAT))
        return len(self._grey(part))

    def composed(self, part: Part, moves: Tensor, first: int, last: int) -> Tensor:
        require_moves(moves, len(FORMAT))
        grey = self._grey(part)[first:last]
        states = torch.cat([torch.zeros_like(moves[:1]), moves.cumsum(dim=0)])
        frames = render(grey.repeat(len(states), 1, 1), states.repeat_interleave(len(grey), dim=0))
        return frames.reshape(len(states), len(grey), *frames.shape[1:])

    def _grey(self, part: Part) -> Tensor:
        return self.digits.train if part == "train" else self.digits.held_out

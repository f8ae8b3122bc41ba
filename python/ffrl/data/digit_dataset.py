"""Digits that grow, turn and change colour, as a data set of sequences."""

import torch
from torch import Tensor

from ffrl.data.dataset import Dataset, Part
from ffrl.data.digits import Digits
from ffrl.data.sequences import SequenceSampler
from ffrl.data.transformations import FORMAT, render_sequences


class DigitDataset(Dataset):
    """Fixed sequence number n of every transformation starts from digit n, untransformed."""

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
    ) -> SequenceSampler:
        return SequenceSampler(
            self.digits.train,
            batch_size,
            random_frames,
            random_start,
            generator,
            whole_sequences=whole_sequences,
            one_transformation=one_transformation,
        )

    def count(self, part: Part, k: int) -> int:
        return len(self._grey(part))

    def fixed(self, part: Part, k: int, first: int, last: int) -> Tensor:
        return render_sequences(self._grey(part)[first:last], k)

    def _grey(self, part: Part) -> Tensor:
        return self.digits.train if part == "train" else self.digits.held_out

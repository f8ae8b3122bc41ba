"""Sequences in which one factor moves by one value a step and all others stand still.

The split. A line is all combinations that differ in one moving factor only. For each moving factor a few lines, drawn
once by `SPLIT_SEED`, are held out with every image on them. A held-out sequence of a factor runs along one of its
held-out lines; a trained sequence never touches an image of any held-out line, so that no frame of a held-out sequence
is ever seen in training, as a start or later, by whatever factor it might be reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ffrl.data.dataset import Part
from ffrl.data.factors import Factor, FactorImages, rows_of, states_of
from ffrl.errors import UserError

SPLIT_SEED = 20232
"""Seed of the held-out lines (plus a factor's column). It is not an option: what is held out stays so in every run."""
HELD_OUT_SHARE = 0.04
"""Share of all images on held-out lines, in equal parts for each moving factor."""


@dataclass(frozen=True)
class FactorSequenceBatch:
    """B sequences x_0…x_T by their states; the images are made on demand, for the frames that are needed.

    index: int64 (B,), which of the moving factors moves. states: int64 (B, T + 1, F).
    """

    index: Tensor
    states: Tensor


class FactorSequences:
    """Draws sequences of one part of a data set without end; its whole state is in `state_dict`.

    images: the data set. moving: the names of the K factors that may move. num_steps: T. generator: of the draws.

    The moving factor's value grows by one a step: a cyclic factor wraps, another one starts where T steps fit. Starts
    are uniform over all starts of the part and the factor (with replacement), the other factors' values included.

    UserError: a moving factor has fewer than T + 1 values (2 if it is cyclic), or nothing is left to train on beside
    the held-out lines.
    """

    def __init__(
        self, images: FactorImages, moving: Sequence[str], num_steps: int, part: Part, generator: torch.Generator
    ) -> None:
        if num_steps < 1:
            raise ValueError(f"num_steps: expected at least 1, found {num_steps}")
        if not moving or len(set(moving)) != len(moving):
            raise ValueError(f"moving: expected different names of factors, at least one, found {list(moving)}")
        if part not in ("train", "held_out"):
            raise ValueError(f"part: expected train or held_out, found {part!r}")
        self.images = images
        self.moving = tuple(moving)
        self.num_steps = num_steps
        self.part = part
        self.generator = generator
        self._columns = torch.tensor([images.column(name) for name in moving])
        self._distinct = tuple(factor.distinct for factor in images.factors)
        self._starts = self._find_starts()

    def draw(self, batch_size: int, one_factor: bool = False) -> FactorSequenceBatch:
        """The next batch. Its rows are shared out equally among the moving factors, a remainder at random, or show a
        random `one_factor`.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, found {batch_size}")
        order = torch.randperm(len(self.moving), generator=self.generator)[: 1 if one_factor else None]
        index = order.repeat(-(-batch_size // len(order)))[:batch_size].sort().values
        rows = torch.empty_like(index)
        for k, starts in enumerate(self._starts):
            chosen = index == k
            draws = torch.randint(len(starts), (int(chosen.sum()),), generator=self.generator)
            rows[chosen] = starts[draws]
        return self._along(index, rows)

    def count(self, k: int) -> int:
        """How many different sequences of moving factor k this part has."""
        return len(self._starts[k])

    def fixed(self, k: int, count: int) -> FactorSequenceBatch:
        """The first `count` (or all, if there are fewer) different sequences of factor k, in an order that is shuffled
        once for all runs: for evaluation. It draws nothing from the generator."""
        shuffled = torch.randperm(len(self._starts[k]), generator=torch.Generator().manual_seed(SPLIT_SEED))
        rows = self._starts[k][shuffled[:count]]
        return self._along(torch.full_like(rows, k), rows)

    def frames(self, states: Tensor) -> Tensor:
        """The images of any states, int64 (..., F): uint8 (..., C, H, W)."""
        images = self.images.images(states.reshape(-1, states.shape[-1]))
        return images.reshape(*states.shape[:-1], *images.shape[1:])

    def state_dict(self) -> dict[str, Tensor]:
        """The generator's state; draws do not depend on anything else."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict`'s value."""
        self.generator.set_state(state["generator"])

    def _along(self, index: Tensor, rows: Tensor) -> FactorSequenceBatch:
        states = states_of(rows, self._distinct)[:, None, :].repeat(1, self.num_steps + 1, 1)
        columns = self._columns[index]
        values = states[torch.arange(len(rows)), :, columns] + torch.arange(self.num_steps + 1)
        # Only a cyclic factor's values ever reach the number of its distinct ones.
        states[torch.arange(len(rows)), :, columns] = values % torch.tensor(self._distinct)[columns][:, None]
        return FactorSequenceBatch(index, states)

    def _find_starts(self) -> list[Tensor]:
        """For each moving factor the rows, numbered over the distinct values, where a sequence of this part starts."""
        factors, columns = self.images.factors, self._columns.tolist()
        for column in columns:
            _require_room(self.images.name, factors[column], self.num_steps)
        lines = held_out_lines(factors, columns)
        held_out = torch.stack(lines).any(dim=0)
        starts = []
        for k, column in enumerate(columns):
            if self.part == "train":
                allowed = ~_touched(held_out, column, factors[column].cyclic, self.num_steps)
            else:
                allowed = ~_touched(~lines[k], column, factors[column].cyclic, self.num_steps)
            starts.append(rows_of(allowed.nonzero(), self._distinct))
            if len(starts[-1]) == 0:
                raise UserError(
                    f"{self.images.name}: expected enough combinations of the other factors to hold some out, found "
                    f"too few for {factors[column].name} to move {self.num_steps} steps beside {list(self.moving)}"
                )
        return starts


def held_out_lines(factors: Sequence[Factor], columns: Sequence[int]) -> list[Tensor]:
    """For each moving column a mask over all distinct combinations: True on the lines of this factor held out.

    Each mask is bool with one dimension for each factor.
    """
    distinct = [factor.distinct for factor in factors]
    masks = []
    for column in columns:
        mask = torch.zeros(distinct, dtype=torch.bool)
        by_line = mask.movedim(column, -1)
        others = by_line.shape[:-1]
        number = others.numel()
        held_out = max(1, round(HELD_OUT_SHARE / len(columns) * number))
        # A seed for each factor, so that the order in which they are named does not matter.
        chosen = torch.randperm(number, generator=torch.Generator().manual_seed(SPLIT_SEED + column))[:held_out]
        by_line[torch.unravel_index(chosen, others)] = True
        masks.append(mask)
    return masks


def _touched(mask: Tensor, column: int, cyclic: bool, num_steps: int) -> Tensor:
    """Where a sequence of `num_steps` steps along `column` meets the mask, or leaves a factor that is not cyclic."""
    touched = mask.clone()
    for step in range(1, num_steps + 1):
        touched |= torch.roll(mask, -step, dims=column)
    if not cyclic:
        touched.narrow(column, mask.shape[column] - num_steps, num_steps).fill_(True)
    return touched


def _require_room(data: str, factor: Factor, num_steps: int) -> None:
    kind, expected = ("cyclic", 2) if factor.cyclic else ("not cyclic", num_steps + 1)
    if factor.distinct < expected:
        raise UserError(
            f"{data}: expected at least {expected} values of {factor.name} ({kind}) to move {num_steps} steps, "
            f"found {factor.distinct}"
        )

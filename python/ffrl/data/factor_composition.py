"""Sequences of images by factors along which several factors move, each by any number of values a step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ffrl.data.dataset import Part
from ffrl.data.factor_sequences import SPLIT_SEED, held_out_lines
from ffrl.data.factors import FactorImages, rows_of, states_of
from ffrl.errors import NoRoomError


def composed_starts(images: FactorImages, moving: Sequence[str], part: Part, moves: Tensor) -> Tensor:
    """All states from which a sequence of these moves starts, int64 (N, F), N ≥ 1, in an order that never changes.

    moving: the names of the K factors that may move. moves: int64 (S, K).
    A held-out sequence starts on a held-out line of a factor that moves, and its later frames may be any image: a line
    of one factor is left as soon as another one moves. A trained sequence touches no held-out line at any frame. With
    one factor that moves by 1 these are the starts of `FactorSequences`, in the order of its fixed sequences.

    NoRoomError: nowhere is there room for all moves.
    """
    columns = [images.column(name) for name in moving]
    lines = held_out_lines(images.factors, columns)
    total = moves.sum(dim=0).tolist()
    moved = [k for k, steps in enumerate(total) if steps]
    if part == "held_out":
        allowed = torch.stack([lines[k] for k in moved]).any(dim=0)
    else:
        allowed = ~_touched(torch.stack(lines).any(dim=0), [columns[k] for k in moved], moves[:, moved])
    for k in moved:
        factor, column = images.factors[columns[k]], columns[k]
        if not factor.cyclic:
            beyond = min(total[k], factor.size)
            allowed.narrow(column, factor.size - beyond, beyond).fill_(False)
    distinct = [factor.distinct for factor in images.factors]
    rows = rows_of(allowed.nonzero(), distinct)
    if len(rows) == 0:
        asked = " and ".join(
            f"{moving[k]} goes up by {total[k]} (it has {images.factors[columns[k]].size} values)" for k in moved
        )
        kind = "held-out" if part == "held_out" else "trained"
        raise NoRoomError(f"{images.name}: expected {kind} sequences along which {asked}, found none")
    return states_of(rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(SPLIT_SEED))], distinct)


def states_along(images: FactorImages, moving: Sequence[str], starts: Tensor, moves: Tensor) -> Tensor:
    """The states of the sequences from `starts` (N, F) by `moves` (S, K): int64 (S + 1, N, F). Cyclic factors wrap."""
    columns = [images.column(name) for name in moving]
    states = starts.repeat(len(moves) + 1, 1, 1)
    states[1:, :, columns] += moves.cumsum(dim=0)[:, None, :]
    # Only a cyclic factor's values ever reach the number of its distinct ones.
    return states % torch.tensor([factor.distinct for factor in images.factors])


def _touched(mask: Tensor, columns: Sequence[int], moves: Tensor) -> Tensor:
    """Where a sequence of `moves` (S, M) of the M columns meets the mask; at an edge it goes on at the other one."""
    touched = mask.clone()
    for offsets in moves.cumsum(dim=0).tolist():
        touched |= torch.roll(mask, [-offset for offset in offsets], dims=tuple(columns))
    return touched

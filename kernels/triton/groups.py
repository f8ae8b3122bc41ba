"""Rows in blocks of one network each, in a number that the shapes alone decide."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ffrl_fast.gpu.engine import Rows


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a call; a block has ``size`` slots.

    With ``potential`` and ``gates`` network k has the blocks k·per_network …, its rows in their own order. With
    ``index`` the rows are listed in ``order`` (slots,), −1 where a slot has none, ``network`` (blocks,) says whose a
    block is, −1 past the last that is used, and network k has the blocks starts[k] … starts[k + 1].
    """

    size: int
    networks: int  # that the call evaluates
    per_network: int
    count: int
    order: Tensor | None = None
    network: Tensor | None = None
    starts: Tensor | None = None

    @property
    def slots(self) -> int:
        return self.count * self.size

    @property
    def grouped(self) -> bool:
        return self.order is not None


def block_count(rows: Rows, size: int) -> int:
    """⌈B/size⌉ blocks for each network that all rows go through; with ``index`` ⌈B/size⌉ + K, of which each network
    takes what it needs."""
    blocks = -(-rows.z.shape[0] // size)
    if rows.index is not None:
        return blocks + rows.theta.shape[0]
    return blocks if rows.gates is None else blocks * rows.theta.shape[0]


def blocks_of(rows: Rows, size: int) -> Blocks:
    """The blocks of a call. Nothing waits for the device."""
    count = block_count(rows, size)
    if rows.index is not None:
        return _group(rows.index, rows.theta.shape[0], size, count)
    networks = 1 if rows.gates is None else rows.theta.shape[0]
    return Blocks(size, networks, count // networks, count)


def _group(index: Tensor, networks: int, size: int, count: int) -> Blocks:
    device = index.device
    ordered, rows = torch.sort(index, stable=True)
    each = torch.arange(networks + 1, device=device)
    begin = torch.searchsorted(ordered, each)  # of each network among the ordered rows
    needed = (begin.diff() + size - 1) // size
    starts = torch.nn.functional.pad(needed.cumsum(0), (1, 0))
    block = torch.arange(count, device=device)
    network = torch.searchsorted(starts, block, right=True) - 1
    used = network < networks
    network = network.clamp(max=networks - 1)
    first = begin[network] + (block - starts[network]) * size
    slot = first[:, None] + torch.arange(size, device=device)
    valid = used[:, None] & (slot < begin[network + 1][:, None])
    order = torch.where(valid, rows[slot.clamp(0, max(len(index) - 1, 0))], -1)
    return Blocks(size, networks, count, count, order.view(-1), torch.where(used, network, -1).int(), starts.int())

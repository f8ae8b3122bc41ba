"""Gradients of vectors: the sums that each block of rows has made, added up over the blocks of a network in order."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["blocks", "grouped", "out_network", "at", "size", "limit", "first_sum", "per_block"])
def vector_gradient(
    sums,  # (all blocks, per_block, pitch)
    out,  # the gradient of sum i of network k at k·out_network + at + i·size
    starts,  # grouped: (networks + 1,), the first block of each network
    blocks,  # of each network, if not grouped
    grouped,
    out_network,
    at,
    size,  # of each vector
    limit,  # of all of them together: the last one may be shorter
    first_sum,
    per_block,
    pitch,
    BLOCK: tl.constexpr,
    BLOCK_SUMMED: tl.constexpr,
    SUM: tl.constexpr,
):
    """grid (⌈size/BLOCK⌉, sums, networks)."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    i = tl.program_id(1)
    k = tl.program_id(2)
    begin = k * blocks
    end = begin + blocks
    if grouped != 0:
        begin = tl.load(starts + k)
        end = tl.load(starts + k + 1)
    inside = (column < size) & (i * size + column < limit)
    total = tl.zeros((BLOCK_SUMMED, BLOCK), SUM)
    for b in range(begin, end, BLOCK_SUMMED):
        block = (b + tl.arange(0, BLOCK_SUMMED))[:, None]
        at_block = (block.to(tl.int64) * per_block + first_sum + i) * pitch + column[None, :]
        total += tl.load(sums + at_block, mask=inside[None, :] & (block < end), other=0.0)
    target = out + k.to(tl.int64) * out_network + at + i * size
    tl.store(target + column, tl.sum(total, 0).to(out.dtype.element_ty), mask=inside)

"""Which rows a block works on, and how it reads what belongs to them.

Work is laid out in blocks of BLOCK_ROWS slots; all rows of a block go through one network. With ``potential`` and
``gates`` the rows lie in their own order; with ``index`` a list groups them (:mod:`.groups`). A slot without a row has
row −1; what it reads is 0, and so is what it adds to any sum.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rows_of_block(block, order, rows, grouped, BLOCK_ROWS: tl.constexpr):
    """The row (int64) of each slot of a block; ``block`` counts from the first of its network unless grouped."""
    i = tl.arange(0, BLOCK_ROWS)
    plain = block.to(tl.int64) * BLOCK_ROWS + i
    listed = tl.load(order + plain, mask=(i >= 0) & (grouped != 0), other=-1)
    return tl.where(grouped != 0, listed, tl.where(plain < rows, plain, -1))


@triton.jit
def network_of_block(block, block_network, blocks, grouped, gated):
    """The network (int64) of a block. One without rows takes the first: what it computes, nobody reads."""
    network = tl.where(gated != 0, block // blocks, 0)
    if grouped != 0:
        network = tl.maximum(tl.load(block_network + block), 0)
    return network.to(tl.int64)


@triton.jit
def load_row_scalars(x, row, given, stride, TYPE: tl.constexpr):
    """x[row·stride] (rows,), or 0 where ``given`` is 0 or there is no row."""
    return tl.load(x + row * stride, mask=(row >= 0) & (given != 0), other=0.0).to(TYPE)


@triton.jit
def load_rows(x, row, stride, first, size, given, BLOCK: tl.constexpr, TYPE: tl.constexpr):
    """Columns first … first + BLOCK of the rows of x, of ``size`` columns; 0 outside, and where ``given`` is 0."""
    column = first + tl.arange(0, BLOCK)
    mask = (row >= 0)[:, None] & (column < size)[None, :] & (given != 0)
    return tl.load(x + row[:, None] * stride + column[None, :], mask=mask, other=0.0).to(TYPE)


@triton.jit
def store_rows(x, row, stride, first, size, value, wanted, BLOCK: tl.constexpr):
    column = first + tl.arange(0, BLOCK)
    mask = (row >= 0)[:, None] & (column < size)[None, :] & (wanted != 0)
    tl.store(x + row[:, None] * stride + column[None, :], value.to(x.dtype.element_ty), mask=mask)


@triton.jit
def load_slots(x, first_slot, pitch, first, ROWS: tl.constexpr, BLOCK: tl.constexpr, TYPE: tl.constexpr):
    """Columns of a block's slots in a workspace (slots, pitch), padded so that no mask is needed.

    The 64-bit part of the address is a scalar: per element it would cost two registers where one does.
    """
    at = x + first_slot * pitch + first
    return tl.load(at + tl.arange(0, ROWS)[:, None] * pitch + tl.arange(0, BLOCK)[None, :]).to(TYPE)


@triton.jit
def store_slots(x, first_slot, pitch, first, value, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    at = x + first_slot * pitch + first
    tl.store(at + tl.arange(0, ROWS)[:, None] * pitch + tl.arange(0, BLOCK)[None, :], value.to(x.dtype.element_ty))


@triton.jit
def load_conditioning(
    x,
    first_slot,
    network_at,
    per_row,
    pitch,
    first,
    size,
    given,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    TYPE: tl.constexpr,
):
    """Columns of τ or dτ/dt for a block's slots: of a workspace (slots, pitch) where each row has its own, else of the
    network's vector at ``network_at``; 0 where ``given`` is 0."""
    at = x + tl.where(per_row != 0, first_slot * pitch, network_at) + first
    column = tl.arange(0, BLOCK)[None, :]
    mask = (first + column < size) & (given != 0)
    return tl.load(at + tl.arange(0, ROWS)[:, None] * (per_row * pitch) + column, mask=mask, other=0.0).to(TYPE)


@triton.jit
def load_vector(x, first, size, BLOCK: tl.constexpr, TYPE: tl.constexpr):
    """x[first … first + BLOCK] as a row (1, BLOCK); 0 from ``size`` on."""
    column = first + tl.arange(0, BLOCK)
    return tl.load(x + column, mask=column < size, other=0.0).to(TYPE)[None, :]

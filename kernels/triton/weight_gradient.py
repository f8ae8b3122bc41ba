r"""Gradients of the weight matrices: dW = Xᵀ Y + X₂ᵀ Y₂ over the rows of each network, in a fixed order.

The rows of a network are split into SPLITS ranges of whole blocks; each range's sum goes to a slot of its own, and a
second kernel adds the slots in order. How many there are follows from the shapes alone, so the result is the same each
time, whatever ran first.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .elementary import product


@triton.jit(do_not_specialize=["blocks", "block_rows", "splits", "grouped", "has_second"])
def weight_gradient(
    x,  # (slots, x_pitch): d_p, d_q
    y,  # (slots, y_pitch): s, z
    x_second,  # (slots, x_pitch): ĥ, g_a
    y_second,  # (slots, y_pitch): d_v, ḡ
    partial,  # (networks, splits, x_pitch, y_pitch)
    starts,  # grouped: (networks + 1,), the first block of each network
    blocks,  # of each network, if not grouped
    block_rows,  # a multiple of BLOCK_INNER
    splits,
    grouped,
    has_second,
    x_pitch,
    y_pitch,
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_INNER: tl.constexpr,
    PRECISION: tl.constexpr,
    SUM: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One tile of one range; grid (tiles, splits, networks)."""
    across = tl.cdiv(y_pitch, BLOCK_Y)
    column_x = tl.program_id(0) // across * BLOCK_X + tl.arange(0, BLOCK_X)
    column_y = tl.program_id(0) % across * BLOCK_Y + tl.arange(0, BLOCK_Y)
    split = tl.program_id(1)
    k = tl.program_id(2)
    begin = k * blocks
    end = begin + blocks
    if grouped != 0:
        begin = tl.load(starts + k)
        end = tl.load(starts + k + 1)
    each = tl.cdiv(end - begin, splits)
    begin = tl.minimum(begin + split * each, end)
    end = tl.minimum(begin + each, end)

    first = begin.to(tl.int64) * block_rows
    count = (end - begin) * block_rows
    inside_x = (column_x < x_pitch)[None, :]
    inside_y = (column_y < y_pitch)[None, :]
    total = tl.zeros((BLOCK_X, BLOCK_Y), SUM)
    for pair in tl.static_range(2):
        x_p = x if pair == 0 else x_second
        y_p = y if pair == 0 else y_second
        for i in tl.range(0, count if pair == 0 else count * has_second, BLOCK_INNER, num_stages=STAGES):
            slot = (first + i + tl.arange(0, BLOCK_INNER))[:, None]
            x_tile = tl.load(x_p + slot * x_pitch + column_x[None, :], mask=inside_x, other=0.0)
            y_tile = tl.load(y_p + slot * y_pitch + column_y[None, :], mask=inside_y, other=0.0)
            total = product(tl.trans(x_tile), y_tile, total, PRECISION)
    out = partial + (k.to(tl.int64) * splits + split) * (x_pitch * y_pitch)
    tl.store(
        out + column_x[:, None] * y_pitch + column_y[None, :],
        total,
        mask=(column_x < x_pitch)[:, None] & (column_y < y_pitch)[None, :],
    )


@triton.jit(do_not_specialize=["splits", "first_network", "parameters", "at", "x_size", "y_size"])
def sum_partials(
    partial,  # (networks, splits, x_pitch, y_pitch)
    d_theta,  # (K, parameters), the matrix (x_size, y_size) at ``at``
    splits,
    first_network,
    parameters,
    at,
    x_size,
    y_size,
    x_pitch,
    y_pitch,
    TILE: tl.constexpr,
    SUM: tl.constexpr,
):
    """Σ over the splits, in order; grid (tiles, networks)."""
    across = tl.cdiv(y_size, TILE)
    row = tl.program_id(0) // across * TILE + tl.arange(0, TILE)[:, None]
    column = tl.program_id(0) % across * TILE + tl.arange(0, TILE)[None, :]
    k = tl.program_id(1).to(tl.int64)
    mask = (row < x_size) & (column < y_size)
    size = x_pitch * y_pitch
    total = tl.zeros((TILE, TILE), SUM)
    for i in range(splits):
        total += tl.load(partial + (k * splits + i) * size + row * y_pitch + column, mask=mask, other=0.0)
    out = d_theta + (first_network + k) * parameters + at
    tl.store(out + row * y_size + column, total.to(d_theta.dtype.element_ty), mask=mask)

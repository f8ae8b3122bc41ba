"""Rows into slots and back: operands gathered, networks' results summed by their gates.

These kernels cut a block of the row kernels into ``parts`` of PART rows: so they compile once, whatever its size.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .rows import load_row_scalars, load_rows, load_slots, network_of_block, rows_of_block, store_rows, store_slots


@triton.jit(
    do_not_specialize=["rows", "blocks", "grouped", "gated", "given", "added_given", "parts", "x_at", "x_network"]
)
def gather(
    x,  # network k's at x_at + k·x_network: (B, size), rows x_row apart
    added,  # (B, size)
    factor,  # (B,)
    out,  # (slots, pitch)
    order,
    block_network,
    rows,
    blocks,
    size,
    x_at,
    x_network,
    x_row,
    pitch,
    grouped,
    gated,
    given,
    added_given,
    parts,
    PART: tl.constexpr,
    BLOCK: tl.constexpr,
    SUM: tl.constexpr,
):
    """out = x + factor · added in the slots of each row, 0 in the others; grid (all parts, pitch / BLOCK)."""
    part = tl.program_id(0)
    column = tl.program_id(1) * BLOCK
    row = rows_of_block(part % (blocks * parts), order, rows, grouped, PART)
    network = network_of_block(part // parts, block_network, blocks, grouped, gated)
    value = load_rows(x + x_at + network * x_network, row, x_row, column, size, given, BLOCK, SUM)
    scale = load_row_scalars(factor, row, added_given, 1, SUM)
    value += scale[:, None] * load_rows(added, row, size, column, size, added_given, BLOCK, SUM)
    store_slots(out, part.to(tl.int64) * PART, pitch, column, value, PART, BLOCK)


@triton.jit(do_not_specialize=["rows", "blocks", "grouped", "gated", "summed", "parts", "out_at", "out_network"])
def scatter(
    x,  # (slots, pitch)
    out,  # network k's at out_at + k·out_network: (B, size)
    order,
    block_network,
    rows,
    blocks,
    size,
    out_at,
    out_network,
    pitch,
    grouped,
    gated,
    summed,  # networks, of rows that go through them all
    parts,
    PART: tl.constexpr,
    BLOCK: tl.constexpr,
    SUM: tl.constexpr,
):
    """Slots to their rows; grid (all parts or, where the networks are ``summed``, those of one, ⌈size/BLOCK⌉)."""
    part = tl.program_id(0)
    column = tl.program_id(1) * BLOCK
    row = rows_of_block(part % (blocks * parts), order, rows, grouped, PART)
    network = network_of_block(part // parts, block_network, blocks, grouped, gated)
    total = tl.zeros((PART, BLOCK), SUM)
    first = part.to(tl.int64) * PART
    for _ in range(summed):
        total += load_slots(x, first, pitch, column, PART, BLOCK, SUM)
        first += blocks * parts * PART
    store_rows(out + out_at + network * out_network, row, size, column, size, total, 1, BLOCK)


@triton.jit(do_not_specialize=["rows", "networks", "gated", "has_drive", "value_only"])
def combine(
    u_each,  # (networks, B) and (networks, B, dim)
    dt_each,
    grad_each,
    gates,  # (B, networks)
    drive,
    u,
    dt,
    grad,
    residual,
    rows,
    dim,
    networks,
    gated,
    has_drive,
    value_only,
    BLOCK_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    SUM: tl.constexpr,
):
    """Σ_k g_k (u_k, ∂_t u_k, ∇u_k), and the residual of the sums; g = 1 where not gated; grid (⌈B/BLOCK_ROWS⌉,)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row = tl.where(row < rows, row, -1)
    valid = row >= 0
    value = tl.zeros((BLOCK_ROWS,), SUM)
    rate = tl.zeros((BLOCK_ROWS,), SUM)
    norm = tl.zeros((BLOCK_ROWS,), SUM)
    derivatives = value_only == 0
    zero = tl.full((), 0, tl.int64)
    for k in range(networks):
        gate = load_row_scalars(gates + k, row, gated, networks, SUM)
        gate = tl.where(gated != 0, gate, 1.0)
        value += gate * load_row_scalars(u_each + (zero + k) * rows, row, 1, 1, SUM)
        rate += gate * load_row_scalars(dt_each + (zero + k) * rows, row, derivatives, 1, SUM)
    if derivatives:
        for d in range(0, dim, BLOCK):
            total = tl.zeros((BLOCK_ROWS, BLOCK), SUM)
            for k in range(networks):
                gate = load_row_scalars(gates + k, row, gated, networks, SUM)
                gate = tl.where(gated != 0, gate, 1.0)
                at = grad_each + (zero + k) * rows * dim
                total += gate[:, None] * load_rows(at, row, dim, d, dim, 1, BLOCK, SUM)
            store_rows(grad, row, dim, d, dim, total, 1, BLOCK)
            norm += tl.sum(total * total, 1)
    tl.store(u + row, value.to(u.dtype.element_ty), mask=valid)
    tl.store(dt + row, rate.to(dt.dtype.element_ty), mask=valid & derivatives)
    driven = rate + 0.5 * norm + load_row_scalars(drive, row, has_drive, 1, SUM)
    tl.store(residual + row, driven.to(residual.dtype.element_ty), mask=valid & (has_drive != 0))

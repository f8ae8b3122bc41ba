"""Tiles of packed weight matrices, as the right operand of a product."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def weight_tile(w, row, column, pitch, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows ``row`` … and columns ``column`` … of W."""
    rows = row + tl.arange(0, ROWS)
    columns = column + tl.arange(0, COLUMNS)
    return tl.load(w + rows[:, None] * pitch + columns[None, :])


@triton.jit
def times_transpose(w, unit, inner, pitch, UNITS: tl.constexpr, INNER: tl.constexpr):
    """(INNER, UNITS) of Wᵀ: the operand that takes s to s Wᵀ, columns ``unit`` …"""
    return tl.trans(weight_tile(w, unit, inner, pitch, UNITS, INNER))


@triton.jit
def times_itself(
    w, w_transposed, inner, unit, pitch, pitch_t, INNER: tl.constexpr, UNITS: tl.constexpr, TRANSPOSED: tl.constexpr
):
    """(INNER, UNITS) of W: the operand that takes h to h W, columns ``unit`` …; read from Wᵀ where TRANSPOSED."""
    if TRANSPOSED:
        return tl.trans(weight_tile(w_transposed, unit, inner, pitch_t, UNITS, INNER))
    else:
        return weight_tile(w, inner, unit, pitch, INNER, UNITS)


@triton.jit
def once_more(
    tile,
    w,
    w_transposed,
    unit,
    inner,
    pitch,
    UNITS: tl.constexpr,
    INNER: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    READ_ONCE: tl.constexpr,
):
    """A tile that already served a product by its transpose, now as W itself: the same registers or shared memory.

    Where TRANSPOSED, W is read a second time, from Wᵀ: wgmma takes tf32 operands along their inner index only. Without
    READ_ONCE it is read a second time as it is: the fused multiply-adds of "ieee" hold operands in registers, of which
    there are too few, and Triton does not compile a tile of both uses for sm_100.
    """
    if TRANSPOSED:
        return tl.trans(weight_tile(w_transposed, inner, unit, pitch, INNER, UNITS))
    elif READ_ONCE:
        return tile
    else:
        return weight_tile(w, unit, inner, pitch, UNITS, INNER)

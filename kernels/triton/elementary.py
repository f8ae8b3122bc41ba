"""Elementwise functions, and the product of two tiles in a given precision."""

from __future__ import annotations

import triton
import triton.language as tl

from . import interpreter

INTERPRETED = tl.constexpr(interpreter.ACTIVE)


@triton.jit
def tanh(x, PRECISION: tl.constexpr):
    """tanh(x): in "ieee" to 4 ulp of float32; in the reduced precisions to 2·10⁻⁷ absolute.

    1 − 2/(e²ˣ + 1) loses the digits of a small result, which only the products of "ieee" would notice: there an odd
    polynomial, fitted to tanh in relative error (10⁻⁹), takes |x| < 0.55. The quotient saturates by itself: e²ˣ = ∞
    gives 1. float64 exists under the interpreter alone, where the polynomial would be the coarser of the two.
    """
    from_exp = 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)
    if PRECISION == "ieee" and x.dtype == tl.float32:
        y = x * x
        p = -0.006274218205362558 * y + 0.0210716649889946
        p = p * y - 0.05385230854153633
        p = p * y + 0.13332585990428925
        p = p * y - 0.33333316445350647
        return tl.where(y < 0.3025, x + x * y * p, from_exp)
    return from_exp


@triton.jit
def activation(x, is_tanh, PRECISION: tl.constexpr):
    """φ(x) and φ'(x); φ is tanh, or the identity where ``is_tanh`` is 0."""
    value = tl.where(is_tanh != 0, tanh(x, PRECISION), x)
    return value, tl.where(is_tanh != 0, 1.0 - value * value, 1.0)


@triton.jit
def product(x, y, total, PRECISION: tl.constexpr):
    """total + x y, summed in ``total``'s dtype.

    The interpreter would multiply the bit patterns of bfloat16, so there the operands are widened, which is exact.
    """
    if INTERPRETED and x.dtype == tl.bfloat16:
        x, y = x.to(tl.float32), y.to(tl.float32)
    return tl.dot(x, y, total, input_precision="tf32" if PRECISION == "tf32" else "ieee", out_dtype=total.dtype)


@triton.jit
def round_to_tf32(x):
    """float32 with its 13 last bits rounded away, to nearest, ties to even; NaN stays NaN.

    The matrix unit would truncate them, which biases every product towards zero.
    """
    bits = x.to(tl.int32, bitcast=True)
    bits = (bits + 0xFFF + ((bits >> 13) & 1)) & -0x2000
    return tl.where(x == x, bits.to(tl.float32, bitcast=True), x)

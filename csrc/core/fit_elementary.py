"""Fits the constants of elementary.hpp and elementary_tables.hpp.

    python csrc/core/fit_elementary.py               # the polynomials of exp, to paste into elementary.hpp
    python csrc/core/fit_elementary.py --tables      # the whole of elementary_tables.hpp (then clang-format)

Every polynomial is a least-squares fit at Chebyshev nodes, in 60 digits: within a small factor of the minimax one. The
coefficients are rounded to the working precision one at a time, from the constant up, and after each the rest are
fitted again to what the rounding left. The error that counts is measured afterwards, by tests/core/elementary_ulp.cpp.
"""

import argparse

import mpmath as mp
import numpy as np

mp.mp.dps = 60


def round_to(value, dtype):
    """The nearest number of dtype, as an mpf (one rounding: from 60 digits, not by way of float64)."""
    digits = {np.float32: 24, np.float64: 53}[dtype]
    with mp.workprec(digits):
        return +mp.mpf(value)


def fit(function, low, high, degree, dtype, fixed=(), weight=lambda x: 1):
    """Coefficients of dtype of a polynomial for function on [low, high], the first few given by fixed.

    Least squares at Chebyshev nodes, solved again for the rest each time that a coefficient is rounded.
    """
    count = 8 * (degree + 1)
    nodes = [(low + high) / 2 + (high - low) / 2 * mp.cos((2 * k + 1) * mp.pi / (2 * count)) for k in range(count)]
    values = [function(x) for x in nodes]
    weights = [weight(x) for x in nodes]
    rounded = [mp.mpf(c) for c in fixed]
    while len(rounded) <= degree:
        powers = range(len(rounded), degree + 1)
        rows = mp.matrix([[w * x**j for j in powers] for x, w in zip(nodes, weights, strict=True)])
        rest = [w * (v - mp.polyval(rounded[::-1] or [0], x)) for x, w, v in zip(nodes, weights, values, strict=True)]
        free = mp.lu_solve(rows.T * rows, rows.T * mp.matrix(rest))
        rounded.append(round_to(free[0], dtype))
    return rounded


def literal(value, dtype):
    text = repr(dtype(float(value)).item()) if dtype is np.float64 else str(np.float32(float(value)))
    return text + ("f" if dtype is np.float32 else "")


def expm1_quotient(f):
    """(e^f − 1 − f) / f², the smooth part of expm1."""
    if abs(f) < mp.mpf("1e-6"):
        return mp.fsum(f**k / mp.factorial(k + 2) for k in range(12))
    return (mp.expm1(f) - f) / f**2


def relative_to_expm1(f):
    return f**2 / mp.expm1(f)


def print_exponential():
    half_log2 = mp.log(2) / 2
    for name, dtype, degree in (("float", np.float32, 4), ("double", np.float64, 9)):
        # A hair beyond ln 2 / 2: rounding x / ln 2 to an integer is itself done in floating point.
        high = half_log2 * mp.mpf("1.0001")
        low = -high
        quotient = fit(expm1_quotient, low, high, degree, dtype, weight=relative_to_expm1)
        worst = max(
            abs(mp.polyval(quotient[::-1], f) - expm1_quotient(f)) * abs(relative_to_expm1(f))
            for f in mp.linspace(low, high, 2000)
        )
        print(f"// {name}: relative error of expm1 at most {mp.nstr(worst, 3)} before rounding")
        print("{" + ", ".join(literal(c, dtype) for c in quotient) + "}")
        # ln 2 in two parts: the first exact when multiplied by any exponent, the second what is left.
        digits = {np.float32: 15, np.float64: 41}[dtype]
        with mp.workprec(digits):
            high_part = +mp.log(2)
        print("ln 2 =", literal(high_part, dtype), "+", literal(round_to(mp.log(2) - high_part, dtype), dtype))
        print("    or", literal(mp.log(2), dtype), "+", literal(mp.log(2) - round_to(mp.log(2), dtype), dtype))
        print("1 / ln 2 =", literal(1 / mp.log(2), dtype))


INTERVALS = 32
DEGREE = 5
# The interval of a ≥ 0 is the integer nearest to a·(SLOPE − CURVATURE·a): 0.19 long at the start, where tanh bends and
# its values are small, and 0.6 at the end. Thirty-two of them reach saturation, and none has a fit worse than 0.25 ulp.
SLOPE = mp.mpf(5.25)
CURVATURE = mp.mpf(0.1953125)


def inverse_position(position):
    """The a for which a·(SLOPE − CURVATURE·a) = position."""
    return (SLOPE - mp.sqrt(SLOPE**2 - 4 * CURVATURE * position)) / (2 * CURVATURE)


def choose_centre(low, high):
    """A float near the middle of [low, high] whose tanh is very nearly a float.

    The rounding of a tabulated value is an error which nothing later removes.
    """
    middle, half = float(low + high) / 2, float(high - low) / 2
    candidates = np.unique(np.linspace(middle - 0.05 * half, middle + 0.05 * half, 20001).astype(np.float32))
    value = np.tanh(candidates.astype(np.longdouble))
    error = np.abs(value - value.astype(np.float32)) / np.spacing(value.astype(np.float32))
    return mp.mpf(float(candidates[np.argmin(error)]))


def print_tables():
    centres = [mp.mpf(0)]
    rows = [
        fit(
            mp.tanh, mp.mpf(0), inverse_position(0.5), DEGREE, np.float32, fixed=(0, 1), weight=lambda d: 1 / mp.tanh(d)
        )
    ]
    worst = 0
    for k in range(1, INTERVALS):
        low, high = inverse_position(k - 0.5), inverse_position(k + 0.5)
        centre = choose_centre(low, high)

        def about_centre(d, centre=centre):
            return mp.tanh(centre + d)

        def weight(d, about=about_centre):
            return 1 / about(d)

        fixed = (round_to(mp.tanh(centre), np.float32),)
        rows.append(fit(about_centre, low - centre, high - centre, DEGREE, np.float32, fixed=fixed, weight=weight))
        centres.append(centre)
        for x in mp.linspace(low, high, 100):
            ulp = float(np.spacing(np.float32(float(mp.tanh(x)))))
            worst = max(worst, abs(mp.polyval(rows[-1][::-1], x - centre) - mp.tanh(x)) / ulp)
    print(
        f"""// Written by fit_elementary.py --tables: do not edit.
//
// For a ≥ 0 let k be the integer nearest to a·(kSlope − kCurvature·a) and d = a − kCentre[k]. Then
// tanh a ≈ Σ_j kCoefficient[j][k]·d^j, within {float(worst):.2f} ulp before the rounding of its evaluation.
#pragma once

#include "simd.hpp"

namespace ffrl::FFRL_ISA::tanh_table {{

constexpr int kIntervals = {INTERVALS};
constexpr int kDegree = {DEGREE};
constexpr float kSlope = {literal(SLOPE, np.float32)};
constexpr float kCurvature = {literal(CURVATURE, np.float32)};
constexpr float kSaturation = {literal(inverse_position(INTERVALS - mp.mpf("0.51")), np.float32)};

alignas(64) constexpr float kCentre[kIntervals] = {{{", ".join(literal(c, np.float32) for c in centres)}}};

alignas(64) constexpr float kCoefficient[kDegree + 1][kIntervals] = {{"""
    )
    for j in range(DEGREE + 1):
        print("{" + ", ".join(literal(row[j], np.float32) for row in rows) + "},")
    print("};\n\n}  // namespace ffrl::FFRL_ISA::tanh_table")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="print elementary_tables.hpp")
    print_tables() if parser.parse_args().tables else print_exponential()

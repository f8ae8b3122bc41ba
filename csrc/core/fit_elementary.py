"""Fits the constants of elementary.hpp and elementary_tables.hpp.

    python csrc/core/fit_elementary.py               # the constants of elementary.hpp, to paste into it
    python csrc/core/fit_elementary.py --tables      # the whole of elementary_tables.hpp (then clang-format)

Every polynomial is a least-squares fit at Chebyshev nodes, in 60 digits: within a small factor of the minimax one. The
coefficients are rounded to the working precision one at a time, from the constant up, and after each the rest are
fitted again to what the rounding left; likewise those of a quotient of polynomials, by turns of one and of the other.
The error that counts is measured afterwards, by tests/core/elementary_ulp.cpp.
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


def normal_tail(a):
    """Φ(−a)·e^(a²/2)."""
    return mp.erfc(a / mp.sqrt(2)) * mp.exp(a**2 / 2) / 2


def tail_nodes(top, count):
    """Chebyshev nodes of [0, top], but for t in a = 2·(1 + t)/(1 − t): dense where normal_tail bends."""
    last = (top - 2) / (top + 2)
    nodes = [(last - 1) / 2 - (last + 1) / 2 * mp.cos((2 * k + 1) * mp.pi / (2 * count)) for k in range(count)]
    return [2 * (1 + t) / (1 - t) for t in nodes]


def fit_tail(top, degree, dtype):
    """Coefficients of dtype of D and E, where D/(D + a·E) ≈ 2·normal_tail on [0, top] and D(0) = 1.

    What least squares makes small is D − 2·normal_tail·(D + a·E) relative to 2·normal_tail times the denominator of the
    step before.
    """
    nodes = tail_nodes(top, 8 * (degree + 1))
    inverse = [1 / (2 * normal_tail(a)) for a in nodes]
    fixed = [[mp.mpf(1)], []]
    denominator = [(1 + a) ** (degree + 1) for a in nodes]
    refinements = 6
    while len(fixed[1]) <= degree:
        powers = [range(len(part), degree + 1) for part in fixed]
        rows, rest = [], []
        for a, i, q in zip(nodes, inverse, denominator, strict=True):
            rows.append([a**j * (i - 1) / q for j in powers[0]] + [-(a ** (j + 1)) / q for j in powers[1]])
            known = [mp.polyval(part[::-1] or [0], a) for part in fixed]
            rest.append((a * known[1] - known[0] * (i - 1)) / q)
        rows = mp.matrix(rows)
        free = list(mp.lu_solve(rows.T * rows, rows.T * mp.matrix(rest)))
        parts = [fixed[0] + free[: len(powers[0])], fixed[1] + free[len(powers[0]) :]]
        denominator = [mp.polyval(parts[0][::-1], a) + a * mp.polyval(parts[1][::-1], a) for a in nodes]
        if refinements > 0:
            refinements -= 1
        else:
            which = 0 if len(fixed[0]) == len(fixed[1]) else 1
            fixed[which].append(round_to(parts[which][len(fixed[which])], dtype))
    return fixed


def print_normal_cdf():
    for name, dtype, degree, least in (("float", np.float32, 4, -150), ("double", np.float64, 10, -1075)):
        # The a where Φ(−a) is half the smallest denormal, and a little more.
        end = mp.findroot(lambda a, least=least: mp.log(mp.erfc(a / mp.sqrt(2)) / 2, 2) - least, mp.sqrt(-1.3 * least))
        top = mp.ceil(end * 10) / 10
        d, e = fit_tail(top, degree, dtype)
        worst = 0
        for a in tail_nodes(top, 1000):
            above, added = mp.polyval(d[::-1], a), a * mp.polyval(e[::-1], a)
            worst = max(worst, abs(above / ((above + added) * 2 * normal_tail(a)) - 1))
        print(f"// {name}: Φ underflows at {mp.nstr(-end, 6)}; relative error at most {mp.nstr(worst, 3)} to {top}")
        print("{" + ", ".join(literal(c, dtype) for c in d) + "}")
        print("{" + ", ".join(literal(c, dtype) for c in e) + "}")


def sine_quotient(square):
    """(sin r − r) / r³ as a function of r²."""
    return mp.fsum((-1) ** (k + 1) * square**k / mp.factorial(2 * k + 3) for k in range(25))


def cosine_quotient(square):
    """(cos r − 1 + r²/2) / r⁴ as a function of r²."""
    return mp.fsum((-1) ** k * square**k / mp.factorial(2 * k + 4) for k in range(25))


def split(value, digits):
    """value as a sum of numbers, each truncated to the given number of binary digits."""
    parts = []
    for count in digits:
        exponent = int(mp.floor(mp.log(value, 2))) + 1
        parts.append(mp.floor(mp.ldexp(value, count - exponent)) * mp.mpf(2) ** (exponent - count))
        value -= parts[-1]
    return parts


def print_sincos():
    # A part of π/2 is as long as a number where multiply_add rounds once. Elsewhere its product with n must be exact,
    # for n < 2^16, and only the last part may be longer. The third for float ends with 2^-24, the last place of r.
    formats = (
        ("float", np.float32, 2, (24, 24, 24), (8, 8, 6, 8, 8, 24)),
        ("double", np.float64, 5, (53, 53, 53), (37, 37, 53)),
    )
    for name, dtype, degree, fused, exact in formats:
        # π/4, and what rounding x·2/π adds where n is large.
        low, high = mp.mpf(0), (mp.pi / 4 * mp.mpf("1.01")) ** 2

        def sine_weight(square):
            return square / mp.sinc(mp.sqrt(square))

        def cosine_weight(square):
            return square**2 / mp.cos(mp.sqrt(square))

        for function, weight in ((sine_quotient, sine_weight), (cosine_quotient, cosine_weight)):
            quotient = fit(function, low, high, degree, dtype, weight=weight)
            worst = max(
                abs(mp.polyval(quotient[::-1], square) - function(square)) * weight(square)
                for square in mp.linspace(low, high, 1000)
            )
            print(f"// {name}, {function.__name__}: relative error at most {mp.nstr(worst, 3)} before rounding")
            print("{" + ", ".join(literal(c, dtype) for c in quotient) + "}")
        print("2 / π =", literal(2 / mp.pi, dtype))
        for parts in (split(mp.pi / 2, fused), split(mp.pi / 2, exact)):
            print("π / 2 = {" + ", ".join(literal(part, dtype) for part in parts) + "}")


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
    if parser.parse_args().tables:
        print_tables()
    else:
        print_exponential()
        print_normal_cdf()
        print_sincos()

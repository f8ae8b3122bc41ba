// tanh and exp of whole vectors, without branches or library calls.
//
// Both are within 2 ulp of the exact value, on every instruction set; tests/core/elementary_ulp.cpp measures it, for
// float over all arguments. Special values: tanh(±0) = ±0, tanh(±∞) = ±1, tanh of a denormal is itself; exp overflows
// to ∞ and underflows gradually to 0; NaN gives NaN. tanh is odd bit for bit and never exceeds 1.
//
// All constants with more than a few digits are printed by fit_elementary.py.
#pragma once

#include "simd.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#if defined(__AVX512F__)
#include "elementary_tables.hpp"
#endif

namespace ffrl::FFRL_ISA {

namespace elementary {

/// The floating-point format, and e^f − 1 = f + f²·Σ_k quotient[k]·f^k for |f| ≤ ln 2 / 2.
///
/// Adding `round` = 1.5·2^mantissa rounds a number to an integer, which is then in the low bits of the sum.
/// ln 2 = log2 + log2_rest = log2_high + log2_low, where the product of log2_high with any exponent is exact.
template <class T>
struct Constants;

template <>
struct Constants<float> {
  static constexpr int mantissa = 23;
  static constexpr int bias = 127;
  static constexpr float round = 0x1.8p23f;
  static constexpr float inverse_log2 = 1.442695f;
  static constexpr float log2 = 0.6931472f;
  static constexpr float log2_high = 0.69314575f;
  static constexpr float log2_low = 1.4286068e-06f;
  static constexpr int degree = 4;
  static constexpr float quotient[] = {0.49999997f, 0.16666542f, 0.041667525f, 0.008366675f, 0.0013862413f};
  static constexpr float tanh_saturation = 9.1f;   // 1 − tanh < 2^-25 from 9.011 on
  static constexpr float exp_underflow = -104.0f;  // e^x < 2^-150
  static constexpr float exp_overflow = 89.0f;     // e^x > 2^128
};

template <>
struct Constants<double> {
  static constexpr int mantissa = 52;
  static constexpr int bias = 1023;
  static constexpr double round = 0x1.8p52;
  static constexpr double inverse_log2 = 1.4426950408889634;
  static constexpr double log2 = 0.6931471805599453;
  static constexpr double log2_rest = 2.3190468138462996e-17;
  static constexpr double log2_high = 0.6931471805601177;
  static constexpr double log2_low = -1.7239444525614835e-13;
  static constexpr int degree = 9;
  static constexpr double quotient[] = {0.5000000000000006,    0.166666666666666,     0.041666666666573884,
                                        0.00833333333338349,   0.0013888888932266797, 0.00019841269731653646,
                                        2.480150459110127e-05, 2.755739662548985e-06, 2.7626267965548724e-07,
                                        2.505712585771943e-08};
  static constexpr double tanh_saturation = 19.1;  // 1 − tanh < 2^-54 from 19.06 on
  static constexpr double exp_underflow = -746.0;  // e^x < 2^-1075
  static constexpr double exp_overflow = 710.0;    // e^x > 2^1024
};

/// p(g) = −2·quotient(−2g): factors that are powers of two, so these coefficients are exact too.
template <class T>
struct TanhQuotient {
  T c[Constants<T>::degree + 1];
  constexpr TanhQuotient() : c() {
    T factor = -2;
    for (int k = 0; k <= Constants<T>::degree; ++k, factor *= -2) c[k] = factor * Constants<T>::quotient[k];
  }
};

template <class T>
inline constexpr TanhQuotient<T> kTanhQuotient;

template <class T>
FFRL_INLINE Bits<T> as_bits(Vec<T> x) {
  return reinterpret_cast<Bits<T>>(x);
}

template <class T>
FFRL_INLINE Vec<T> from_bits(Bits<T> x) {
  return reinterpret_cast<Vec<T>>(x);
}

template <class T>
FFRL_INLINE Bits<T> sign_bit(Vec<T> x) {
  return as_bits<T>(x) & as_bits<T>(broadcast<T>(T(-0.0)));
}

// multiply_add is a·b + c, rounded once wherever the instruction set can: left to itself the compiler fuses some of the
// inlined copies of an expression and not others, and the values would depend on the place of the call. Below, a
// product written with * is exact, or no term of a sum written with +.
//
// at_most and at_least are the smaller and the larger of a bound and x, and NaN where x is NaN: the instructions give
// their second operand where either is NaN. (GCC 12 makes a comparison and a blend of the conditional.)
#if defined(__AVX512F__)
FFRL_INLINE Vec<float> multiply_add(Vec<float> a, Vec<float> b, Vec<float> c) { return _mm512_fmadd_ps(a, b, c); }
FFRL_INLINE Vec<double> multiply_add(Vec<double> a, Vec<double> b, Vec<double> c) { return _mm512_fmadd_pd(a, b, c); }
// (The forms with a mask do without the uninitialised operand which GCC 12 warns of.)
FFRL_INLINE Vec<float> at_most(Vec<float> x, Vec<float> bound) { return _mm512_maskz_min_ps(0xffff, bound, x); }
FFRL_INLINE Vec<double> at_most(Vec<double> x, Vec<double> bound) { return _mm512_maskz_min_pd(0xff, bound, x); }
FFRL_INLINE Vec<float> at_least(Vec<float> x, Vec<float> bound) { return _mm512_maskz_max_ps(0xffff, bound, x); }
FFRL_INLINE Vec<double> at_least(Vec<double> x, Vec<double> bound) { return _mm512_maskz_max_pd(0xff, bound, x); }
#elif defined(__AVX2__) && defined(__FMA__)
FFRL_INLINE Vec<float> multiply_add(Vec<float> a, Vec<float> b, Vec<float> c) { return _mm256_fmadd_ps(a, b, c); }
FFRL_INLINE Vec<double> multiply_add(Vec<double> a, Vec<double> b, Vec<double> c) { return _mm256_fmadd_pd(a, b, c); }
FFRL_INLINE Vec<float> at_most(Vec<float> x, Vec<float> bound) { return _mm256_min_ps(bound, x); }
FFRL_INLINE Vec<double> at_most(Vec<double> x, Vec<double> bound) { return _mm256_min_pd(bound, x); }
FFRL_INLINE Vec<float> at_least(Vec<float> x, Vec<float> bound) { return _mm256_max_ps(bound, x); }
FFRL_INLINE Vec<double> at_least(Vec<double> x, Vec<double> bound) { return _mm256_max_pd(bound, x); }
#elif defined(__SSE2__)
template <class V>
FFRL_INLINE V multiply_add(V a, V b, V c) {
  return a * b + c;
}
FFRL_INLINE Vec<float> at_most(Vec<float> x, Vec<float> bound) { return _mm_min_ps(bound, x); }
FFRL_INLINE Vec<double> at_most(Vec<double> x, Vec<double> bound) { return _mm_min_pd(bound, x); }
FFRL_INLINE Vec<float> at_least(Vec<float> x, Vec<float> bound) { return _mm_max_ps(bound, x); }
FFRL_INLINE Vec<double> at_least(Vec<double> x, Vec<double> bound) { return _mm_max_pd(bound, x); }
#elif defined(__aarch64__)
FFRL_INLINE Vec<float> multiply_add(Vec<float> a, Vec<float> b, Vec<float> c) { return vfmaq_f32(c, a, b); }
FFRL_INLINE Vec<double> multiply_add(Vec<double> a, Vec<double> b, Vec<double> c) { return vfmaq_f64(c, a, b); }
FFRL_INLINE Vec<float> at_most(Vec<float> x, Vec<float> bound) { return vminq_f32(bound, x); }
FFRL_INLINE Vec<double> at_most(Vec<double> x, Vec<double> bound) { return vminq_f64(bound, x); }
FFRL_INLINE Vec<float> at_least(Vec<float> x, Vec<float> bound) { return vmaxq_f32(bound, x); }
FFRL_INLINE Vec<double> at_least(Vec<double> x, Vec<double> bound) { return vmaxq_f64(bound, x); }
#endif

template <class T>
FFRL_INLINE Vec<T> multiply_add(Vec<T> a, T b, T c) {
  return multiply_add(a, broadcast<T>(b), broadcast<T>(c));
}

template <class T>
FFRL_INLINE Vec<T> multiply_add(Vec<T> a, T b, Vec<T> c) {
  return multiply_add(a, broadcast<T>(b), c);
}

/// Σ_k c[k]·x^k, given also x²: by Estrin's scheme, for a chain of dependent operations that is logarithmic in the
/// degree. A processor has little room for instructions that wait, so with Horner's the chain would set the pace.
template <int degree, class T>
FFRL_INLINE Vec<T> polynomial(const T* c, Vec<T> x, Vec<T> square) {
  if constexpr (degree == 0) {
    return broadcast<T>(c[0]);
  } else if constexpr (degree == 1) {
    return multiply_add<T>(x, c[1], c[0]);
  } else if constexpr (degree <= 4) {
    return multiply_add(square, polynomial<degree - 2, T>(c + 2, x, square), polynomial<1, T>(c, x, square));
  } else {
    const Vec<T> fourth = square * square;
    return multiply_add(fourth, polynomial<degree - 4, T>(c + 4, x, square), polynomial<3, T>(c, x, square));
  }
}

/// tanh a = (1 − e^{−2a}) / (1 + e^{−2a}) for a ≥ 0.
///
/// With −2a = n ln 2 − 2g, s = 2^n and h = (1 − e^{−2g}) / 2, the numerator is (1 − s) + 2sh and the denominator
/// (1 + s) − 2sh: no cancellation, and exactly 2h and 2 − 2h where n = 0, so that small a keeps its relative accuracy.
/// The exponent is the negative one because both terms then lie next to 1, where rounding is least.
template <class T>
FFRL_INLINE Vec<T> tanh_of_magnitude(Vec<T> a) {
  using C = Constants<T>;
  a = at_most(a, broadcast<T>(C::tanh_saturation));
  constexpr T shift = C::round + T(C::bias + 1);
  const Vec<T> rounded = multiply_add<T>(a, -2 * C::inverse_log2, shift);
  const Vec<T> twice_s = from_bits<T>(as_bits<T>(rounded) << C::mantissa);  // the bits above the exponent fall off
  const Vec<T> n = rounded - shift;
  // Exact for n = 0 and −1. Further out h is multiplied by 2^n, and the rounding of a product without FMA with it.
  const Vec<T> g = multiply_add<T>(n, C::log2 / 2, a);
  // h = g + g²·p(g), p(g) = −2·quotient(−2g).
  const Vec<T> square = g * g;
  const Vec<T> p = polynomial<C::degree, T>(kTanhQuotient<T>.c, g, square);
  if constexpr (sizeof(T) == sizeof(float)) {
    const Vec<T> w = twice_s * multiply_add(square, p, g);
    return ((T(1) - T(0.5) * twice_s) + w) / ((T(1) + T(0.5) * twice_s) - w);
  } else {
    // The roundings of numerator, denominator and quotient may add up to 2 ulp by themselves. Over all floats their sum
    // stays below that; over doubles one cannot try. So here g gets its last digits, and the quotient is corrected for
    // the rounding errors of numerator and denominator, which are themselves doubles.
    const Vec<T> curved = multiply_add(square, p, n * (C::log2_rest / 2));
    const Vec<T> h = g + curved;
    const Vec<T> w = twice_s * h;
    const Vec<T> one_minus_s = T(1) - T(0.5) * twice_s, one_plus_s = T(1) + T(0.5) * twice_s;
    const Vec<T> numerator = one_minus_s + w, denominator = one_plus_s - w;
    const Vec<T> numerator_rest = (one_minus_s - numerator) + w, denominator_rest = (one_plus_s - denominator) - w;
#if defined(__AVX512F__)
    // A division of eight doubles occupies the divider for 16 cycles; from the 14 bits of vrcp14pd one Newton step
    // makes 28, and the correction, with the remainder exact by FMA, the rest.
    Vec<T> reciprocal = _mm512_maskz_rcp14_pd(0xff, denominator);
    reciprocal = multiply_add(reciprocal, multiply_add(-denominator, reciprocal, broadcast<T>(1)), reciprocal);
    const Vec<T> quotient = numerator * reciprocal;
    const Vec<T> remainder =
        multiply_add(-quotient, denominator, numerator) + multiply_add(-quotient, denominator_rest, numerator_rest);
#else
    const Vec<T> reciprocal = T(1.5) - T(0.5) * denominator;  // within 12 % on [1, 2]: enough for the correction
    const Vec<T> quotient = numerator / denominator;
    // Here the remainder of the division is out of reach, so the rounding of h is made good instead.
    const Vec<T> h_rest = curved - (h - g);
    const Vec<T> remainder = multiply_add(-quotient, denominator_rest, numerator_rest) + twice_s * h_rest;
#endif
    return multiply_add(remainder, reciprocal, quotient);
  }
}

#if defined(__AVX512F__)

/// The entries of a 32-row table chosen by the low five bits of each lane of index.
FFRL_INLINE Vec<float> look_up(const float* table, Bits<float> index) {
  return _mm512_permutex2var_ps(_mm512_load_ps(table), reinterpret_cast<__m512i>(index), _mm512_load_ps(table + 16));
}

/// tanh a for a ≥ 0, by a polynomial about the centre of one of 32 intervals: there are no divisions, and one
/// permutation of two registers fetches a coefficient for every lane.
FFRL_INLINE Vec<float> tanh_of_magnitude_by_table(Vec<float> a) {
  using namespace tanh_table;
  a = at_most(a, broadcast<float>(kSaturation));
  const Bits<float> interval = as_bits<float>(
      multiply_add(a, multiply_add<float>(a, -kCurvature, kSlope), broadcast<float>(Constants<float>::round)));
  const Vec<float> d = a - look_up(kCentre, interval);
  Vec<float> p = look_up(kCoefficient[kDegree], interval);
#pragma GCC unroll 16
  for (int j = kDegree - 1; j >= 0; --j) p = multiply_add(p, d, look_up(kCoefficient[j], interval));
  return p;
}

#endif

}  // namespace elementary

template <class T>
FFRL_INLINE Vec<T> tanh(Vec<T> x) {
  using namespace elementary;
  const Bits<T> sign = sign_bit<T>(x);
  const Vec<T> magnitude = from_bits<T>(as_bits<T>(x) ^ sign);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float))
    return from_bits<T>(as_bits<T>(tanh_of_magnitude_by_table(magnitude)) | sign);
  else
#endif
    return from_bits<T>(as_bits<T>(tanh_of_magnitude<T>(magnitude)) | sign);
}

/// e^x = 2^n·e^f with |f| ≤ ln 2 / 2.
template <class T>
FFRL_INLINE Vec<T> exp(Vec<T> x) {
  using namespace elementary;
  using C = Constants<T>;
  x = at_least(at_most(x, broadcast<T>(C::exp_overflow)), broadcast<T>(C::exp_underflow));
  constexpr T shift = C::round + T(2 * C::bias);
  const Vec<T> rounded = multiply_add<T>(x, C::inverse_log2, shift);
  const Vec<T> n = rounded - shift;
  const Vec<T> f = multiply_add<T>(n, -C::log2_low, multiply_add<T>(n, -C::log2_high, x));
  const Vec<T> square = f * f;
  Vec<T> p = polynomial<C::degree, T>(C::quotient, f, square);
  p = multiply_add(square, p, f) + T(1);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float))
    return _mm512_maskz_scalef_ps(0xffff, p, n);
  else
    return _mm512_maskz_scalef_pd(0xff, p, n);
#else
  // 2^n as a product of two powers which are normal numbers, so that over- and underflow happen only in the last
  // product. The low bits hold n + 2·bias, and the two halves the biased exponents.
  const Bits<T> both = as_bits<T>(rounded);
  const Bits<T> first = both >> 1;
  const Bits<T> second = both - first;
  return (p * from_bits<T>(first << C::mantissa)) * from_bits<T>(second << C::mantissa);
#endif
}

}  // namespace ffrl::FFRL_ISA

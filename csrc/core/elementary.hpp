// tanh, exp, the normal distribution function, sine and cosine of whole vectors, without branches or library calls.
//
// The error on every instruction set, which tests/core/elementary_ulp.cpp measures, for float over all arguments:
//
//     tanh, exp    at most 2 ulp
//     normal_cdf   at most 4 ulp for x ≥ −1, at most 16 ulp below
//     sincos       at most 2 ulp for |x| ≤ 1e5; beyond, at most |x|·2^(2 − mantissa), and the values lie in [−1, 1]
//
// Special values: tanh(±0) = ±0, tanh(±∞) = ±1, tanh of a denormal is itself; exp overflows to ∞ and underflows
// gradually to 0; normal_cdf(±0) = ½, normal_cdf(∞) = 1, and to the left it underflows gradually to 0; sin(±0) = ±0,
// sin of a denormal is itself, sine and cosine of ±∞ are NaN; NaN gives NaN. tanh and sine are odd and cosine is even
// bit for bit, and normal_cdf(x) = 1 − normal_cdf(−x) for x ≥ 0; of these only exp exceeds 1.
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
///
/// For 0 ≤ a ≤ normal_underflow, 2·Φ(−a)·e^(a²/2) = D/(D + a·E) with D = Σ_k tail[k]·a^k and E = Σ_k tail_rest[k]·a^k.
/// All the coefficients are positive: nothing cancels. a & square_mask keeps so many bits that its square is exact.
///
/// For |r| ≤ reduced, sin r = r + r³·Σ_k sine[k]·r^2k and cos r = 1 − r²/2 + r⁴·Σ_k cosine[k]·r^2k. The numbers half_pi
/// add up to π/2, and so do half_pi_exact. The products of all of these but the last with an integer n < 2^16 are
/// exact, and so are the first exact_differences differences when they are subtracted one by one from a number next to
/// n·π/2.
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
  static constexpr int tail_degree = 4;
  static constexpr float tail[] = {1.0f, 0.87043184f, 0.36179295f, 0.07965698f, 0.007984543f};
  static constexpr float tail_rest[] = {0.79788476f, 0.831121f, 0.3836262f, 0.09185791f, 0.010007003f};
  static constexpr float normal_underflow = 14.2f;  // Φ(−a) < 2^-150 from 14.1702 on
  static constexpr std::int32_t square_mask = -1 << 12;
  static constexpr int sine_degree = 2;
  static constexpr float sine[] = {-0.16666654f, 0.008332108f, -0.00019508234f};
  static constexpr float cosine[] = {0.04166664f, -0.001388715f, 2.4415836e-05f};
  static constexpr float inverse_half_pi = 0.63661975f;
  static constexpr float reduced = 0.7932f;  // a little more than π/4
  static constexpr float half_pi[] = {1.5707963f, 7.5497894e-08f, 5.3903025e-15f};
  static constexpr float half_pi_exact[] = {1.5703125f,     0.0004825592f, 1.2516975e-06f,
                                            1.5832484e-08f, 6.04814e-11f,  2.896074e-13f};
  static constexpr int exact_differences = 3;
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
  static constexpr int tail_degree = 10;
  static constexpr double tail[] = {1.0,
                                    1.6507115626461795,
                                    1.3511388956759345,
                                    0.7084123793678478,
                                    0.2609928660521135,
                                    0.0702736265632277,
                                    0.013984824403709946,
                                    0.002033434635807675,
                                    0.00020751187302837557,
                                    1.3513012237574067e-05,
                                    4.314974198518341e-07};
  static constexpr double tail_rest[] = {0.7978845608028654,    1.4536970425417368,    1.2795987492320537,
                                         0.7100177646187389,    0.2738450451422728,    0.0766047658575971,
                                         0.01575293944734195,   0.0023579565528499785, 0.00024710535370247005,
                                         1.650455185525305e-05, 5.408018165153086e-07};
  static constexpr double normal_underflow = 38.5;  // Φ(−a) < 2^-1075 from 38.4854 on
  static constexpr std::int64_t square_mask = std::int64_t(-1) << 27;
  static constexpr int sine_degree = 5;
  static constexpr double sine[] = {-0.16666666666666624,  0.00833333333332057,     -0.00019841269828384405,
                                    2.755731320845161e-06, -2.5050683407637046e-08, 1.5892501401579392e-10};
  static constexpr double cosine[] = {0.04166666666666658,     -0.0013888888888871046, 2.480158728760802e-05,
                                      -2.7557313821589205e-07, 2.087565228362853e-09,  -1.1356021016513036e-11};
  static constexpr double inverse_half_pi = 0.6366197723675814;
  static constexpr double reduced = 0.7932;  // a little more than π/4
  static constexpr double half_pi[] = {1.5707963267948966, 6.123233995736765e-17, 1.0828566739219139e-32};
  static constexpr double half_pi_exact[] = {1.5707963267923333, 2.5633441515839558e-12, 1.0562999066987426e-23};
  static constexpr int exact_differences = 1;
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
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__)) || defined(__aarch64__)
inline constexpr bool kFused = true;
#else
inline constexpr bool kFused = false;
#endif

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

/// p·2^n, where rounded = n + shift and the low bits of shift are 2·bias.
template <class T>
FFRL_INLINE Vec<T> scale(Vec<T> p, [[maybe_unused]] Vec<T> rounded, [[maybe_unused]] Vec<T> n) {
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
  return (p * from_bits<T>(first << Constants<T>::mantissa)) * from_bits<T>(second << Constants<T>::mantissa);
#endif
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
  return scale<T>(p, rounded, n);
}

/// Φ(x), the probability that a standard normal variable is below x: the tail Φ(−|x|), or 1 less the tail.
template <class T>
FFRL_INLINE Vec<T> normal_cdf(Vec<T> x) {
  using namespace elementary;
  using C = Constants<T>;
  const Vec<T> a = at_most(from_bits<T>(as_bits<T>(x) ^ sign_bit<T>(x)), broadcast<T>(C::normal_underflow));
  // a² = square + square_rest: without the second, half an ulp of the first would be a relative error of the tail.
  Vec<T> square = a * a, square_rest;
  if constexpr (kFused) {
    square_rest = multiply_add(a, a, -square);
  } else {
    const Vec<T> high = from_bits<T>(as_bits<T>(a) & C::square_mask);
    square_rest = (high * high - square) + (a - high) * (a + high);
  }
  // −a²/2 = n ln 2 + f, and then as in exp.
  constexpr T shift = C::round + T(2 * C::bias);
  const Vec<T> rounded = multiply_add<T>(square, C::inverse_log2 * T(-0.5), shift);
  const Vec<T> n = rounded - shift;
  Vec<T> f = multiply_add<T>(n, -C::log2_high, square * T(-0.5));
  f = multiply_add<T>(square_rest, T(-0.5), multiply_add<T>(n, -C::log2_low, f));
  const Vec<T> f_square = f * f;
  const Vec<T> expm1 = multiply_add(f_square, polynomial<C::degree, T>(C::quotient, f, f_square), f);
  // In this form of the quotient the rounding error of d cancels in part, the more the smaller a is.
  const Vec<T> d = polynomial<C::tail_degree, T>(C::tail, a, square);
  const Vec<T> denominator = multiply_add(a, polynomial<C::tail_degree, T>(C::tail_rest, a, square), d);
  const Vec<T> half = T(0.5) * d;
  const Vec<T> tail = scale<T>(multiply_add(half, expm1, half) / denominator, rounded, n);
  return x < T(0) ? tail : T(1) - tail;
}

/// The sine and cosine of |x| = n·π/2 + r, |r| ≤ π/4, from those of r.
template <class T>
FFRL_INLINE void sincos(Vec<T> x, Vec<T>& sin, Vec<T>& cos) {
  using namespace elementary;
  using C = Constants<T>;
  const Bits<T> sign = sign_bit<T>(x);
  const Vec<T> a = from_bits<T>(as_bits<T>(x) ^ sign);
  const Vec<T> rounded = multiply_add<T>(a, C::inverse_half_pi, C::round);
  const Vec<T> n = rounded - C::round;
  // r = a − n·π/2, to its last place even where little of a is left.
  Vec<T> r = a;
  if constexpr (kFused) {
    // The first difference is exact, and the third product matters only where r is nearly 0.
    for (T part : C::half_pi) r = multiply_add<T>(n, -part, r);
  } else {
    // Either a difference is exact or r exceeds the product, so that the rounding error is exact.
    constexpr int last = sizeof(C::half_pi_exact) / sizeof(T) - 1;
    Vec<T> rest = n * -C::half_pi_exact[last];
#pragma GCC unroll 8
    for (int k = 0; k < last; ++k) {
      const Vec<T> product = n * C::half_pi_exact[k], difference = r - product;
      if (k >= C::exact_differences) rest += (r - difference) - product;
      r = difference;
    }
    r += rest;
  }
  // Where n is no longer an integer with its last digit, any r will do.
  r = at_least(at_most(r, broadcast<T>(C::reduced)), broadcast<T>(-C::reduced));
  const Vec<T> square = r * r, fourth = square * square;
  const Vec<T> sine = multiply_add(r * square, polynomial<C::sine_degree, T>(C::sine, square, fourth), r);
  const Vec<T> cosine = multiply_add(fourth, polynomial<C::sine_degree, T>(C::cosine, square, fourth),
                                     multiply_add<T>(square, T(-0.5), T(1)));
  // The low bits of rounded are those of n.
  constexpr int top = 8 * sizeof(T) - 1;
  const Bits<T> quadrant = as_bits<T>(rounded);
  const Bits<T> sine_sign = sign ^ sign_bit<T>(from_bits<T>(quadrant << (top - 1)));
  const Bits<T> cosine_sign = sign_bit<T>(from_bits<T>((quadrant << top) ^ (quadrant << (top - 1))));
  const auto odd = (quadrant & 1) != 0;
  sin = from_bits<T>(as_bits<T>(odd ? cosine : sine) ^ sine_sign);
  cos = from_bits<T>(as_bits<T>(odd ? sine : cosine) ^ cosine_sign);
}

}  // namespace ffrl::FFRL_ISA

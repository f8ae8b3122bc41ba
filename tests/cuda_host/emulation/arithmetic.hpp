// Intrinsic functions of CUDA, and the roundings of the matrix instructions' operands.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "types.hpp"

inline std::uint32_t __float_as_uint(float x) { return std::bit_cast<std::uint32_t>(x); }
inline float __uint_as_float(std::uint32_t x) { return std::bit_cast<float>(x); }
inline std::int32_t __float_as_int(float x) { return std::bit_cast<std::int32_t>(x); }
inline float __int_as_float(std::int32_t x) { return std::bit_cast<float>(x); }

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

/// As the device computes it: a base-two exponential of a rounded product.
inline float __expf(float x) { return std::exp2(x * 1.4426950408889634f); }

template <class T>
T __ldg(const T* address) {
  return *address;
}

// As overloads and not as one template: the arguments of a call may differ in type, as they may in CUDA.
#define FFRL_MIN_MAX(type)                                  \
  inline type min(type a, type b) { return b < a ? b : a; } \
  inline type max(type a, type b) { return a < b ? b : a; }
FFRL_MIN_MAX(int)
FFRL_MIN_MAX(unsigned)
FFRL_MIN_MAX(long)
FFRL_MIN_MAX(unsigned long)
FFRL_MIN_MAX(long long)
FFRL_MIN_MAX(unsigned long long)
#undef FFRL_MIN_MAX
// A NaN loses against a number, as in CUDA.
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }

namespace cuda_host {

/// What a matrix instruction reads of a tf32 operand: the low 13 bits are ignored.
inline float truncate_tf32(std::uint32_t bits) { return std::bit_cast<float>(bits & 0xFFFFE000u); }

/// cvt.rna.tf32.f32: to the nearest of 10 bits, ties away from zero.
inline std::uint32_t round_tf32(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if (!std::isfinite(x)) return bits;
  return (bits + 0x1000u) & 0xFFFFE000u;
}

/// cvt.rn.bf16.f32: to the nearest of 7 bits, ties to even.
inline std::uint16_t round_bf16(float x) {
  if (std::isnan(x)) return 0x7FFF;
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

inline float bf16_to_float(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

/// cvt.rn.bf16x2.f32: `low` in the lower half.
inline std::uint32_t pack_bf16(float low, float high) {
  return std::uint32_t{round_bf16(low)} | std::uint32_t{round_bf16(high)} << 16;
}

/// tanh.approx.f32, whose relative error is at most 2^-11: the result keeps 10 bits after the leading one.
inline float tanh_approx(float x) {
  const float exact = std::tanh(x);
  if (std::isnan(exact)) return exact;
  const auto bits = std::bit_cast<std::uint32_t>(exact);
  return std::bit_cast<float>((bits + 0xFFFu + ((bits >> 13) & 1u)) & 0xFFFFE000u);
}

}  // namespace cuda_host

inline __nv_bfloat16 __float2bfloat16(float x) { return {cuda_host::round_bf16(x)}; }
inline float __bfloat162float(__nv_bfloat16 x) { return cuda_host::bf16_to_float(x.bits); }

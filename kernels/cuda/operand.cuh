// Operands that stay in a warp's registers from one product to the next, and weights in shared memory as the matrix
// instructions want them.
//
// A lane's accumulators of two 16 × 8 tiles side by side are its elements of a 16 × 16 operand of the next product: for
// bf16 as they are, for tf32 if the inner indices are taken in the order 0 2 4 6 1 3 5 7 on both sides.
#pragma once

#include "precision.cuh"

namespace ffrl::cuda {

template <class P>
struct Chained;

/// Units of the widest network whose operands stay in registers and whose weights in shared memory, 227 KB at most; of
/// ieee, whose operands are split in two, none.
template <class P>
inline constexpr int kWidestChain = 0;
template <>
inline constexpr int kWidestChain<Tf32> = 128;
template <>
inline constexpr int kWidestChain<Bf16> = 232;

template <>
struct Chained<Tf32> {
  using Element = float;
  static constexpr int kPerWord = 1;
  static constexpr int kPad = 4;  // elements that a row of weights has besides, against bank conflicts
  struct Operand {                // 16 rows, 16 inner indices
    std::uint32_t bits[2][4];
  };
  struct Weights {  // 16 inner indices, 8 columns
    std::uint32_t bits[2][2];
  };

  __device__ __forceinline__ static Operand pack(const float (&left)[4], const float (&right)[4]) {
    return {{{round_tf32(left[0]), round_tf32(left[2]), round_tf32(left[1]), round_tf32(left[3])},
             {round_tf32(right[0]), round_tf32(right[2]), round_tf32(right[1]), round_tf32(right[3])}}};
  }

  __device__ __forceinline__ static void unpack(const Operand& a, float (&left)[4], float (&right)[4]) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int at = (e & 1) * 2 + (e >> 1);
      left[e] = __uint_as_float(a.bits[0][at]);
      right[e] = __uint_as_float(a.bits[1][at]);
    }
  }

  /// b[k, n] = w[n0 + n, k0 + k]. Widths are whole operands here, so that both halves of one are always there.
  __device__ __forceinline__ static Weights rows(const Element* w, int pitch, int n0, int k0, int lane, bool) {
    const int g = lane / 4, t = lane % 4;
    const auto pair = [&](int k) { return *reinterpret_cast<const float2*>(w + (n0 + g) * pitch + k0 + k + 2 * t); };
    const float2 x = pair(0), y = pair(8);
    return {{{__float_as_uint(x.x), __float_as_uint(x.y)}, {__float_as_uint(y.x), __float_as_uint(y.y)}}};
  }

  /// b[k, n] = w[k0 + k, n0 + n]
  __device__ __forceinline__ static Weights columns(const Element* w, int pitch, int k0, int n0, int lane, bool) {
    const int g = lane / 4, t = lane % 4;
    const auto bits = [&](int k) { return __float_as_uint(w[(k0 + k + 2 * t) * pitch + n0 + g]); };
    return {{{bits(0), bits(1)}, {bits(8), bits(9)}}};
  }

  __device__ __forceinline__ static void multiply_add(float (&d)[4], const Operand& a, const Weights& b) {
    mma_tf32(d, a.bits[0], b.bits[0]);
    mma_tf32(d, a.bits[1], b.bits[1]);
  }

  /// One word of weights from its elements x(0) ….
  template <class X>
  __device__ __forceinline__ static std::uint32_t word(X x) {
    return round_tf32(x(0));
  }
};

template <>
struct Chained<Bf16> {
  using Element = std::uint16_t;
  static constexpr int kPerWord = 2;
  static constexpr int kPad = 8;
  struct Operand {
    std::uint32_t bits[4];
  };
  struct Weights {
    std::uint32_t bits[2];
  };

  __device__ __forceinline__ static Operand pack(const float (&left)[4], const float (&right)[4]) {
    return {{pack_bf16(left[0], left[1]), pack_bf16(left[2], left[3]), pack_bf16(right[0], right[1]),
             pack_bf16(right[2], right[3])}};
  }

  __device__ __forceinline__ static void unpack(const Operand& a, float (&left)[4], float (&right)[4]) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const auto half = [&](std::uint32_t word) { return __uint_as_float(e & 1 ? word & 0xffff0000u : word << 16); };
      left[e] = half(a.bits[e >> 1]);
      right[e] = half(a.bits[2 + (e >> 1)]);
    }
  }

  /// Where not `both` halves of the inner indices are there, the second is zero.
  __device__ __forceinline__ static Weights rows(const Element* w, int pitch, int n0, int k0, int lane, bool both) {
    const auto* const words = reinterpret_cast<const std::uint32_t*>(w + (n0 + lane / 4) * pitch + k0) + lane % 4;
    return {{words[0], both ? words[4] : 0}};
  }

  __device__ __forceinline__ static Weights columns(const Element* w, int pitch, int k0, int n0, int lane, bool both) {
    Weights b;
    ldmatrix_transposed(b.bits, w + (k0 + lane % (both ? 16 : 8)) * pitch + n0);
    if (!both) b.bits[1] = 0;
    return b;
  }

  __device__ __forceinline__ static void multiply_add(float (&d)[4], const Operand& a, const Weights& b) {
    mma_bf16(d, a.bits, b.bits);
  }

  template <class X>
  __device__ __forceinline__ static std::uint32_t word(X x) {
    return pack_bf16(x(0), x(1));
  }
};

}  // namespace ffrl::cuda

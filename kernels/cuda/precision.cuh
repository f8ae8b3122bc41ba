// How an operand of a product is rounded and laid out among the lanes of a warp, for each precision.
#pragma once

#include "instructions.cuh"
#include "launch.hpp"

namespace ffrl::cuda {

/// Which inner index k a lane's two elements are; any order will do if both operands keep to it. One of the two orders
/// reads shared memory without bank conflicts along a row, the other along a column.
enum class Inner { straight, paired };

template <Inner kInner>
__device__ __forceinline__ int inner_index(int t, int j) {
  return kInner == Inner::straight ? t + 4 * j : 2 * t + j;
}

/// tanh(x) to about 2·10⁻⁷, absolute: the products around it are less exact.
__device__ __forceinline__ float fast_tanh(float x) { return 1 - __fdividef(2.f, __expf(2 * x) + 1); }

/// Operands are read through functions of their indices: a(row, k) and b(k, column). `kRounded` says that b's numbers
/// are rounded already, as those of packed weights.
struct Tf32 {
  static constexpr Precision kPrecision = Precision::tf32;
  static constexpr int kInner = 8;  // inner length of one instruction
  struct A {
    std::uint32_t bits[4];
  };
  struct B {
    std::uint32_t bits[2];
  };

  template <Inner kOrder, class Element>
  __device__ __forceinline__ static A load_a(Element a, int g, int t) {
    const int k0 = inner_index<kOrder>(t, 0), k1 = inner_index<kOrder>(t, 1);
    return {{round_tf32(a(g, k0)), round_tf32(a(g + 8, k0)), round_tf32(a(g, k1)), round_tf32(a(g + 8, k1))}};
  }

  template <Inner kOrder, bool kRounded, class Element>
  __device__ __forceinline__ static B load_b(Element b, int g, int t) {
    const float x = b(inner_index<kOrder>(t, 0), g), y = b(inner_index<kOrder>(t, 1), g);
    return kRounded ? B{{__float_as_uint(x), __float_as_uint(y)}} : B{{round_tf32(x), round_tf32(y)}};
  }

  __device__ __forceinline__ static void multiply_add(float (&d)[4], const A& a, const B& b) {
    mma_tf32(d, a.bits, b.bits);
  }

  __device__ __forceinline__ static float round(float x) { return __uint_as_float(round_tf32(x)); }
  __device__ __forceinline__ static float tanh(float x) { return fast_tanh(x); }
};

struct Bf16 {
  static constexpr Precision kPrecision = Precision::bf16;
  static constexpr int kInner = 16;
  using A = Tf32::A;
  using B = Tf32::B;

  template <Inner, class Element>
  __device__ __forceinline__ static A load_a(Element a, int g, int t) {
    A result;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = g + 8 * (i & 1), k = 2 * t + 8 * (i >> 1);
      result.bits[i] = pack_bf16(a(row, k), a(row, k + 1));
    }
    return result;
  }

  template <Inner, bool, class Element>
  __device__ __forceinline__ static B load_b(Element b, int g, int t) {
    return {{pack_bf16(b(2 * t, g), b(2 * t + 1, g)), pack_bf16(b(2 * t + 8, g), b(2 * t + 9, g))}};
  }

  __device__ __forceinline__ static void multiply_add(float (&d)[4], const A& a, const B& b) {
    mma_bf16(d, a.bits, b.bits);
  }

  __device__ __forceinline__ static float round(float x) { return __uint_as_float(pack_bf16(0, x) & 0xffff0000u); }
  __device__ __forceinline__ static float tanh(float x) { return fast_tanh(x); }
};

/// x = high + low, both tf32; what is left out, low·low and the rest of low, is about 2⁻²² of a product.
struct Ieee {
  static constexpr Precision kPrecision = Precision::ieee;
  static constexpr int kInner = 8;
  struct A {
    std::uint32_t high[4], low[4];
  };
  struct B {
    std::uint32_t high[2], low[2];
  };

  __device__ __forceinline__ static void split(float x, std::uint32_t& high, std::uint32_t& low) {
    high = round_tf32(x);
    low = round_tf32(x - __uint_as_float(high));
  }

  template <Inner kOrder, class Element>
  __device__ __forceinline__ static A load_a(Element a, int g, int t) {
    A result;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      split(a(g + 8 * (i & 1), inner_index<kOrder>(t, i >> 1)), result.high[i], result.low[i]);
    return result;
  }

  template <Inner kOrder, bool, class Element>
  __device__ __forceinline__ static B load_b(Element b, int g, int t) {
    B result;
#pragma unroll
    for (int i = 0; i < 2; ++i) split(b(inner_index<kOrder>(t, i), g), result.high[i], result.low[i]);
    return result;
  }

  __device__ __forceinline__ static void multiply_add(float (&d)[4], const A& a, const B& b) {
    mma_tf32(d, a.low, b.high);
    mma_tf32(d, a.high, b.low);
    mma_tf32(d, a.high, b.high);
  }

  __device__ __forceinline__ static float round(float x) { return x; }
  __device__ __forceinline__ static float tanh(float x) { return tanhf(x); }
};

}  // namespace ffrl::cuda

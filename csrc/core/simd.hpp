// Vectors of one register, on GCC's and Clang's vector extensions.
//
// This header and all that include it are compiled once per instruction set, each time inside a namespace of its own
// (FFRL_ISA): two translation units compiled with different flags must never share an inline function, or the linker
// would keep the copy which only the newer processor can run. For the same reason no standard-library template that may
// be emitted out of line (containers, algorithms) is used below this line of the include graph.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#if !defined(FFRL_ISA) || !defined(FFRL_VECTOR_BYTES) || !defined(FFRL_VECTOR_REGISTERS)
#error "compile through csrc/core/isa: FFRL_ISA, FFRL_VECTOR_BYTES and FFRL_VECTOR_REGISTERS name the instruction set"
#endif

#define FFRL_INLINE inline __attribute__((always_inline))

namespace ffrl::FFRL_ISA {

template <class T>
struct VectorTypes;

template <>
struct VectorTypes<float> {
  typedef float Vector __attribute__((vector_size(FFRL_VECTOR_BYTES)));
  typedef float Unaligned __attribute__((vector_size(FFRL_VECTOR_BYTES), aligned(alignof(float)), may_alias));
  typedef std::int32_t Bits __attribute__((vector_size(FFRL_VECTOR_BYTES)));
  using Integer = std::int32_t;
};

template <>
struct VectorTypes<double> {
  typedef double Vector __attribute__((vector_size(FFRL_VECTOR_BYTES)));
  typedef double Unaligned __attribute__((vector_size(FFRL_VECTOR_BYTES), aligned(alignof(double)), may_alias));
  typedef std::int64_t Bits __attribute__((vector_size(FFRL_VECTOR_BYTES)));
  using Integer = std::int64_t;
};

template <class T>
using Vec = typename VectorTypes<T>::Vector;

/// The integer vector of the same width and lane count; also the type of a comparison's mask (−1 true, 0 false).
template <class T>
using Bits = typename VectorTypes<T>::Bits;

template <class T>
inline constexpr int kLanes = FFRL_VECTOR_BYTES / static_cast<int>(sizeof(T));

template <class T>
FFRL_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorTypes<T>::Unaligned*>(p);
}

template <class T>
FFRL_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename VectorTypes<T>::Unaligned*>(p) = v;
}

template <class T>
FFRL_INLINE Vec<T> broadcast(T x) {
  return x - Vec<T>{};
}

/// Rows are too short for the cost of a call to memcpy.
template <class T>
FFRL_INLINE void copy(std::int64_t n, const T* from, T* to) {
  std::int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) store(to + i, load(from + i));
  for (; i < n; ++i) to[i] = from[i];
}

template <class T, int kSize, class V, std::size_t... I>
FFRL_INLINE T sum_halves(V v, std::index_sequence<I...>) {
  if constexpr (kSize == 2)
    return v[0] + v[1];
  else
    return sum_halves<T, kSize / 2>(
        __builtin_shufflevector(v, v, int(I)...) + __builtin_shufflevector(v, v, (int(I) + kSize / 2)...),
        std::make_index_sequence<kSize / 4>{});
}

/// The sum of the lanes, by halves.
template <class T>
FFRL_INLINE T horizontal_sum(Vec<T> v) {
  return sum_halves<T, kLanes<T>>(v, std::make_index_sequence<kLanes<T> / 2>{});
}

template <class T, int kDistance, std::size_t... I>
FFRL_INLINE void exchange(Vec<T>& a, Vec<T>& b, std::index_sequence<I...>) {
  constexpr int n = kLanes<T>, s = kDistance;
  const Vec<T> low = __builtin_shufflevector(a, b, ((int(I) & s) ? n + int(I) - s : int(I))...);
  b = __builtin_shufflevector(a, b, ((int(I) & s) ? n + int(I) : int(I) + s)...);
  a = low;
}

template <class T, int kDistance>
FFRL_INLINE void transpose_stages(Vec<T> (&row)[kLanes<T>]) {
  if constexpr (kDistance > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; ++i)
      if (!(i & kDistance)) exchange<T, kDistance>(row[i], row[i + kDistance], std::make_index_sequence<kLanes<T>>{});
    transpose_stages<T, kDistance / 2>(row);
  }
}

/// to[j, i] = from[i, j] of a square block of as many rows as a vector has lanes.
template <class T>
FFRL_INLINE void transpose_block(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride) {
  Vec<T> row[kLanes<T>];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) row[i] = load(from + i * from_stride);
  transpose_stages<T, kLanes<T> / 2>(row);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) store(to + i * to_stride, row[i]);
}

}  // namespace ffrl::FFRL_ISA

// What the matrix instructions share: element formats, fragment layouts, sums in double precision.
#pragma once

#include "decode.hpp"

namespace ptx {

/// An element as it is multiplied: tf32 truncated, the half formats exactly.
inline double element(Type type, const std::byte* at) {
  if (type == Type::f64) {
    double x;
    std::memcpy(&x, at, 8);
    return x;
  }
  if (type == Type::tf32 || type == Type::f32) {
    std::uint32_t bits;
    std::memcpy(&bits, at, 4);
    return type == Type::tf32 ? truncated_tf32(bits) : std::bit_cast<float>(bits);
  }
  std::uint16_t bits;
  std::memcpy(&bits, at, 2);
  if (type == Type::bf16) return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  return static_cast<double>(std::bit_cast<_Float16>(bits));
}

/// c (m, n) += a (m, k) b (k, n), all of them row by row; n a multiple of 8.
inline void multiply_add(int m, int n, int k, const double* a, const double* b, double* c) {
  constexpr int kColumns = 8;
  for (int j = 0; j < n; j += kColumns)
    for (int i = 0; i < m; ++i) {
      double sum[kColumns];
      std::memcpy(sum, c + i * n + j, sizeof(sum));
      for (int l = 0; l < k; ++l) {
        const double x = a[i * k + l];
        for (int column = 0; column < kColumns; ++column) sum[column] += x * b[l * n + j + column];
      }
      std::memcpy(c + i * n + j, sum, sizeof(sum));
    }
}

/// Matrix instructions need the whole warp.
inline void need_whole_warp(Lanes mask) {
  if (mask != kAllLanes) throw Fault("divergent: a matrix instruction without all lanes of the warp");
}

/// Element `part` of register `index` of operand A, 16 rows: e elements a register, a row and a column for each lane.
struct FragmentA {
  int e;
  int row(int lane, int index) const { return (lane >> 2) + 8 * (index & 1); }
  int column(int lane, int index, int part) const { return (lane & 3) * e + part + (index >> 1) * 4 * e; }
};

}  // namespace ptx

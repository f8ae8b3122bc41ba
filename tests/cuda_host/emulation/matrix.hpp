// Matrix instructions: which lane holds which element is as the PTX manual says; products are summed in double and
// rounded once.
#pragma once

#include <cstdint>

#include "arithmetic.hpp"
#include "collectives.hpp"
#include "shared_memory.hpp"

namespace cuda_host {

/// One lane's fragments. Lane 4 g + t holds rows g and g + 8 of a and d, and column g of b.
struct Product {
  float* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};

template <int kInner>
struct Operands {
  float a[16][kInner], b[8][kInner];
};

inline void unpack(const Lanes<Product>& lanes, Operands<8>& operands) {
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) operands.a[group + 8 * (i % 2)][t + 4 * (i / 2)] = truncate_tf32(lanes[lane]->a[i]);
    for (int i = 0; i < 2; ++i) operands.b[group][t + 4 * i] = truncate_tf32(lanes[lane]->b[i]);
  }
}

inline void unpack(const Lanes<Product>& lanes, Operands<16>& operands) {
  const auto half = [](std::uint32_t pair, int i) { return bf16_to_float(static_cast<std::uint16_t>(pair >> 16 * i)); };
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, t = lane % 4;
    for (int i = 0; i < 8; ++i)
      operands.a[group + 8 * (i / 2 % 2)][2 * t + i % 2 + 8 * (i / 4)] = half(lanes[lane]->a[i / 2], i % 2);
    for (int i = 0; i < 4; ++i) operands.b[group][2 * t + i % 2 + 8 * (i / 2)] = half(lanes[lane]->b[i / 2], i % 2);
  }
}

template <int kInner>
void multiply(const Lanes<Product>& lanes) {
  Operands<kInner> operands;
  unpack(lanes, operands);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const float* row = operands.a[lane / 4 + 8 * (i / 2)];
      const float* column = operands.b[2 * (lane % 4) + i % 2];
      double sum = lanes[lane]->d[i];
      for (int k = 0; k < kInner; ++k) sum += static_cast<double>(row[k]) * static_cast<double>(column[k]);
      lanes[lane]->d[i] = static_cast<float>(sum);
    }
  }
}

/// d (16, 8) += a (16, 8) b (8, 8).
inline void mma_m16n8k8_tf32(float d[4], const std::uint32_t a[4], const std::uint32_t b[2]) {
  Product mine{d, a, b};
  meet_all<multiply<8>>("mma.m16n8k8.tf32", mine);
}

/// d (16, 8) += a (16, 16) b (16, 8); two values a register, the first in the lower half.
inline void mma_m16n8k16_bf16(float d[4], const std::uint32_t a[4], const std::uint32_t b[2]) {
  Product mine{d, a, b};
  meet_all<multiply<16>>("mma.m16n8k16.bf16", mine);
}

/// A row of 8 halves that a lane has read for the warp, and what the lane gets.
struct MatrixRow {
  std::uint32_t words[4];
  std::uint32_t* d;
};

template <int kMatrices, bool kTransposed>
void distribute(const Lanes<MatrixRow>& lanes) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int m = 0; m < kMatrices; ++m) {
      if constexpr (kTransposed) {
        const auto half = [&](int row) { return lanes[8 * m + row]->words[lane / 8] >> 16 * (lane / 4 % 2) & 0xFFFFu; };
        lanes[lane]->d[m] = half(2 * (lane % 4)) | half(2 * (lane % 4) + 1) << 16;
      } else {
        lanes[lane]->d[m] = lanes[8 * m + lane / 4]->words[lane % 4];
      }
    }
  }
}

/// The first 8 kMatrices lanes each give the address of a row: row lane % 8 of matrix lane / 8.
template <int kMatrices, bool kTransposed>
void load_matrices(const char* name, std::uint32_t* d, const void* shared) {
  MatrixRow mine{{}, d};
  if (lane_index() < 8 * kMatrices) {
    require_shared(name, shared, 16);
    const auto* row = static_cast<const volatile std::uint32_t*>(shared);
    for (int i = 0; i < 4; ++i) mine.words[i] = row[i];
  }
  meet_all<distribute<kMatrices, kTransposed>>(name, mine);
}

inline void ldmatrix_x1(std::uint32_t d[1], const void* shared) { load_matrices<1, false>("ldmatrix.x1", d, shared); }
inline void ldmatrix_x2(std::uint32_t d[2], const void* shared) { load_matrices<2, false>("ldmatrix.x2", d, shared); }
inline void ldmatrix_x4(std::uint32_t d[4], const void* shared) { load_matrices<4, false>("ldmatrix.x4", d, shared); }
inline void ldmatrix_x1_trans(std::uint32_t d[1], const void* shared) {
  load_matrices<1, true>("ldmatrix.x1.trans", d, shared);
}
inline void ldmatrix_x2_trans(std::uint32_t d[2], const void* shared) {
  load_matrices<2, true>("ldmatrix.x2.trans", d, shared);
}
inline void ldmatrix_x4_trans(std::uint32_t d[4], const void* shared) {
  load_matrices<4, true>("ldmatrix.x4.trans", d, shared);
}

}  // namespace cuda_host

// z of the sixteen rows of a warp, from moment to moment.
#pragma once

#include "tile.cuh"

namespace ffrl::cuda {

inline constexpr int kWarpRows = 16;

/// In shared memory: read from and written to global memory row by row.
class SharedRows {
 public:
  static constexpr bool kShared = true;

  __device__ __forceinline__ SharedRows(const Problem& p, const Outputs& out, const int* row, float* z, int pitch)
      : p_(p), out_(out), row_(row), z_(z), pitch_(pitch) {}

  /// z_0 and the path's first moment.
  __device__ __forceinline__ void begin() {
    for (int r = 0; r < kWarpRows; ++r)
      for (int d = lane_; d < pitch_ - 4; d += 32)
        z_[r * pitch_ + d] = row_[r] >= 0 && d < p_.potential.dim ? load_global(p_.z + row_[r] * p_.z_stride + d) : 0.f;
    if (out_.path) store(out_.path);
  }

  /// z_d of row g (i = 0) or g + 8 (i = 1), 0 past the last.
  __device__ __forceinline__ float operator()(int i, int d) const { return z_[(lane_ / 4 + 8 * i) * pitch_ + d]; }

  /// z_d moves along its derivative x, or is x where there is no path. Only the lane that has read z_d may say so:
  /// there is no barrier.
  __device__ __forceinline__ void move(int i, int d, float x) {
    float& z = z_[(lane_ / 4 + 8 * i) * pitch_ + d];
    z = out_.path ? z + p_.step * x : x;
  }

  __device__ __forceinline__ void end(int moment) {
    __syncwarp();
    if (out_.path)
      store(out_.path + (moment + 1) * p_.rows * p_.potential.dim);
    else if (out_.grad)
      store(out_.grad);
  }

 private:
  __device__ __forceinline__ void store(float* to) const {
    const int dim = p_.potential.dim;
    for (int r = 0; r < kWarpRows; ++r)
      for (int d = lane_; d < dim; d += 32)
        if (row_[r] >= 0) store_global(to + std::int64_t(row_[r]) * dim + d, z_[r * pitch_ + d]);
  }

  const Problem& p_;
  const Outputs& out_;
  const int* row_;  // (kWarpRows,), in shared memory; −1 past the last
  float* z_;        // (kWarpRows, pitch)
  int pitch_;
  int lane_ = static_cast<int>(threadIdx.x) % 32;
};

/// Where the path is written: each lane reads the elements that it has written itself.
class PathRows {
 public:
  static constexpr bool kShared = false;

  __device__ __forceinline__ PathRows(const Problem& p, const Outputs& out, const int* row, float*, int)
      : p_(p), out_(out), row_(row) {}

  __device__ __forceinline__ void begin() {
    const int lane = static_cast<int>(threadIdx.x) % 32, dim = p_.potential.dim;
    if (out_.path)
      for (int r = 0; r < kWarpRows; ++r)
        for (int d = lane; d < dim; d += 32)
          if (row_[r] >= 0)
            store_global(out_.path + std::int64_t(row_[r]) * dim + d, load_global(p_.z + row_[r] * p_.z_stride + d));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::int64_t row = row_[lane / 4 + 8 * i];
      from_[i] = row < 0 ? nullptr : p_.z + row * p_.z_stride;
      to_[i] = row < 0     ? nullptr
               : out_.path ? out_.path + (p_.rows + row) * dim
               : out_.grad ? out_.grad + row * dim
                           : nullptr;
    }
  }

  __device__ __forceinline__ float operator()(int i, int d) const {
    return from_[i] && d < p_.potential.dim ? load_global(from_[i] + d) : 0.f;
  }

  __device__ __forceinline__ void move(int i, int d, float x) {
    if (to_[i] && d < p_.potential.dim)
      store_global(to_[i] + d, out_.path ? load_global(from_[i] + d) + p_.step * x : x);
  }

  __device__ __forceinline__ void end(int) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      from_[i] = to_[i];
      if (to_[i]) to_[i] += p_.rows * p_.potential.dim;
    }
  }

 private:
  const Problem& p_;
  const Outputs& out_;
  const int* row_;
  const float* from_[2];  // z of rows g and g + 8; null: no row
  float* to_[2];
};

}  // namespace ffrl::cuda

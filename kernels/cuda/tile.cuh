// A tile of rows: which rows they are, their buffers and values, and what the warps of a block do with them besides
// products.
#pragma once

#include "plan.cuh"

namespace ffrl::cuda {

/// The shared memory of a block, in the order in which it is carved.
struct SharedMemory {
  float* values;  // (kRowValues, tile_rows)
  int* row;       // (tile_rows,)
  float* tau;     // (pitch,) of the moment
  float* dtau;
  float* networks;  // images where resident, staging where streamed
  float* rows;      // row buffers where resident

  __device__ __forceinline__ SharedMemory(const Plan& plan, float* from) {
    values = from;
    row = reinterpret_cast<int*>(values + kRowValues * plan.tile_rows);
    tau = values + (kRowValues + 1) * plan.tile_rows;
    dtau = tau + plan.pitch;
    networks = dtau + plan.pitch;
    rows = networks + plan.resident_networks * plan.image;
  }

  __host__ static std::int64_t floats(const Plan& plan) {
    const std::int64_t small = (kRowValues + 1) * plan.tile_rows + 2 * plan.pitch;
    if (!plan.resident) return small + 2 * kStaged;
    return small + plan.resident_networks * plan.image + plan.buffers.count() * plan.buffer_size();
  }
};

struct Tile {
  int rows;
  int pitch;
  int* row;       // in shared memory: the row of the call, −1 behind the last
  float* values;  // in shared memory
  float* common;  // z() and grad()
  float* visit;   // the other buffers, of the network that is being evaluated
  std::int64_t buffer_size;

  __device__ __forceinline__ Matrix buffer(int number) const {
    return {(number < TileBuffers::kCommon ? common : visit) + number * buffer_size, pitch};
  }
  __device__ __forceinline__ float& value(RowValue which, int r) const { return values[which * rows + r]; }
};

/// f(r) for every row, one thread a row.
template <class F>
__device__ __forceinline__ void each_row(const Tile& tile, F f) {
  for (int r = static_cast<int>(threadIdx.x); r < tile.rows; r += kThreads) f(r);
  __syncthreads();
}

/// f(r, n) for every element of `columns` columns.
template <class F>
__device__ __forceinline__ void each(const Tile& tile, int columns, F f) {
  const Lane at;
  for (int r = at.warp; r < tile.rows; r += kWarps)
    for (int n = at.lane; n < columns; n += 32) f(r, n);
  __syncthreads();
}

/// then(r, Σ_n f(r, n)) for every row, in one order always.
template <class F, class Then>
__device__ __forceinline__ void each_row_sum(const Tile& tile, int columns, F f, Then then) {
  const Lane at;
  for (int r = at.warp; r < tile.rows; r += kWarps) {
    float sum = 0;
    for (int n = at.lane; n < columns; n += 32) sum += f(r, n);
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
    if (at.lane == 0) then(r, sum);
  }
  __syncthreads();
}

/// to[n] = Σ_r f(r, n), += unless `fresh`, for `columns` columns.
template <class F>
__device__ __forceinline__ void add_columns(const Tile& tile, int columns, float* to, bool fresh, F f) {
  for (int n = static_cast<int>(threadIdx.x); n < columns; n += kThreads) {
    float sum = 0;
    for (int r = 0; r < tile.rows; ++r) sum += f(r, n);
    to[n] = fresh ? sum : to[n] + sum;
  }
}

/// The tiles of one group of rows: blockIdx.y is the group, a network's where rows are grouped by theirs, and
/// blockIdx.x takes every gridDim.x-th tile.
struct Tiles {
  std::int64_t begin = 0, end;  // of the rows, in their order
  std::int64_t count;

  __device__ Tiles(const Problem& p, int tile_rows, int group) : end(p.rows) {
    if (p.order) {
      begin = p.first[group];
      end = p.first[group + 1];
    }
    count = (end - begin + tile_rows - 1) / tile_rows;
  }
};

/// The rows of a tile.
__device__ __forceinline__ void set_rows(const Problem& p, const Tiles& tiles, std::int64_t number, const Tile& tile) {
  each_row(tile, [&](int r) {
    const std::int64_t at = tiles.begin + number * tile.rows + r;
    tile.row[r] = at < tiles.end ? (p.order ? load_global(p.order + at) : static_cast<int>(at)) : -1;
  });
}

/// Columns of a tile from rows (·, columns) in global memory, zeros elsewhere.
__device__ __forceinline__ void load_rows(const Tile& tile, const Matrix& to, const float* from, std::int64_t stride,
                                          int columns) {
  each(tile, padded(columns), [&](int r, int n) {
    const int row = tile.row[r];
    to(r, n) = row >= 0 && n < columns ? load_global(from + row * stride + n) : 0.f;
  });
}

/// One value of each row, zero behind the last or where there are none.
__device__ __forceinline__ float row_value(const Tile& tile, const float* from, int r) {
  return from && tile.row[r] >= 0 ? load_global(from + tile.row[r]) : 0.f;
}

}  // namespace ffrl::cuda

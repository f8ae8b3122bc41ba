// Products of a tile's rows with a weight matrix, by all warps of a block, each followed by an epilogue on its
// elements.
//
// Two placements. Resident: weights and activations both lie in shared memory. Streamed: both lie in global memory and
// come through shared memory in chunks of the inner index, the next chunk under way while one is multiplied.
#pragma once

#include "precision.cuh"

namespace ffrl::cuda {

inline constexpr int kWarps = 8;
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kWarpColumns = 32;   // of the output tile of a warp
inline constexpr int kStreamedRows = 64;  // of a tile whose weights are streamed: two warps of 32 rows
inline constexpr int kPanel = 128;        // columns that are streamed together: four warps
inline constexpr int kChunk = 32;         // inner length that is streamed at a time

/// Matrices are padded with zeros to whole warp tiles; four more elements a row keep the lanes of a fragment in
/// different banks.
__host__ __device__ constexpr int padded(int n) { return (n + kWarpColumns - 1) / kWarpColumns * kWarpColumns; }
__host__ __device__ constexpr int pitch_of(int n) { return padded(n) + 4; }

struct Matrix {
  float* data;
  int pitch;
  __device__ __forceinline__ float& operator()(int r, int n) const { return data[r * pitch + n]; }
};

struct ConstMatrix {
  const float* data;
  int pitch;
  __device__ __forceinline__ float operator()(int r, int n) const { return data[r * pitch + n]; }
};

struct Lane {
  int warp = static_cast<int>(threadIdx.x) / 32;
  int lane = static_cast<int>(threadIdx.x) % 32;
  int g = lane / 4, t = lane % 4;
};

/// sum[m][j] += rows 16m … of a, columns 8j … of b, over `inner` indices. a(row, k), b(k, column).
template <class P, Inner kOrder, bool kRounded, int kM, class A, class B>
__device__ __forceinline__ void warp_product(float (&sum)[kM][4][4], int inner, A a, B b, const Lane& at) {
#pragma unroll 1
  for (int k = 0; k < inner; k += P::kInner) {
    typename P::A left[kM];
#pragma unroll
    for (int m = 0; m < kM; ++m)
      left[m] = P::template load_a<kOrder>([&](int r, int i) { return a(16 * m + r, k + i); }, at.g, at.t);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const auto right =
          P::template load_b<kOrder, kRounded>([&](int i, int n) { return b(k + i, 8 * j + n); }, at.g, at.t);
#pragma unroll
      for (int m = 0; m < kM; ++m) P::multiply_add(sum[m][j], left[m], right);
    }
  }
}

/// to(row, column, value) of every element that this lane holds.
template <int kM, class To>
__device__ __forceinline__ void each_element(const float (&sum)[kM][4][4], const Lane& at, To to) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) to(16 * m + at.g + 8 * (e >> 1), 8 * j + 2 * at.t + (e & 1), sum[m][j][e]);
}

/// epilogue(r, n, Σ_k x[r, k] w[n, k]), or w[k, n] with kTransposed, for `rows` rows and `columns` columns. The
/// epilogue must not write to x: other warps are still reading it.
template <class P, bool kTransposed, class Epilogue>
__device__ __forceinline__ void multiply_resident(int rows, const ConstMatrix& x, int inner, const ConstMatrix& w,
                                                  int columns, Epilogue epilogue) {
  constexpr Inner kOrder = kTransposed ? Inner::paired : Inner::straight;
  const Lane at;
  const int across = columns / kWarpColumns;
#pragma unroll 1
  for (int tile = at.warp; tile < rows / 16 * across; tile += kWarps) {
    const int r0 = tile / across * 16, n0 = tile % across * kWarpColumns;
    float sum[1][4][4] = {};
    warp_product<P, kOrder, true>(
        sum, inner, [&](int r, int k) { return x(r0 + r, k); },
        [&](int k, int n) { return kTransposed ? w(k, n0 + n) : w(n0 + n, k); }, at);
    each_element(sum, at, [&](int r, int n, float value) { epilogue(r0 + r, n0 + n, value); });
  }
  __syncthreads();
}

/// Copies rows × columns floats, columns a multiple of 4, by all `kCount` threads of the block.
template <int kCount>
__device__ __forceinline__ void copy_async(const Matrix& to, const float* from, std::int64_t pitch, int rows,
                                           int columns) {
  const int quads = columns / 4;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < rows * quads; i += kCount) {
    const int r = i / quads, n = i % quads * 4;
    cp_async_16(&to(r, n), from + r * pitch + n);
  }
}

inline constexpr int kChunkPitch = kChunk + 4, kPanelPitch = kPanel + 4;
/// Of a chunk of x, and behind it one of w in either orientation.
inline constexpr int kStagedX = kStreamedRows * kChunkPitch;
inline constexpr int kStaged = kStagedX + kPanel * kChunkPitch;
static_assert(kPanel * kChunkPitch >= kChunk * kPanelPitch);
inline constexpr int kTurnedPitch = kWarpColumns + 1;
static_assert(2 * kStaged >= kWarps * 32 * kTurnedPitch);

/// As multiply_resident, of kStreamedRows rows; `staging` is shared memory for two chunks.
template <class P, bool kTransposed, class Epilogue>
__device__ __forceinline__ void multiply_streamed(float* staging, const ConstMatrix& x, int inner, const ConstMatrix& w,
                                                  int columns, Epilogue epilogue) {
  constexpr Inner kOrder = kTransposed ? Inner::paired : Inner::straight;
  const Lane at;
  const int r0 = at.warp / 4 * 32, n0 = at.warp % 4 * kWarpColumns;
#pragma unroll 1
  for (int panel = 0; panel < columns; panel += kPanel) {
    const int width = columns - panel < kPanel ? columns - panel : kPanel;
    const auto stage = [&](int chunk) {
      const int k = chunk * kChunk;
      float* const to = staging + chunk % 2 * kStaged;
      copy_async<kThreads>({to, kChunkPitch}, x.data + k, x.pitch, kStreamedRows, kChunk);
      if (kTransposed)
        copy_async<kThreads>({to + kStagedX, kPanelPitch}, w.data + std::int64_t(k) * w.pitch + panel, w.pitch, kChunk,
                             width);
      else
        copy_async<kThreads>({to + kStagedX, kChunkPitch}, w.data + std::int64_t(panel) * w.pitch + k, w.pitch, width,
                             kChunk);
      cp_async_commit();
    };
    float sum[2][4][4] = {};
    const int chunks = inner / kChunk;
    stage(0);
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      if (chunk + 1 < chunks) {
        stage(chunk + 1);
        cp_async_wait<1>();
      } else {
        cp_async_wait<0>();
      }
      __syncthreads();
      const float* const staged = staging + chunk % 2 * kStaged;
      const ConstMatrix xs{staged, kChunkPitch}, ws{staged + kStagedX, kTransposed ? kPanelPitch : kChunkPitch};
      if (n0 < width)
        warp_product<P, kOrder, true>(
            sum, kChunk, [&](int r, int k) { return xs(r0 + r, k); },
            [&](int k, int n) { return kTransposed ? ws(k, n0 + n) : ws(n0 + n, k); }, at);
      __syncthreads();
    }
    // The warp's tile goes through shared memory once more: a row of it then is one line of global memory for whatever
    // the epilogue reads and writes, and the loop over rows keeps the epilogue's code and registers few.
    if (n0 < width) {
      const Matrix own{staging + at.warp * kWarpColumns * kTurnedPitch, kTurnedPitch};
      each_element(sum, at, [&](int r, int n, float value) { own(r, n) = value; });
      __syncwarp();
#pragma unroll 4
      for (int r = 0; r < 32; ++r) epilogue(r0 + r, panel + n0 + at.lane, own(r, at.lane));
    }
    __syncthreads();
  }
}

}  // namespace ffrl::cuda

// Weight gradients where the row kernels leave their operands in global memory: outer products over all rows, the rows
// split among blocks that each sum into a slot of their own.
#pragma once

#include "tile.cuh"
#include "weight_sums.cuh"

namespace ffrl::cuda {

inline constexpr int kSumWarps = 4;
inline constexpr int kSumThreads = 32 * kSumWarps;
inline constexpr int kSumTile = 64;  // height and width of a block's tile of the gradient
inline constexpr int kSumRows = 32;  // rows that are staged at a time
inline constexpr int kSumPitch = kSumTile + 4;
inline constexpr int kSumStaged = 2 * kSumRows * kSumPitch;

/// One weight matrix (height, width) of each network: to (splits, networks, ·) += Σ_r p[r, ·]ᵀ q[r, ·] + p2, q2.
struct MatrixGradient {
  OuterPairs pairs;           // of the first visit
  std::int64_t visit_stride;  // elements from one visit's p, p2 and q2 to the next; 0 where rows go through one network
  std::int64_t q_stride, q2_stride;
  int height, width;
  float* to;
  std::int64_t network_stride;  // elements of `to` from one network to the next
  bool fresh;                   // nothing has been summed yet
  std::int64_t first_tile;      // of those whose operands there are
};

/// blockIdx: tile of the matrix, split, network.
template <class P>
__global__ void __launch_bounds__(kSumThreads)
    matrix_gradient_kernel(const Problem p, const Plan plan, const MatrixGradient m) {
  FFRL_SHARED(float, memory);
  const Lane at;
  const int network = static_cast<int>(blockIdx.z);
  const Tiles tiles(p, plan.tile_rows, network);
  const int across = (m.width + kSumTile - 1) / kSumTile;
  const int m0 = static_cast<int>(blockIdx.x) / across * kSumTile,
            n0 = static_cast<int>(blockIdx.x) % across * kSumTile;
  const int height = padded(m.height) - m0 < kSumTile ? padded(m.height) - m0 : kSumTile;
  const int width = padded(m.width) - n0 < kSumTile ? padded(m.width) - n0 : kSumTile;
  const int warp_m = at.warp / 2 * 32, warp_n = at.warp % 2 * kWarpColumns;
  const bool busy = warp_m < height && warp_n < width;

  const std::int64_t left = tiles.count - m.first_tile;
  const std::int64_t chunks = (left < 0 ? 0 : left < plan.tiles ? left : plan.tiles) * plan.tile_rows / kSumRows;
  const std::int64_t each = (chunks + gridDim.y - 1) / gridDim.y;
  const std::int64_t first = blockIdx.y * each;
  const std::int64_t here = first >= chunks ? 0 : chunks - first < each ? chunks - first : each;
  const std::int64_t row = (p.order ? network : 0) * plan.tiles * plan.tile_rows + first * kSumRows;
  const int stages = static_cast<int>(here) * (m.pairs.p2.data ? 2 : 1);
  const auto stage = [&](int number) {
    const bool second = number >= here;
    const std::int64_t from = row + (number - (second ? here : 0)) * kSumRows;
    const ConstMatrix a = second ? m.pairs.p2 : m.pairs.p, b = second ? m.pairs.q2 : m.pairs.q;
    const std::int64_t b_stride = second ? m.q2_stride : m.q_stride;
    float* const to = memory + number % 2 * kSumStaged;
    copy_async<kSumThreads>({to, kSumPitch}, a.data + network * m.visit_stride + from * a.pitch + m0, a.pitch, kSumRows,
                            height);
    copy_async<kSumThreads>({to + kSumRows * kSumPitch, kSumPitch}, b.data + network * b_stride + from * b.pitch + n0,
                            b.pitch, kSumRows, width);
    cp_async_commit();
  };

  float sum[2][4][4] = {};
  if (stages > 0) stage(0);
  for (int number = 0; number < stages; ++number) {
    if (number + 1 < stages) {
      stage(number + 1);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    const float* const staged = memory + number % 2 * kSumStaged;
    const ConstMatrix a{staged, kSumPitch}, b{staged + kSumRows * kSumPitch, kSumPitch};
    if (busy)
      warp_product<P, Inner::paired, false>(
          sum, kSumRows, [&](int i, int k) { return a(k, warp_m + i); }, [&](int k, int n) { return b(k, warp_n + n); },
          at);
    __syncthreads();
  }
  float* const to = m.to + (blockIdx.y * gridDim.z + network) * m.network_stride;
  each_element(sum, at, [&](int i, int n, float value) {
    const int y = m0 + warp_m + i, x = n0 + warp_n + n;
    if (y >= m.height || x >= m.width) return;
    float& so_far = to[std::int64_t(y) * m.width + x];
    so_far = m.fresh ? value : so_far + value;
  });
}

}  // namespace ffrl::cuda

// Weight gradients of a tile whose operands lie in shared memory: outer products over its rows, added to the block's
// own slot. No other block writes there, so that the order of the sum is fixed.
#pragma once

#include "multiply.cuh"

namespace ffrl::cuda {

/// Σ_r p[r, ·]ᵀ q[r, ·] + Σ_r p2[r, ·]ᵀ q2[r, ·]; the second pair may be absent.
struct OuterPairs {
  ConstMatrix p, q;
  ConstMatrix p2{nullptr, 0}, q2{nullptr, 0};
};

__device__ __forceinline__ ConstMatrix readable(const Matrix& m) { return {m.data, m.pitch}; }

/// to (height, width) += the pairs' outer products over `rows` rows, = where `fresh`.
template <class P>
__device__ __forceinline__ void add_outer(int rows, const OuterPairs& pairs, int height, int width, float* to,
                                          bool fresh) {
  const Lane at;
  const int across = padded(width) / kWarpColumns, tiles = padded(height) / 16 * across;
#pragma unroll 1
  for (int tile = at.warp; tile < tiles; tile += kWarps) {
    const int m0 = tile / across * 16, n0 = tile % across * kWarpColumns;
    float sum[1][4][4] = {};
#pragma unroll 1
    for (int pair = 0; pair < (pairs.p2.data ? 2 : 1); ++pair) {
      const ConstMatrix p = pair ? pairs.p2 : pairs.p, q = pair ? pairs.q2 : pairs.q;
      warp_product<P, Inner::paired, false>(
          sum, rows, [&](int m, int k) { return p(k, m0 + m); }, [&](int k, int n) { return q(k, n0 + n); }, at);
    }
    each_element(sum, at, [&](int m, int n, float value) {
      if (m0 + m >= height || n0 + n >= width) return;
      float& sum_so_far = to[std::int64_t(m0 + m) * width + n0 + n];
      sum_so_far = fresh ? value : sum_so_far + value;
    });
  }
}

}  // namespace ffrl::cuda

// From the blocks' sums to gradients.
#pragma once

#include "pack.cuh"
#include "tile.cuh"

namespace ffrl::cuda {

/// Blocks of the row kernels that had a tile of this network, whose slots alone were written.
__device__ __forceinline__ int blocks_at_work(const Problem& p, const Plan& plan, int network) {
  const std::int64_t count = Tiles(p, plan.tile_rows, network).count;
  return static_cast<int>(count < plan.blocks ? count : plan.blocks);
}

/// to (K, stride) = the sums over slots, in the slots' order; zero for networks and parameters that have none.
__global__ void __launch_bounds__(kBankThreads)
    reduce_theta_kernel(const Problem p, const Plan plan, const Network n, const GradientSlots slots, float* to) {
  const GradientSizes sizes(n);
  const int k = static_cast<int>(blockIdx.y), network = p.selected >= 0 ? 0 : k;
  const bool reached = p.selected < 0 || k == p.selected;
  const int blocks = reached ? blocks_at_work(p, plan, p.order ? network : 0) : 0;
  const std::int64_t w_in = std::int64_t(n.width) * n.dim, w_hid = w_in + n.width,
                     b_hid = w_hid + std::int64_t(n.depth) * n.width * n.width;
  const std::int64_t start = std::int64_t(blockIdx.x) * kBankThreads + threadIdx.x;
  for (std::int64_t i = start; i < n.stride; i += std::int64_t(gridDim.x) * kBankThreads) {
    const float* from = nullptr;
    std::int64_t size = sizes.vectors;
    int count = blocks;
    if (i < w_in || (i >= w_hid && i < b_hid)) {
      from = slots.matrices + (i < w_in ? i : i - n.width);
      size = sizes.matrices;
      if (!plan.resident) count = reached ? plan.matrix_slots : 0;
    } else if (i < w_hid) {
      from = slots.vectors + i - w_in;
    } else if (i - b_hid + n.width < sizes.vectors) {
      from = slots.vectors + i - b_hid + n.width;
    } else {
      count = 0;
    }
    float sum = 0;
    for (int slot = 0; slot < count; ++slot) sum += from[(std::int64_t(slot) * plan.networks + network) * size];
    store_global(to + k * n.stride + i, sum);
  }
}

/// tau and dtau (conditioned, N, H) likewise, null: not wanted.
__global__ void __launch_bounds__(kBankThreads)
    reduce_times_kernel(const Problem p, const Plan plan, const Network n, const GradientSlots slots, float* tau,
                        float* dtau) {
  const int k = static_cast<int>(blockIdx.y);
  const int network = p.selected >= 0 ? 0 : k;
  const bool reached = p.selected < 0 || n.conditioned == 1 || k == p.selected;
  const int blocks = reached ? blocks_at_work(p, plan, p.order ? network : 0) : 0;
  const std::int64_t size = std::int64_t(p.moments) * n.width;
  const std::int64_t start = std::int64_t(blockIdx.x) * kBankThreads + threadIdx.x;
  for (std::int64_t i = start; i < 2 * size; i += std::int64_t(gridDim.x) * kBankThreads) {
    float* const to = i < size ? tau : dtau;
    if (!to) continue;
    float sum = 0;
    for (int slot = 0; slot < blocks; ++slot)
      sum += slots.times[(std::int64_t(slot) * plan.networks + network) * 2 * size + i];
    store_global(to + k * size + (i < size ? i : i - size), sum);
  }
}

}  // namespace ffrl::cuda

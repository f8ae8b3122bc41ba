// From parameters to packed weights.
#pragma once

#include "tile.cuh"

namespace ffrl::cuda {

inline constexpr int kBankThreads = 256;

/// packed (networks, size) from theta, its matrices rounded as the products will round them; blockIdx.y: the network.
template <class P>
__global__ void __launch_bounds__(kBankThreads) pack_kernel(const Network n, int selected, float* packed) {
  const PackedNetwork to(n);
  const int network = static_cast<int>(blockIdx.y);
  const float* const theta = n.theta + (selected >= 0 ? selected : network) * n.stride;
  float* const image = packed + network * to.size();
  const std::int64_t b_in = std::int64_t(n.width) * n.dim, w_hid = b_in + n.width,
                     hidden = std::int64_t(n.width) * n.width, b_hid = w_hid + n.depth * hidden;
  const auto matrix = [&](std::int64_t from, int columns, std::int64_t i, int pitch) {
    const std::int64_t r = i / pitch, c = i % pitch;
    return r < n.width && c < columns ? P::round(load_global(theta + from + r * columns + c)) : 0.f;
  };
  const std::int64_t start = std::int64_t(blockIdx.x) * kBankThreads + threadIdx.x;
  for (std::int64_t i = start; i < to.size(); i += std::int64_t(gridDim.x) * kBankThreads) {
    float value = 0;
    if (i < to.hidden_at()) {
      value = matrix(0, n.dim, i, to.dim + 4);
    } else if (i < to.vectors_at()) {
      const std::int64_t l = (i - to.hidden_at()) / to.hidden_size(), at = (i - to.hidden_at()) % to.hidden_size();
      value = matrix(w_hid + l * hidden, n.width, at, to.width + 4);
    } else {
      // b_in, b_1 … b_L, w_out, then b_out alone.
      const int vector = static_cast<int>(i - to.vectors_at()) / to.width,
                at = static_cast<int>(i - to.vectors_at()) % to.width;
      const std::int64_t from = vector == 0 ? b_in : b_hid + std::int64_t(vector - 1) * n.width;
      if (at < (vector == n.depth + 2 ? 1 : n.width)) value = load_global(theta + from + at);
    }
    image[i] = value;
  }
}

}  // namespace ffrl::cuda

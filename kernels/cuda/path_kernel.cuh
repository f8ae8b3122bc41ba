// The forward with the activations in registers: each warp takes sixteen rows through all moments, with the weights of
// their potential, and of the force where there is one, in shared memory throughout.
//
// Beside the weights of the widest networks there is no room for z, nor for a force's.
#pragma once

#include <type_traits>

#include "warp_network.cuh"
#include "warp_rows.cuh"

namespace ffrl::cuda {

/// The shared memory of a block, in words.
template <class P, int kWidth>
struct PathMemory {
  using Rows = std::conditional_t<kWidth <= 128, SharedRows, PathRows>;
  int image;  // of the potential and behind it, where there is one, of the force
  int images;
  int z_pitch;

  __host__ __device__ explicit PathMemory(const Problem& p)
      : image(OperandImage<P, kWidth>(p.potential.dim).size()),
        images(p.force.theta ? 2 : 1),
        z_pitch(Rows::kShared ? OperandImage<P, kWidth>(p.potential.dim).features + 4 : 0) {}
  __host__ __device__ int times_at() const { return images * image; }  // τ, dτ/dt, τ of the force (kWidth,)
  __host__ __device__ int rows_at() const { return times_at() + 3 * kWidth; }
  __host__ __device__ int z_at(int warps) const { return rows_at() + warps * kWarpRows; }
  __host__ __device__ int size(int warps) const { return z_at(warps) + warps * kWarpRows * z_pitch; }
};

/// Images of `networks` networks, behind each other.
template <class P, int kWidth>
__global__ void __launch_bounds__(kBankThreads) pack_operands_kernel(const Network n, int selected, float* packed) {
  using Chain = Chained<P>;
  const OperandImage<P, kWidth> to(n.dim);
  const int network = static_cast<int>(blockIdx.y);
  const float* const theta = n.theta + (selected >= 0 ? selected : network) * n.stride;
  float* const image = packed + std::int64_t(network) * to.size();
  const std::int64_t b_in = std::int64_t(n.width) * n.dim, w_hid = b_in + n.width,
                     b_hid = w_hid + std::int64_t(n.width) * n.width;
  const auto word = [&](std::int64_t from, int columns, int i, int pitch) {
    const int r = i * Chain::kPerWord / pitch, c = i * Chain::kPerWord % pitch;
    return __uint_as_float(Chain::word([&](int e) {
      return r < n.width && c + e < columns ? load_global(theta + from + std::int64_t(r) * columns + c + e) : 0.f;
    }));
  };
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < to.size();
       i += static_cast<int>(gridDim.x * blockDim.x)) {
    if (i < to.hid_at()) {
      image[i] = word(0, n.dim, i, to.in_pitch());
    } else if (i < to.vectors_at()) {
      image[i] = word(w_hid, n.width, i - to.hid_at(), to.hid_pitch());
    } else {
      const int vector = (i - to.vectors_at()) / kWidth, at = (i - to.vectors_at()) % kWidth;
      const std::int64_t from = vector == 0 ? b_in : b_hid + std::int64_t(vector - 1) * n.width;
      image[i] = at < (vector == 3 ? 1 : n.width) ? load_global(theta + from + at) : 0.f;
    }
  }
}

template <class P, int kWidth>
__global__ void __launch_bounds__(256, 1) path_kernel(const Problem p, const Plan plan, const Outputs out) {
  FFRL_SHARED(float, memory);
  using Net = WarpNetwork<P, kWidth>;
  using Rows = typename PathMemory<P, kWidth>::Rows;
  const int threads = static_cast<int>(blockDim.x), warps = threads / 32;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32, g = lane / 4;
  const int network = static_cast<int>(blockIdx.y), dim = p.potential.dim;
  const PathMemory<P, kWidth> at(p);
  const Tiles tiles(p, plan.tile_rows, network);
  if (blockIdx.x >= tiles.count) return;

  for (int i = 4 * thread; i < at.images * at.image; i += 4 * threads) {
    const bool of_force = i >= at.image;
    const float* const from = of_force ? plan.packed_force - at.image : plan.packed_potential;
    cp_async_16(memory + i, from + std::int64_t(network) * at.image + i);
  }
  cp_async_commit();
  cp_async_wait<0>();

  float* const times = memory + at.times_at();
  const auto conditioning = [&](int place, const float* from, const Network& n, int moment) {
    if (!from) return;
    const int which = n.conditioned == 1 ? 0 : p.selected >= 0 ? p.selected : network;
    from += (std::int64_t(which) * p.moments + moment) * n.width;
    for (int i = thread; i < kWidth; i += threads)
      times[place * kWidth + i] = i < n.width ? load_global(from + i) : 0.f;
  };
  int* const row = reinterpret_cast<int*>(memory + at.rows_at()) + warp * kWarpRows;
  if (lane < kWarpRows) {
    const std::int64_t i = tiles.begin + blockIdx.x * std::int64_t(plan.tile_rows) + warp * kWarpRows + lane;
    row[lane] = i < tiles.end ? (p.order ? load_global(p.order + i) : static_cast<int>(i)) : -1;
  }
  __syncwarp();
  Rows z(p, out, row, memory + at.z_at(warps) + warp * kWarpRows * at.z_pitch, at.z_pitch);
  z.begin();

  for (int moment = 0; moment < p.moments; ++moment) {
    const bool written = moment % p.substeps == 0;
    __syncthreads();  // the last moment's τ is done with
    conditioning(0, p.potential.tau, p.potential, moment);
    conditioning(1, p.potential.dtau, p.potential, moment);
    conditioning(2, p.force.tau, p.force, moment);
    __syncthreads();

    Net net{OperandImage<P, kWidth>(dim), memory, nullptr, lane, {}, {}};
    float force[2] = {0, 0};
    if (Rows::kShared && p.force.theta && written) {
      net.words = memory + at.image;
      net.tau = p.force.tau ? times + 2 * kWidth : nullptr;
      net.input(z);
      net.template hidden<false>(force);
      if (p.force.out_tanh)
        for (float& f : force) f = P::tanh(f);
      net.words = memory;
    }
    net.tau = p.potential.tau ? times : nullptr;
    net.input(z);
    float u[2], slope[2], dt[2], square[2] = {0, 0};
    net.template hidden<true>(u);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (p.potential.out_tanh) u[i] = P::tanh(u[i]);
      slope[i] = p.potential.out_tanh ? 1 - u[i] * u[i] : 1.f;
    }
    net.gradient_operand(slope, p.potential.dtau ? times + kWidth : nullptr, dt);
    net.gradient([&](int i, int d, float x) {
      square[i] += x * x;
      z.move(i, d, x);
    });
    Net::sum_over_columns(square);
    z.end(moment);
    if (written && lane % 4 == 0)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (row[g + 8 * i] < 0) continue;
        const std::int64_t to = moment / p.substeps * p.rows + row[g + 8 * i];
        if (out.u) store_global(out.u + to, u[i]);
        if (out.dt) store_global(out.dt + to, dt[i]);
        if (!out.residual) continue;
        const float drive = p.drive ? load_global(p.drive + row[g + 8 * i]) : 0.f;
        store_global(out.residual + to, dt[i] + 0.5f * square[i] + force[i] * force[i] + drive);
      }
  }
}

}  // namespace ffrl::cuda

// The launches of kernels.hpp for the precision P.
#pragma once

#include "field_kernels.cuh"
#include "kernels.hpp"
#include "pack.cuh"
#include "path_kernel.cuh"

namespace ffrl::cuda {

template <class P>
struct KernelsOf {
  static cudaError_t pack(const Network& n, int selected, int networks, float* packed, cudaStream_t stream) {
    const std::int64_t blocks = (PackedNetwork(n).size() + kBankThreads - 1) / kBankThreads;
    const dim3 grid(static_cast<unsigned>(blocks < 256 ? blocks : 256), static_cast<unsigned>(networks));
    const auto kernel = &pack_kernel<P>;
    FFRL_LAUNCH(kernel, grid, dim3(kBankThreads), 0, stream, n, selected, packed);
    return cudaGetLastError();
  }

  static cudaError_t forward(const Problem& p, const Plan& plan, const Outputs& out, int begin, int end,
                             std::int64_t first_tile, cudaStream_t stream) {
    const auto kernel = plan.resident ? &forward_kernel<P, true> : &forward_kernel<P, false>;
    if (const cudaError_t error = allow_shared(kernel, plan)) return error;
    FFRL_LAUNCH(kernel, grid(p, plan), dim3(kThreads), plan.shared_bytes, stream, p, plan, out, begin, end, first_tile);
    return cudaGetLastError();
  }

  static cudaError_t backward(const Problem& p, const Plan& plan, const Saved& saved, const Cotangents& bar,
                              const Gradients& to, int begin, int end, std::int64_t first_tile, cudaStream_t stream) {
    const auto kernel = plan.resident ? &backward_kernel<P, true> : &backward_kernel<P, false>;
    if (const cudaError_t error = allow_shared(kernel, plan)) return error;
    FFRL_LAUNCH(kernel, grid(p, plan), dim3(kThreads), plan.shared_bytes, stream, p, plan, saved, bar, to, begin, end,
                first_tile);
    return cudaGetLastError();
  }

  static cudaError_t chained(const Problem& p, const Plan& plan, const Outputs& out, cudaStream_t stream) {
    switch (plan.chained_width) {
      case 64:
        return chained_at<64>(p, plan, out, stream);
      case 128:
        return chained_at<128>(p, plan, out, stream);
      default:
        return chained_at<kWidestChain<Bf16>>(p, plan, out, stream);
    }
  }

  static PathSizes path_sizes(const Problem& p, int width, int warps) {
    switch (width) {
      case 64:
        return path_sizes_at<64>(p, warps);
      case 128:
        return path_sizes_at<128>(p, warps);
      default:
        return path_sizes_at<kWidestChain<Bf16>>(p, warps);
    }
  }

  static cudaError_t matrix_gradient(const Problem& p, const Plan& plan, const MatrixGradient& m, cudaStream_t stream) {
    const auto tiles = [](int n) { return (n + kSumTile - 1) / kSumTile; };
    const dim3 grid(static_cast<unsigned>(tiles(m.height) * tiles(m.width)), static_cast<unsigned>(plan.matrix_slots),
                    static_cast<unsigned>(plan.networks));
    const auto kernel = &matrix_gradient_kernel<P>;
    FFRL_LAUNCH(kernel, grid, dim3(kSumThreads), 2 * kSumStaged * sizeof(float), stream, p, plan, m);
    return cudaGetLastError();
  }

  static constexpr Kernels kAll{kWidestChain<P>, pack, forward, backward, chained, path_sizes, matrix_gradient};

 private:
  template <int kWidth>
  static PathSizes path_sizes_at(const Problem& p, int warps) {
    if constexpr (kWidth <= kWidestChain<P>) {
      const PathMemory<P, kWidth> memory(p);
      return {memory.size(warps), memory.image};
    }
    return {};
  }

  template <int kWidth>
  static cudaError_t chained_at(const Problem& p, const Plan& plan, const Outputs& out, cudaStream_t stream) {
    if constexpr (kWidth <= kWidestChain<P>) {
      const dim3 images(32, static_cast<unsigned>(plan.networks));
      const auto pack = &pack_operands_kernel<P, kWidth>;
      FFRL_LAUNCH(pack, images, dim3(kBankThreads), 0, stream, p.potential, p.selected, plan.packed_potential);
      if (p.force.theta)
        FFRL_LAUNCH(pack, images, dim3(kBankThreads), 0, stream, p.force, p.selected, plan.packed_force);
      const auto kernel = &path_kernel<P, kWidth>;
      if (const cudaError_t error = allow_shared(kernel, plan)) return error;
      FFRL_LAUNCH(kernel, grid(p, plan), dim3(2 * static_cast<unsigned>(plan.tile_rows)), plan.shared_bytes, stream, p,
                  plan, out);
      return cudaGetLastError();
    }
    return cudaErrorInvalidValue;
  }

  /// One grid row a network where the rows are grouped by theirs.
  static dim3 grid(const Problem& p, const Plan& plan) {
    return dim3(static_cast<unsigned>(plan.blocks), static_cast<unsigned>(p.order ? p.potentials : 1));
  }

  template <class Kernel>
  static cudaError_t allow_shared(Kernel kernel, const Plan& plan) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared_bytes);
  }
};

}  // namespace ffrl::cuda

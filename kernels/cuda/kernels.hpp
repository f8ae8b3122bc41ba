// Launches of the kernels of one precision; each precision is a translation unit of its own.
#pragma once

#include "plan.cuh"
#include "weight_gradient.cuh"

namespace ffrl::cuda {

struct PathSizes {
  std::int64_t shared, image;
};

struct Kernels {
  int widest_chain;  // units of the widest network whose rows chain products in registers
  cudaError_t (*pack)(const Network& n, int selected, int networks, float* packed, cudaStream_t stream);
  cudaError_t (*forward)(const Problem& p, const Plan& plan, const Outputs& out, int begin, int end,
                         std::int64_t first_tile, cudaStream_t stream);
  cudaError_t (*backward)(const Problem& p, const Plan& plan, const Saved& saved, const Cotangents& bar,
                          const Gradients& to, int begin, int end, std::int64_t first_tile, cudaStream_t stream);
  /// The forward of a plan whose rows chain products in registers, its packing included.
  cudaError_t (*chained)(const Problem& p, const Plan& plan, const Outputs& out, cudaStream_t stream);
  /// Words of a block of `warps` warps of such a plan and of a network's image.
  PathSizes (*path_sizes)(const Problem& p, int width, int warps);
  cudaError_t (*matrix_gradient)(const Problem& p, const Plan& plan, const MatrixGradient& m, cudaStream_t stream);
};

extern const Kernels kIeeeKernels, kTf32Kernels, kBf16Kernels;

}  // namespace ffrl::cuda

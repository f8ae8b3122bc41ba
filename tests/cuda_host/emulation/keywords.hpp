// The words of CUDA C++ that a host compiler does not know, and those of the kernels that stand for what differs.
#pragma once

#include "launch.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
// A host variable could be neither poisoned nor fenced, in a function template not even found.
#define __shared__ use_FFRL_SHARED_or_FFRL_STATIC_SHARED

#define threadIdx (::cuda_host::thread_index())
#define blockIdx (::cuda_host::block_index())
#define blockDim (::cuda_host::block_size())
#define gridDim (::cuda_host::grid_size())
#define warpSize 32

/// The block's dynamic shared memory as `type* name`.
#define FFRL_SHARED(type, name) type* const name = static_cast<type*>(::cuda_host::dynamic_shared())

/// As `__shared__ type name extents`: FFRL_STATIC_SHARED(float, tile, [2][64]).
#define FFRL_STATIC_SHARED(type, name, ...) \
  auto& name = ::cuda_host::static_shared<type __VA_ARGS__>([] { return "static shared memory '" #name "'"; })

/// As kernel<<<grid, block, shared_bytes, stream>>>(arguments); parentheses around a kernel whose name has commas.
#define FFRL_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::cuda_host::launch(kernel, grid, block, shared_bytes, stream __VA_OPT__(, ) __VA_ARGS__)

// A launch: its limits, its blocks in random order, one at a time.
#pragma once

#include <dlfcn.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "block.hpp"
#include "errors.hpp"
#include "settings.hpp"
#include "shared_memory.hpp"
#include "traffic.hpp"
#include "types.hpp"

struct CUstream_st;
using cudaStream_t = CUstream_st*;

namespace cuda_host {

inline constexpr std::size_t kSharedWithoutAsking = 48 << 10;

/// What cudaFuncSetAttribute has allowed each kernel.
inline std::map<const void*, std::size_t> allowed_shared_bytes;

inline dim3 running_grid;

inline dim3 grid_size() {
  const Unwatched bookkeeping;
  return running_grid;
}

inline bool refuse(cudaError_t error, const std::string& why) {
  failure.report(error, "launch: " + why);
  return false;
}

inline bool within_limits(const void* kernel, dim3 grid, dim3 size, std::size_t shared_bytes) {
  const std::uint64_t threads = std::uint64_t{size.x} * size.y * size.z;
  if (!threads || threads > 1024 || size.z > 64)
    return refuse(cudaErrorInvalidConfiguration,
                  text("expected 1 to 1024 threads a block, found %u x %u x %u", size.x, size.y, size.z));
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535)
    return refuse(
        cudaErrorInvalidConfiguration,
        text("expected a grid of 1 to 2147483647 x 65535 x 65535 blocks, found %u x %u x %u", grid.x, grid.y, grid.z));
  const auto asked = allowed_shared_bytes.find(kernel);
  const std::size_t allowed = asked == allowed_shared_bytes.end() ? kSharedWithoutAsking : asked->second;
  if (shared_bytes > std::max(allowed, kSharedWithoutAsking) || shared_bytes > settings.max_shared_bytes)
    return refuse(cudaErrorInvalidValue,
                  text("%zu bytes of dynamic shared memory, the kernel was allowed %zu", shared_bytes, allowed));
  return true;
}

inline void run_blocks(dim3 grid, dim3 size, std::size_t shared_bytes, void (*body)(void*), void* context) {
  Random random(settings.seed);
  std::vector<std::uint64_t> order(std::uint64_t{grid.x} * grid.y * grid.z);
  for (std::uint64_t i = 0; i < order.size(); ++i) order[i] = i;
  random.shuffle(order);
  running_grid = grid;
  for (const std::uint64_t i : order) {
    const uint3 index{static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                      static_cast<unsigned>(i / grid.x / grid.y)};
    {
      const Unwatched bookkeeping;
      shared_memory.renew(shared_bytes);
      global_memory.begin_block();
    }
    Block running(size, body, context);
    std::string why = running.run(index, random) ? shared_memory.trespass() : running.failure();
    if (why.empty()) continue;
    failure.report(cudaErrorLaunchFailure, text("block (%u, %u, %u): %s", index.x, index.y, index.z, why.c_str()));
    break;
  }
  observe(&launch_end);
}

/// Takes launches in place of the emulation: the kernel's symbol, grid, block and shared memory, its parameters and
/// their sizes.
using Diversion = void (*)(const char* symbol, const unsigned* grid, const unsigned* block, std::uint64_t shared_bytes,
                           const void* const* parameters, const std::uint64_t* sizes, int count);
inline Diversion diversion = nullptr;

template <class... Parameters>
void divert(const void* kernel, dim3 grid, dim3 size, std::size_t shared_bytes,
            const std::tuple<Parameters...>& given) {
  Dl_info symbol{};
  if (!dladdr(kernel, &symbol) || !symbol.dli_sname) {
    refuse(cudaErrorInvalidValue, "the kernel has no symbol");
    return;
  }
  const unsigned sizes_of[6] = {grid.x, grid.y, grid.z, size.x, size.y, size.z};
  std::apply(
      [&](const Parameters&... each) {
        const void* const at[] = {&each...};
        const std::uint64_t bytes[] = {sizeof(Parameters)...};
        diversion(symbol.dli_sname, sizes_of, sizes_of + 3, shared_bytes, at, bytes, sizeof...(Parameters));
      },
      given);
}

/// Nothing runs after a failure until cudaGetLastError has returned it.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 size, std::size_t shared_bytes, cudaStream_t,
            Arguments&&... arguments) {
  if (failure.pending != cudaSuccess) return;
  if (!within_limits(reinterpret_cast<const void*>(kernel), grid, size, shared_bytes)) return;
  auto call = std::pair(kernel, std::tuple<Parameters...>(std::forward<Arguments>(arguments)...));
  if (diversion) return divert(reinterpret_cast<const void*>(kernel), grid, size, shared_bytes, call.second);
  // Every thread gets its own copy of the parameters.
  constexpr auto body = [](void* context) {
    const auto& [function, parameters] = *static_cast<const decltype(call)*>(context);
    std::apply(function, parameters);
  };
  run_blocks(grid, size, shared_bytes, body, &call);
}

}  // namespace cuda_host

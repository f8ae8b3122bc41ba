// What Python calls in every library that is built with the emulation.
#pragma once

#include <cstdint>

#include "launch.hpp"

#define FFRL_CONTROL extern "C" __attribute__((used, visibility("default"))) inline

/// Forgets failures, buffers and what kernels were allowed.
FFRL_CONTROL void ffrl_cuda_host_reset(std::uint64_t seed, unsigned reshuffle_one_in, int copies_land_late,
                                       std::uint64_t max_shared_bytes, int multiprocessors, int compute_capability) {
  cuda_host::settings = {seed,
                         reshuffle_one_in ? reshuffle_one_in : 1,
                         copies_land_late != 0,
                         max_shared_bytes,
                         multiprocessors,
                         compute_capability};
  cuda_host::failure = {};
  cuda_host::global_memory.clear();
  cuda_host::allowed_shared_bytes.clear();
}

/// The message of the first failure since the last reset; empty if there was none.
FFRL_CONTROL const char* ffrl_cuda_host_failure() { return cuda_host::failure.message.c_str(); }

/// Hands all launches to a function from now on; null: the emulation runs them again.
FFRL_CONTROL void ffrl_cuda_host_divert(cuda_host::Diversion to) { cuda_host::diversion = to; }

FFRL_CONTROL void ffrl_cuda_host_register(const void* begin, std::uint64_t bytes, const char* name) {
  cuda_host::global_memory.add(begin, bytes, name);
}

/// Six numbers of the buffer: loaded, distinct bytes loaded, the most that one block loaded; the same of stored.
FFRL_CONTROL int ffrl_cuda_host_traffic(const char* name, std::uint64_t* numbers) {
  const cuda_host::Buffer* buffer = cuda_host::global_memory.find(name);
  if (!buffer) return 1;
  for (const cuda_host::Traffic* traffic : {&buffer->loaded, &buffer->stored}) {
    *numbers++ = traffic->bytes;
    *numbers++ = traffic->distinct;
    *numbers++ = traffic->largest_block;
  }
  return 0;
}

#undef FFRL_CONTROL

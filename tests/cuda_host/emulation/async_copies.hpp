// cp.async: the destination is NaN from the issue until its group is waited for.
#pragma once

#include <cstddef>
#include <cstdint>

#include "block.hpp"
#include "settings.hpp"
#include "shared_memory.hpp"
#include "traffic.hpp"

namespace cuda_host {

inline PendingCopies& pending_copies() {
  const Unwatched bookkeeping;
  return current->copies;
}

template <int kBytes>
void cp_async(const char* name, void* shared, const void* global, int source_bytes) {
  require_shared(name, shared, kBytes);
  if (source_bytes < 0 || source_bytes > kBytes)
    throw Fault{text("%s: source bytes must be 0 to %d, found %d", name, kBytes, source_bytes)};
  if (source_bytes && reinterpret_cast<std::uintptr_t>(global) % kBytes)
    throw Fault{text("%s: global address %p is not aligned to %d bytes", name, global, kBytes)};
  count_load(global, static_cast<std::size_t>(source_bytes));
  const Copy copy{shared, global, kBytes, source_bytes};
  if (!settings.copies_land_late) return copy.land();
  write_poison(shared, kBytes);
  pending_copies().issue(copy);
}

/// Copies `source_bytes` and fills the rest of the 16 with zeros.
inline void cp_async_16(void* shared, const void* global, int source_bytes = 16) {
  cp_async<16>("cp.async 16", shared, global, source_bytes);
}
inline void cp_async_8(void* shared, const void* global, int source_bytes = 8) {
  cp_async<8>("cp.async 8", shared, global, source_bytes);
}
inline void cp_async_4(void* shared, const void* global, int source_bytes = 4) {
  cp_async<4>("cp.async 4", shared, global, source_bytes);
}

/// Closes the group of the copies that this thread has issued since its last commit.
inline void cp_async_commit() { pending_copies().commit(); }

/// Waits until no more than the last `groups` of this thread's groups are on their way.
inline void cp_async_wait(int groups) { pending_copies().wait(static_cast<std::size_t>(groups)); }

}  // namespace cuda_host

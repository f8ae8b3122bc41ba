// What the emulation tells AddressSanitizer and ThreadSanitizer.
//
// ThreadSanitizer sees every CUDA thread as a thread of its own, because a fiber has its own vector clock there.
// Switching between fibers orders nothing; only the barriers of the kernel do, through `publish` and `observe`. So a
// race is reported whichever order the scheduler happened to take. The emulation's own bookkeeping is hidden from it by
// `Unwatched`.
#pragma once

#include <cstddef>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);
extern "C" void AnnotateIgnoreWritesBegin(const char* file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char* file, int line);
/// A function whose own reads and writes ThreadSanitizer does not see.
#define FFRL_UNWATCHED __attribute__((no_sanitize("thread"), noinline))
#else
#define FFRL_UNWATCHED
#endif

namespace cuda_host {

/// While it lives, ThreadSanitizer does not see what this thread reads, writes, allocates and frees.
class Unwatched {
 public:
#ifdef __SANITIZE_THREAD__
  FFRL_UNWATCHED Unwatched() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  FFRL_UNWATCHED ~Unwatched() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Unwatched() {}
  ~Unwatched() {}
#endif
  Unwatched(const Unwatched&) = delete;
  Unwatched& operator=(const Unwatched&) = delete;
};

/// What this thread has done is visible to whoever observes `token` from now on.
inline void publish([[maybe_unused]] void* token) {
#ifdef __SANITIZE_THREAD__
  __tsan_release(token);
#endif
}

inline void observe([[maybe_unused]] void* token) {
#ifdef __SANITIZE_THREAD__
  __tsan_acquire(token);
#endif
}

/// From now on AddressSanitizer reports every access to these bytes.
inline void forbid([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_poison_memory_region(memory, bytes);
#endif
}

inline void allow([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(memory, bytes);
#endif
}

}  // namespace cuda_host

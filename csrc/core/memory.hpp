// Scratch memory which a thread keeps between calls, so that a call allocates nothing once it is warm.
#pragma once

#include <cstddef>

namespace ffrl {

/// At least `bytes` of memory aligned to a cache line, contents undefined, owned by the calling thread and valid until
/// its next call. Throws std::bad_alloc.
void* thread_scratch(std::size_t bytes);

/// Hands out consecutive aligned arrays of one block; with a null block it only adds up how large that must be.
class Carver {
 public:
  explicit Carver(void* block = nullptr) : block_(static_cast<char*>(block)) {}

  template <class T>
  T* take(std::size_t count) {
    T* p = block_ ? reinterpret_cast<T*>(block_ + used_) : nullptr;
    used_ += (count * sizeof(T) + 63) / 64 * 64;
    return p;
  }

  std::size_t used() const { return used_; }

 private:
  char* block_;
  std::size_t used_ = 0;
};

}  // namespace ffrl

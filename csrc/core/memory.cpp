#include "memory.hpp"

#include <cstdlib>
#include <memory>
#include <new>

namespace ffrl {

void* thread_scratch(std::size_t bytes) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<void, Free> block;
  thread_local std::size_t capacity = 0;
  if (bytes > capacity) {
    block.reset();
    capacity = 0;
    const std::size_t rounded = (bytes + 4095) / 4096 * 4096;
    block.reset(std::aligned_alloc(4096, rounded));
    if (!block) throw std::bad_alloc();
    capacity = rounded;
  }
  return block.get();
}

}  // namespace ffrl

// Memory that is kept between calls: scratch of a thread, and the large tensors that a call hands out. A fresh page
// costs the system about as long to clear as the engine takes to fill it.
#pragma once

#include <cstddef>

namespace ffrl {

/// At least `bytes` of memory aligned to a cache line, contents undefined, owned by the calling thread and valid until
/// its next call. Throws std::bad_alloc.
void* thread_scratch(std::size_t bytes);

/// Idle blocks are kept up to this many bytes: a sixteenth of the machine's memory, from 512 MiB to 4 GiB.
std::size_t most_idle_bytes();

/// A block of memory, contents undefined, taken from those that were given back if one fits; gives itself back.
/// Any thread may end it. Throws std::bad_alloc.
class Block {
 public:
  explicit Block(std::size_t bytes);
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  void* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  void* data_;
  std::size_t size_, capacity_;
};

/// Bytes of the idle blocks; and back to the system with them.
std::size_t idle_bytes();
void release_idle();

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

// How many bytes of each registered buffer of global memory were read and written, and that nothing else was.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "sanitizers.hpp"

namespace cuda_host {

/// Bytes of one buffer in one direction.
struct Traffic {
  std::uint64_t bytes = 0;
  std::uint64_t distinct = 0;
  std::uint64_t of_block = 0;       // of the block that runs
  std::uint64_t largest_block = 0;  // the most that a block has moved
  std::vector<bool> touched;

  void count(std::size_t offset, std::size_t moved) {
    bytes += moved;
    of_block += moved;
    largest_block = std::max(largest_block, of_block);
    for (std::size_t i = offset; i < offset + moved; ++i) {
      if (!touched[i]) ++distinct;
      touched[i] = true;
    }
  }
};

struct Buffer {
  std::string name;
  std::uintptr_t begin;
  std::size_t bytes;
  Traffic loaded, stored;
};

class GlobalMemory {
 public:
  void add(const void* begin, std::size_t bytes, const char* name) {
    Buffer buffer{name, reinterpret_cast<std::uintptr_t>(begin), bytes, {}, {}};
    buffer.loaded.touched.resize(bytes);
    buffer.stored.touched.resize(bytes);
    buffers_.push_back(std::move(buffer));
  }

  void clear() { buffers_.clear(); }

  void begin_block() {
    for (Buffer& buffer : buffers_) buffer.loaded.of_block = buffer.stored.of_block = 0;
  }

  /// A fault where buffers are registered and the access is in none of them.
  void count(const char* what, Traffic Buffer::* direction, const void* address, std::size_t bytes) {
    if (buffers_.empty() || !bytes) return;
    const auto at = reinterpret_cast<std::uintptr_t>(address);
    const Buffer* nearest = nullptr;
    for (Buffer& buffer : buffers_) {
      if (at >= buffer.begin && at + bytes <= buffer.begin + buffer.bytes) {
        (buffer.*direction).count(at - buffer.begin, bytes);
        return;
      }
      if (at >= buffer.begin && (!nearest || buffer.begin > nearest->begin)) nearest = &buffer;
    }
    if (!nearest) throw Fault{text("%s of %zu bytes at %p, below every registered buffer", what, bytes, address)};
    throw Fault{text("%s of %zu bytes at byte %zu of '%s', which has %zu", what, bytes,
                     static_cast<std::size_t>(at - nearest->begin), nearest->name.c_str(), nearest->bytes)};
  }

  const Buffer* find(const std::string& name) const {
    for (const Buffer& buffer : buffers_)
      if (buffer.name == name) return &buffer;
    return nullptr;
  }

 private:
  std::vector<Buffer> buffers_;
};

inline GlobalMemory global_memory;

/// Reports a load of global memory that the kernel makes by itself.
inline void count_load(const void* address, std::size_t bytes) {
  const Unwatched bookkeeping;
  global_memory.count("load", &Buffer::loaded, address, bytes);
}

inline void count_store(const void* address, std::size_t bytes) {
  const Unwatched bookkeeping;
  global_memory.count("store", &Buffer::stored, address, bytes);
}

}  // namespace cuda_host

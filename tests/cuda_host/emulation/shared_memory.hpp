// The shared memory of a block: new for every block, all NaN, fenced on both sides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "sanitizers.hpp"

namespace cuda_host {

/// 0xFF bytes: NaN as float and as bf16, −1 as an integer.
inline constexpr int kPoison = 0xFF;

/// Memory of exactly the size asked for between two fences. AddressSanitizer reports every access to a fence; without
/// it a read there gives NaN and a write is found at the end of the block.
class Fenced {
 public:
  Fenced() = default;
  Fenced(const char* name, std::size_t bytes) : name_(name), bytes_(bytes) {
    const std::size_t all = (2 * kFence + bytes + kPage - 1) / kPage * kPage;
    memory_ = static_cast<std::byte*>(std::aligned_alloc(kPage, all));
    if (!memory_) throw std::bad_alloc();
    std::memset(memory_, kPoison, all);
    forbid(memory_, kFence);
    forbid(data() + bytes, all - kFence - bytes);
  }
  Fenced(Fenced&& other) noexcept
      : name_(other.name_), memory_(std::exchange(other.memory_, nullptr)), bytes_(other.bytes_) {}
  Fenced& operator=(Fenced&& other) noexcept {
    std::swap(name_, other.name_);
    std::swap(memory_, other.memory_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Fenced() {
    if (memory_) allow(memory_, 2 * kFence + bytes_);
    std::free(memory_);
  }

  /// Aligned to 16 bytes and no more, which is all that CUDA promises.
  std::byte* data() const { return memory_ + kFence; }

  bool contains(const void* address, std::size_t bytes) const {
    const auto begin = reinterpret_cast<std::uintptr_t>(data()), at = reinterpret_cast<std::uintptr_t>(address);
    return memory_ && at >= begin && at + bytes <= begin + bytes_;
  }

  /// Empty, or what was written outside.
  std::string trespass() const {
#ifndef __SANITIZE_ADDRESS__
    const auto fence = static_cast<std::ptrdiff_t>(kFence), bytes = static_cast<std::ptrdiff_t>(bytes_);
    for (std::ptrdiff_t i = -fence; i < bytes + fence; ++i) {
      if (i == 0) i = bytes;
      if (data()[i] != std::byte{kPoison}) return text("write outside %s of %zu bytes, at byte %td", name_, bytes_, i);
    }
#endif
    return {};
  }

 private:
  static constexpr std::size_t kPage = 4096, kFence = kPage + 16;

  const char* name_ = "";
  std::byte* memory_ = nullptr;
  std::size_t bytes_ = 0;
};

/// One FFRL_STATIC_SHARED of the sources, in one instantiation of its function.
struct StaticShared {
  const char* name;
  std::size_t bytes;
  std::byte* memory = nullptr;

  StaticShared(const char* name, std::size_t bytes) : name(name), bytes(bytes) { all().push_back(this); }
  static std::vector<StaticShared*>& all() {
    static std::vector<StaticShared*> found;
    return found;
  }
};

/// `Name` is a closure that returns the variable's name; its type tells the places in the sources apart.
template <class T, class Name>
inline StaticShared static_shared_of{Name{}(), sizeof(T)};

class SharedMemory {
 public:
  /// Memory for the next block. Freed and allocated anew, so that sanitizers forget what the last block did with it.
  void renew(std::size_t dynamic_bytes) {
    arenas_.clear();
    arenas_.emplace_back("dynamic shared memory", dynamic_bytes);
    for (StaticShared* variable : StaticShared::all()) {
      arenas_.emplace_back(variable->name, variable->bytes);
      variable->memory = arenas_.back().data();
    }
  }

  std::byte* dynamic() const { return arenas_.front().data(); }

  bool contains(const void* address, std::size_t bytes) const {
    for (const Fenced& arena : arenas_)
      if (arena.contains(address, bytes)) return true;
    return false;
  }

  std::string trespass() const {
    for (const Fenced& arena : arenas_)
      if (std::string found = arena.trespass(); !found.empty()) return found;
    return {};
  }

 private:
  std::vector<Fenced> arenas_;
};

inline SharedMemory shared_memory;

inline void* dynamic_shared() {
  const Unwatched bookkeeping;
  return shared_memory.dynamic();
}

template <class T, class Name>
T& static_shared(Name) {
  const Unwatched bookkeeping;
  static_assert(alignof(T) <= 16, "shared memory is aligned to 16 bytes");
  return *reinterpret_cast<T*>(static_shared_of<T, Name>.memory);
}

/// A fault unless `address` is aligned to `bytes` and the bytes there lie in the block's shared memory.
inline void require_shared(const char* what, const void* address, std::size_t bytes) {
  const Unwatched bookkeeping;
  if (reinterpret_cast<std::uintptr_t>(address) % bytes)
    throw Fault{text("%s: shared address %p is not aligned to %zu bytes", what, address, bytes)};
  if (!shared_memory.contains(address, bytes))
    throw Fault{text("%s: the %zu bytes at %p are not in the block's shared memory", what, bytes, address)};
}

}  // namespace cuda_host

// The asynchronous copies that one thread has issued and not yet waited for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "sanitizers.hpp"

namespace cuda_host {

// By words and volatile: ThreadSanitizer must see every access, and does not see those of an inlined memcpy.
inline void write_poison(void* destination, int bytes) {
  auto* words = static_cast<volatile std::uint32_t*>(destination);
  for (int i = 0; i < bytes / 4; ++i) words[i] = ~0u;
}

struct Copy {
  void* destination;
  const void* source;
  int bytes;
  int source_bytes;  // zero beyond

  void land() const {
    auto* to = static_cast<volatile std::uint32_t*>(destination);
    const auto* from = static_cast<const volatile unsigned char*>(source);
    for (int i = 0; i < bytes / 4; ++i) {
      std::uint32_t word = 0;
      for (int j = 4 * i; j < 4 * i + 4 && j < source_bytes; ++j)
        word |= static_cast<std::uint32_t>(from[j]) << (8 * (j % 4));
      to[i] = word;
    }
  }
};

class PendingCopies {
 public:
  void issue(const Copy& copy) {
    const Unwatched bookkeeping;
    open_.push_back(copy);
  }

  void commit() {
    const Unwatched bookkeeping;
    groups_.push_back(std::move(open_));
    open_.clear();
  }

  /// Lands all groups but the last `groups` committed.
  void wait(std::size_t groups) {
    while (committed() > groups) {
      for (const Copy& copy : oldest()) copy.land();
    }
  }

  void clear() {
    open_.clear();
    groups_.clear();
  }

 private:
  std::size_t committed() const {
    const Unwatched bookkeeping;
    return groups_.size();
  }

  std::vector<Copy> oldest() {
    const Unwatched bookkeeping;
    std::vector<Copy> group = std::move(groups_.front());
    groups_.pop_front();
    return group;
  }

  std::vector<Copy> open_;
  std::deque<std::vector<Copy>> groups_;
};

}  // namespace cuda_host

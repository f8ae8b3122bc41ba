#include "memory.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace ffrl {
namespace {

constexpr std::size_t kPage = 4096, kHugePage = std::size_t{2} << 20;

void* allocate(std::size_t bytes) {
  const std::size_t page = bytes >= kHugePage ? kHugePage : kPage;
  void* block = std::aligned_alloc(page, (bytes + page - 1) / page * page);
  if (!block) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (page == kHugePage) madvise(block, bytes, MADV_HUGEPAGE);  // advice: it works as well without
#endif
  return block;
}

struct Idle {
  void* data;
  std::size_t capacity;
};

struct Pool {
  std::mutex mutex;
  std::vector<Idle> idle;  // in the order in which they were given back
  std::size_t bytes = 0;

  /// Frees the blocks that have been idle longest until at most `most` bytes are.
  void shrink(std::size_t most) {
    auto end = idle.begin();
    for (; end != idle.end() && bytes > most; ++end) {
      bytes -= end->capacity;
      std::free(end->data);
    }
    idle.erase(idle.begin(), end);
  }
};

// Never destroyed: tensors may give back their blocks after static destructors have run.
Pool& pool() {
  static Pool& instance = *new Pool;
  return instance;
}

/// Eight sizes for every power of two, so that calls of slightly different sizes share blocks.
std::size_t size_class(std::size_t bytes) {
  const std::size_t step = std::max(std::bit_floor(std::max(bytes, std::size_t{1})) / 8, kPage);
  return (bytes + step - 1) / step * step;
}

}  // namespace

void* thread_scratch(std::size_t bytes) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<void, Free> block;
  thread_local std::size_t capacity = 0;
  if (bytes > capacity) {
    block.reset();
    capacity = 0;
    block.reset(allocate(bytes));
    capacity = bytes;
  }
  return block.get();
}

Block::Block(std::size_t bytes) : data_(nullptr), size_(bytes), capacity_(size_class(bytes)) {
  {
    Pool& p = pool();
    const std::lock_guard lock(p.mutex);
    // The one given back last is the likeliest to be in the cache.
    const auto found =
        std::find_if(p.idle.rbegin(), p.idle.rend(), [&](const Idle& x) { return x.capacity == capacity_; });
    if (found != p.idle.rend()) {
      data_ = found->data;
      p.bytes -= capacity_;
      p.idle.erase(std::next(found).base());
    }
  }
  if (!data_) data_ = allocate(capacity_);
}

Block::~Block() {
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  p.idle.push_back({data_, capacity_});
  p.bytes += capacity_;
  p.shrink(most_idle_bytes());
}

std::size_t most_idle_bytes() {
  static const std::size_t most = [] {
    constexpr std::size_t least = std::size_t{512} << 20, limit = std::size_t{4} << 30;
#if defined(_SC_PHYS_PAGES)
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0)
      return std::clamp(static_cast<std::size_t>(pages) * static_cast<std::size_t>(page) / 16, least, limit);
#endif
    return least;
  }();
  return most;
}

std::size_t idle_bytes() {
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  return p.bytes;
}

void release_idle() {
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  p.shrink(0);
}

}  // namespace ffrl

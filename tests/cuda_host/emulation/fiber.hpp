// A fiber: a stack of its own, and the switch to it and back by hand.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include "sanitizers.hpp"

#if !defined(__x86_64__) || !defined(__linux__)
#error "the emulation's switch between fibers is written for x86-64 Linux"
#endif

// Pushes the registers that a call preserves, exchanges the stacks, pops the other's. Weak: every source has a copy.
extern "C" void ffrl_cuda_host_switch(void** save, void* resume);
__asm__(
    ".text\n.weak ffrl_cuda_host_switch\n.hidden ffrl_cuda_host_switch\n"
    ".type ffrl_cuda_host_switch,@function\n"
    "ffrl_cuda_host_switch:\n"
    "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  mov %rsp, (%rdi)\n  mov %rsi, %rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n  ret\n"
    ".size ffrl_cuda_host_switch, .-ffrl_cuda_host_switch\n");

namespace cuda_host {

class Fiber {
 public:
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  static constexpr std::size_t kStackBytes = 512 << 10;
#else
  static constexpr std::size_t kStackBytes = 256 << 10;
#endif

  Fiber() = default;
  Fiber(Fiber&& other) noexcept
      : stack_(std::exchange(other.stack_, nullptr)), top_(other.top_), fake_(other.fake_), clock_(other.clock_) {}
  Fiber& operator=(Fiber&&) = delete;
  ~Fiber() { unmap(); }

  /// Makes `resume` run entry(), which must not return: it ends in `leave(true)`.
  void start(void (*entry)()) {
    if (!stack_) {
      void* mapped =
          mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (mapped == MAP_FAILED) throw std::bad_alloc();
      stack_ = static_cast<std::byte*>(mapped);
    }
    allow(stack_, kStackBytes);
    *reinterpret_cast<std::uint64_t*>(stack_) = kSentinel;
    auto** top = reinterpret_cast<void**>(stack_ + kStackBytes);
    *--top = nullptr;  // in the place of a return address, with the alignment that a call leaves
    *--top = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    top_ = top;
#ifdef __SANITIZE_THREAD__
    clock_ = __tsan_create_fiber(0);
#endif
  }

  /// From the scheduler: runs the fiber until it leaves.
  FFRL_UNWATCHED void resume() {
#ifdef __SANITIZE_ADDRESS__
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, stack_, kStackBytes);
#endif
#ifdef __SANITIZE_THREAD__
    scheduler_clock_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(clock_, __tsan_switch_to_fiber_no_sync);
#endif
    ffrl_cuda_host_switch(&scheduler_top_, top_);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }

  /// First thing in entry().
  static void entered() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
  }

  /// From within the fiber: back to the scheduler; for good when `last`.
  FFRL_UNWATCHED void leave([[maybe_unused]] bool last) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(last ? nullptr : &fake_, scheduler_stack_, scheduler_stack_bytes_);
#endif
#ifdef __SANITIZE_THREAD__
    __tsan_switch_to_fiber(scheduler_clock_, __tsan_switch_to_fiber_no_sync);
#endif
    ffrl_cuda_host_switch(&top_, scheduler_top_);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake_, nullptr, nullptr);
#endif
  }

  /// After its last leave, from the scheduler.
  void finish() {
#ifdef __SANITIZE_THREAD__
    __tsan_destroy_fiber(clock_);
    unmap();  // so that it forgets who wrote to this stack
#endif
  }

  bool overflowed() const { return *reinterpret_cast<const std::uint64_t*>(stack_) != kSentinel; }

 private:
  void unmap() {
    if (stack_) munmap(stack_, kStackBytes);
    stack_ = nullptr;
  }

  static constexpr std::uint64_t kSentinel = 0x5AFE57AC5AFE57ACu;

  std::byte* stack_ = nullptr;
  void* top_ = nullptr;
  void* fake_ = nullptr;
  void* clock_ = nullptr;

  inline static void* scheduler_top_ = nullptr;
  inline static void* scheduler_clock_ = nullptr;
  inline static const void* scheduler_stack_ = nullptr;
  inline static std::size_t scheduler_stack_bytes_ = 0;
};

}  // namespace cuda_host

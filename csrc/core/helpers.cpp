#include "helpers.hpp"

#include <sched.h>

namespace ffrl {
namespace {

// The phases of a tile follow one another within microseconds. Where one takes longer, the other threads may have been
// put aside by the system, and need this processor.
constexpr int kSpins = 1 << 12;

template <class Ready>
void wait_until(Ready ready) {
  for (int spins = 0; !ready(); ++spins) {
    if (spins >= kSpins) {
      sched_yield();
      continue;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
}

}  // namespace

void Helpers::run(Task task, const void* context, int me) const {
  for (int share = me; share < shares_; share += threads_) task(context, share, shares_);
}

void Helpers::lead(Phase phase, Task task, const void* context) {
  if (threads_ > 1) {
    phase_ = phase;
    task_ = task;
    context_ = context;
    done_ = 0;
    __atomic_store_n(&round_, round_ + 1, __ATOMIC_RELEASE);
  }
  run(task, context, 0);
  if (threads_ > 1) wait_until([this] { return __atomic_load_n(&done_, __ATOMIC_ACQUIRE) == threads_ - 1; });
}

void Helpers::help(int me, PhaseRecord* record) {
  for (unsigned seen = 0;; ++seen) {
    wait_until([this, seen] { return __atomic_load_n(&round_, __ATOMIC_ACQUIRE) != seen; });
    if (!task_) return;
    {
      const PhaseTimer timer(record, phase_);
      run(task_, context_, me);
    }
    __atomic_fetch_add(&done_, 1, __ATOMIC_RELEASE);
  }
}

void Helpers::dismiss() {
  task_ = nullptr;
  __atomic_store_n(&round_, round_ + 1, __ATOMIC_RELEASE);
}

}  // namespace ffrl

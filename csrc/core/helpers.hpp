// Threads that share out the units of a tile: where the rows are too few to be divided, one thread leads them through
// the network, and all take a part of each product's columns.
#pragma once

#include "phases.hpp"

namespace ffrl {

// What stands here is always inlined: the code of every instruction set must have its own copy (simd.hpp).
class Helpers {
 public:
  /// Part `share` of `shares` of a phase.
  using Task = void (*)(const void* context, int share, int shares);

  /// Into how many parts each phase is divided. Results depend on it, not on how many threads take the parts.
  __attribute__((always_inline)) explicit Helpers(int shares) : shares_(shares) {}
  Helpers(const Helpers&) = delete;
  Helpers& operator=(const Helpers&) = delete;

  __attribute__((always_inline)) int shares() const { return shares_; }

  /// Before lead() and help(): how many threads are there.
  __attribute__((always_inline)) void gather(int threads) { threads_ = threads; }

  /// Runs all parts, on this thread and on those that help; returns when all are done.
  void lead(Phase phase, Task task, const void* context);
  /// Takes parts of what is led, as thread 1 … threads − 1, until the helpers are dismissed.
  void help(int me, PhaseRecord* record);
  void dismiss();

 private:
  void run(Task task, const void* context, int me) const;

  const int shares_;
  int threads_ = 1;
  Phase phase_{};
  Task task_ = nullptr;  // null: dismissed
  const void* context_ = nullptr;
  // On lines of their own: each is written by one side while the other reads it again and again.
  alignas(64) unsigned round_ = 0;
  alignas(64) int done_ = 0;
};

}  // namespace ffrl

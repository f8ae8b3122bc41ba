// Runs the warps of one block to their end.
#pragma once

#include <random>

#include "memory.hpp"

namespace ptx {

using Random = std::mt19937_64;

/// Throws Fault at an error, a deadlock, or after `limit` warp instructions.
class Scheduler {
 public:
  Scheduler(Block& block, Random& random, std::uint64_t limit) : block_(block), random_(random), left_(limit) {}
  void run();

 private:
  /// A named barrier while threads wait at it.
  struct Barrier {
    struct Waiting {
      Warp* warp;
      Lanes lanes;
      std::uint32_t pc;
    };
    std::uint32_t expected = 0;  // threads; 0: all that are alive
    std::uint32_t arrived = 0;
    std::uint32_t passed = 0;  // warps that arrived without waiting
    std::vector<Waiting> waiting;
    std::uint32_t true_lanes = 0;  // of bar.red
  };

  /// Lets a warp go on for so many instructions, or until it waits.
  void slice(Warp& warp, std::uint64_t steps);
  void advance(Warp& warp, std::uint64_t steps);
  void arrive(Warp& warp, Lanes lanes, const Instruction& instruction);
  void complete(Barrier& barrier);
  void complete_all_alive();
  std::uint32_t alive() const;
  [[noreturn]] void report_deadlock() const;

  Block& block_;
  Random& random_;
  std::uint64_t left_;
  Barrier barriers_[16];
};

}  // namespace ptx

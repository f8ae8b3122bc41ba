// Which accesses of a block's threads are ordered by barriers, and the races among those that are not.
//
// Time counts the synchronisations of a launch. An access of thread a at time t comes before what thread b does now if
// a = b, or all of the block has met at a barrier after t, or a's warp and b's have met at a named barrier after t, or
// both are lanes of one warp and have met at a bar.warp.sync after t.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "program.hpp"

namespace ptx {

struct Race {
  std::string kind;
  std::uint32_t pc, other;
  auto operator<=>(const Race&) const = default;
};
using Races = std::map<Race, std::uint64_t>;

constexpr std::uint16_t kNoThread = 0xffff, kSeveral = 0xfffe;
constexpr int kMaxWarps = 32;

class Order {
 public:
  /// A block starts: all that came before is ordered.
  void start(int warps);
  /// All threads of the block have met.
  void meet_block();
  /// Warps have met; those of `arrived` have only passed by and learn nothing.
  void meet_warps(std::uint32_t waited, std::uint32_t arrived);
  /// Lanes of one warp have met.
  void meet_lanes(int warp, Lanes members);

  std::uint32_t time() const { return time_; }
  bool settled(std::uint32_t at) const { return at < since_; }
  bool before(std::uint16_t thread, std::uint32_t at, int now) const {
    if (at < since_ || thread == now) return true;
    const int warp = now / kWarp, other = thread / kWarp;
    return (warp == other ? seen_[warp][now % kWarp][thread % kWarp] : known_[warp][other]) > at;
  }
  /// As before(), for all lanes of a warp but this thread.
  bool all_before(int warp, std::uint32_t at, int now) const;

 private:
  std::uint32_t time_ = 1, since_ = 1;
  std::array<std::array<std::uint32_t, kMaxWarps>, kMaxWarps> known_{};
  std::vector<std::array<std::array<std::uint32_t, kWarp>, kWarp>> seen_;
};

/// What happened last to one granule of memory.
struct Cell {
  std::uint32_t write_time = 0, read_time = 0, readers = 0;  // readers: their warps
  std::uint16_t writer = kNoThread, reader = kNoThread;
  std::uint32_t write_pc = 0, read_pc = 0;
  bool atomic = false;     // the write was
  bool in_flight = false;  // cp.async has not delivered it
};

/// One access: who, where in the program.
struct Access {
  int thread;
  std::uint32_t pc;
  bool atomic = false;
};

class Shadow {
 public:
  Shadow(std::size_t bytes, int granule);

  int granule_shift() const { return shift_; }
  void read(const Order& order, Races& races, Access by, std::size_t at, std::size_t bytes);
  /// `changed`: whether the bytes of a granule change; the rewriting of the same value is no race.
  template <class Changed>
  void write(const Order& order, Races& races, Access by, std::size_t at, std::size_t bytes, Changed changed) {
    const std::size_t last = (at + bytes - 1) >> shift_;
    for (std::size_t i = at >> shift_; i <= last; ++i) write_cell(order, races, by, cells_[i], changed(i << shift_));
  }
  void set_in_flight(std::size_t at, std::size_t bytes, bool value);

 private:
  static void write_cell(const Order& order, Races& races, Access by, Cell& cell, bool changed);
  static bool readers_before(const Order& order, const Cell& cell, int thread);

  int shift_;
  std::vector<Cell> cells_;
};

}  // namespace ptx

#include "order.hpp"

#include <algorithm>
#include <bit>

#include "lanes.hpp"

namespace ptx {

void Order::start(int warps) {
  since_ = ++time_;
  for (auto& row : known_) row.fill(0);
  seen_.assign(warps, {});
}

void Order::meet_block() { since_ = ++time_; }

void Order::meet_warps(std::uint32_t waited, std::uint32_t arrived) {
  ++time_;
  std::array<std::uint32_t, kMaxWarps> all{};
  each_lane(waited | arrived, [&](int p) {
    for (int x = 0; x < kMaxWarps; ++x) all[x] = std::max(all[x], known_[p][x]);
  });
  each_lane(waited | arrived, [&](int p) { all[p] = time_; });
  each_lane(waited, [&](int q) {
    known_[q] = all;
    for (auto& lane : seen_[q]) lane.fill(time_);
  });
}

void Order::meet_lanes(int warp, Lanes members) {
  ++time_;
  std::array<std::uint32_t, kWarp> all{};
  each_lane(members, [&](int lane) {
    for (int x = 0; x < kWarp; ++x) all[x] = std::max(all[x], seen_[warp][lane][x]);
  });
  each_lane(members, [&](int lane) { all[lane] = time_; });
  each_lane(members, [&](int lane) { seen_[warp][lane] = all; });
}

bool Order::all_before(int warp, std::uint32_t at, int now) const {
  if (at < since_) return true;
  if (now / kWarp != warp) return known_[now / kWarp][warp] > at;
  const auto& seen = seen_[warp][now % kWarp];
  for (int lane = 0; lane < kWarp; ++lane)
    if (lane != now % kWarp && seen[lane] <= at) return false;
  return true;
}

Shadow::Shadow(std::size_t bytes, int granule)
    : shift_(std::countr_zero(static_cast<unsigned>(granule))), cells_((bytes >> shift_) + 1) {}

void Shadow::read(const Order& order, Races& races, Access by, std::size_t at, std::size_t bytes) {
  const std::size_t last = (at + bytes - 1) >> shift_;
  for (std::size_t i = at >> shift_; i <= last; ++i) {
    Cell& cell = cells_[i];
    if (cell.in_flight) ++races[{"read of what cp.async has not delivered", by.pc, cell.write_pc}];
    if (cell.writer != kNoThread && !order.settled(cell.write_time) && !(by.atomic && cell.atomic) &&
        !order.before(cell.writer, cell.write_time, by.thread))
      ++races[{"read without a barrier after the write", by.pc, cell.write_pc}];
    const auto warp = std::uint32_t{1} << (by.thread / kWarp);
    const auto thread = static_cast<std::uint16_t>(by.thread);
    if (cell.read_time != order.time() && (cell.readers == 0 || readers_before(order, cell, by.thread))) {
      cell.readers = warp;
      cell.reader = thread;
    } else if (cell.reader != thread) {
      cell.readers |= warp;
      cell.reader = kSeveral;
    }
    cell.read_time = order.time();
    cell.read_pc = by.pc;
  }
}

bool Shadow::readers_before(const Order& order, const Cell& cell, int thread) {
  if (order.settled(cell.read_time)) return true;
  if (cell.reader != kSeveral) return order.before(cell.reader, cell.read_time, thread);
  for (auto warps = cell.readers; warps; warps &= warps - 1)
    if (!order.all_before(std::countr_zero(warps), cell.read_time, thread)) return false;
  return true;
}

void Shadow::write_cell(const Order& order, Races& races, Access by, Cell& cell, bool changed) {
  if (cell.in_flight) ++races[{"write to what cp.async has not delivered", by.pc, cell.write_pc}];
  if (changed) {
    if (cell.writer != kNoThread && !(by.atomic && cell.atomic) &&
        !order.before(cell.writer, cell.write_time, by.thread))
      ++races[{"write without a barrier after another write", by.pc, cell.write_pc}];
    if (cell.readers != 0 && !by.atomic && !readers_before(order, cell, by.thread))
      ++races[{"write without a barrier after the read", by.pc, cell.read_pc}];
  }
  cell.write_time = order.time();
  cell.writer = static_cast<std::uint16_t>(by.thread);
  cell.write_pc = by.pc;
  cell.atomic = by.atomic;
}

void Shadow::set_in_flight(std::size_t at, std::size_t bytes, bool value) {
  for (std::size_t i = at >> shift_; i <= (at + bytes - 1) >> shift_; ++i) cells_[i].in_flight = value;
}

}  // namespace ptx

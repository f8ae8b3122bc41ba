// Which tile of rows is computed with which potential by which thread.
#pragma once

#include <cstdint>
#include <vector>

namespace ffrl {

/// Rows of a tile: a multiple of every register tile's height (multiply.hpp), small enough for a tile's activations to
/// stay in the second-level cache.
inline constexpr std::int64_t kTileRows = 48;

/// One tile of rows, all through one potential; under gates, each through all of them.
struct Job {
  std::int64_t potential;  // under gates the first of them, 0
  std::int64_t first;      // position of its first row in Schedule::order
  std::int64_t count;      // 1 … kTileRows
  std::int64_t slot;       // where its weight gradients are summed; under gates the first of K slots
};

/// The work of every thread, fixed by the shape of the problem alone: results do not depend on timing.
struct Schedule {
  int threads = 1;
  std::vector<std::int64_t> order;           // rows grouped by potential; empty: as they come
  std::vector<Job> jobs;                     // grouped by thread
  std::vector<std::int64_t> begin;           // thread i has jobs begin[i] … begin[i + 1], of few rows maybe none
  std::vector<std::int64_t> slot_potential;  // which potential each slot of weight gradients belongs to

  std::int64_t row(std::int64_t position) const { return order.empty() ? position : order[position]; }
};

/// Multiply-adds for which it pays to start another thread.
inline constexpr double kThreadWork = 1 << 18;

/// Shares `rows` out evenly among at most `threads` threads; `work`: multiply-adds of all rows. Throws
/// std::out_of_range when an index lies outside 0 … potentials − 1.
void plan(Schedule& schedule, std::int64_t rows, std::int64_t potentials, std::int64_t selected,
          const std::int64_t* index, bool gates, double work, int threads);

}  // namespace ffrl

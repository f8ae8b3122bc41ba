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

/// The work in shares, one for each thread that is to be used; fixed by the shape of the problem and the number of
/// shares alone: results do not depend on timing, nor on how many threads take the shares.
struct Schedule {
  int shares = 1;
  std::vector<std::int64_t> order;           // rows grouped by potential; empty: as they come
  std::vector<Job> jobs;                     // grouped by share
  std::vector<std::int64_t> begin;           // share i has jobs begin[i] … begin[i + 1], of few rows maybe none
  std::vector<std::int64_t> slot_potential;  // which potential each slot of weight gradients belongs to

  std::int64_t row(std::int64_t position) const { return order.empty() ? position : order[position]; }
};

/// What a call has to do, as far as it decides how many threads pay.
struct Effort {
  double products;      // of all rows: multiply-adds of whole vectors
  double time_weights;  // bytes of weights of the time conditioning, each read once, by whichever thread
  double packed;        // bytes of packed weights, which every thread fetches from the caches of those that packed them
};

/// How many of at most `threads` threads to use: as many as have enough to do, or one where what they save does not pay
/// for starting them. Few rows and narrow networks are faster on one.
int threads_that_pay(const Effort& effort, int threads);

/// Divides `rows` evenly into `shares`. Throws std::out_of_range when an index lies outside
/// 0 … potentials − 1.
void plan(Schedule& schedule, std::int64_t rows, std::int64_t potentials, std::int64_t selected,
          const std::int64_t* index, bool gates, int shares);

}  // namespace ffrl

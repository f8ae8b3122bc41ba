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

/// Into how many shares the work is divided, one for each thread that is to be used: by rows, or where these are few by
/// units, when all threads go through the network together. At least one of the two is 1.
struct Division {
  int rows = 1, units = 1;
};

/// The work in shares; fixed by the shape of the problem and the division alone: results do not depend on timing, nor
/// on how many threads take the shares.
struct Schedule {
  Division shares;
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
  double largest;       // bytes of the largest weight matrix
};

/// How many of at most `threads` threads to use: as many as have enough to do, or one where what they save does not pay
/// for starting them. Few rows and narrow networks are faster on one.
int threads_that_pay(const Effort& effort, int threads);

/// As many of `threads` threads as may share the units of so few rows; 1: the rows are better divided.
int threads_of_units(const Effort& effort, std::int64_t rows, int threads);

/// Divides `rows` evenly. Throws std::out_of_range when an index lies outside 0 … potentials − 1.
void plan(Schedule& schedule, std::int64_t rows, std::int64_t potentials, std::int64_t selected,
          const std::int64_t* index, bool gates, Division shares);

}  // namespace ffrl

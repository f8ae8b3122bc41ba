#include "schedule.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace ffrl {
namespace {

/// Stable counting sort of the rows by their potential; returns where each potential's rows begin.
std::vector<std::int64_t> group_rows(std::vector<std::int64_t>& order, std::int64_t rows, std::int64_t potentials,
                                     const std::int64_t* index) {
  std::vector<std::int64_t> begin(potentials + 1, 0);
  for (std::int64_t b = 0; b < rows; ++b) {
    if (index[b] < 0 || index[b] >= potentials)
      throw std::out_of_range("index: expected values in 0 … " + std::to_string(potentials - 1) + ", found " +
                              std::to_string(index[b]) + " in row " + std::to_string(b));
    ++begin[index[b] + 1];
  }
  for (std::int64_t k = 0; k < potentials; ++k) begin[k + 1] += begin[k];
  order.resize(rows);
  std::vector<std::int64_t> next(begin.begin(), begin.end() - 1);
  for (std::int64_t b = 0; b < rows; ++b) order[next[index[b]]++] = b;
  return begin;
}

}  // namespace

void plan(Schedule& s, std::int64_t rows, std::int64_t potentials, std::int64_t selected, const std::int64_t* index,
          bool gates, int threads) {
  s.order.clear();
  s.jobs.clear();
  s.slot_potential.clear();

  std::vector<std::int64_t> groups = {0, rows};
  if (index) groups = group_rows(s.order, rows, potentials, index);
  std::vector<Job> tiles;
  for (std::size_t g = 0; g + 1 < groups.size(); ++g)
    for (std::int64_t at = groups[g]; at < groups[g + 1]; at += kTileRows)
      tiles.push_back({index ? static_cast<std::int64_t>(g) : selected, at, std::min(kTileRows, groups[g + 1] - at), at,
                       0, true, true});

  const auto count = static_cast<std::int64_t>(tiles.size());
  s.threads = static_cast<int>(std::clamp<std::int64_t>(threads, 1, std::max<std::int64_t>(count, 1)));
  s.begin.assign(1, 0);
  for (int thread = 0; thread < s.threads; ++thread) {
    const auto from = tiles.begin() + count * thread / s.threads, to = tiles.begin() + count * (thread + 1) / s.threads;
    // Under gates a thread takes all its rows through one potential after the other, so that the weights of one
    // potential at a time are in the cache; its rows belong to no other thread, so sums over k have a fixed order.
    for (std::int64_t k = 0; k < (gates ? potentials : 1); ++k)
      for (auto tile = from; tile != to; ++tile) {
        Job job = *tile;
        if (gates) {
          job.potential = k;
          job.tape = k * rows + job.first;
          job.opens = k == 0;
          job.closes = k == potentials - 1;
        }
        if (static_cast<std::int64_t>(s.jobs.size()) == s.begin.back() || s.jobs.back().potential != job.potential)
          s.slot_potential.push_back(job.potential);
        job.slot = static_cast<std::int64_t>(s.slot_potential.size()) - 1;
        s.jobs.push_back(job);
      }
    s.begin.push_back(static_cast<std::int64_t>(s.jobs.size()));
  }
}

}  // namespace ffrl

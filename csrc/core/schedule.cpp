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
          bool gates, double work, int threads) {
  s.order.clear();
  s.jobs.clear();
  s.slot_potential.clear();

  std::vector<std::int64_t> groups = {0, rows};  // where the rows of each potential begin
  if (index) groups = group_rows(s.order, rows, potentials, index);

  s.threads = static_cast<int>(std::clamp(work / kThreadWork, 1.0, static_cast<double>(std::max(threads, 1))));
  s.begin.assign(1, 0);
  for (int thread = 0; thread < s.threads; ++thread) {
    const std::int64_t from = rows * thread / s.threads, to = rows * (thread + 1) / s.threads;
    for (std::size_t g = 0; g + 1 < groups.size(); ++g) {
      const std::int64_t begin = std::max(from, groups[g]), end = std::min(to, groups[g + 1]);
      if (begin >= end) continue;
      // A slot belongs to one thread and one potential.
      const auto slot = static_cast<std::int64_t>(s.slot_potential.size());
      const std::int64_t potential = index ? static_cast<std::int64_t>(g) : gates ? 0 : selected;
      for (std::int64_t k = 0; k < (gates ? potentials : 1); ++k) s.slot_potential.push_back(potential + k);
      for (std::int64_t at = begin; at < end; at += kTileRows)
        s.jobs.push_back({potential, at, std::min(kTileRows, end - at), slot});
    }
    s.begin.push_back(static_cast<std::int64_t>(s.jobs.size()));
  }
}

}  // namespace ffrl

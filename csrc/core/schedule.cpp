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
  for (std::size_t g = 0; g + 1 < groups.size(); ++g) {
    const std::int64_t potential = index ? static_cast<std::int64_t>(g) : gates ? 0 : selected;
    for (std::int64_t at = groups[g]; at < groups[g + 1]; at += kTileRows)
      s.jobs.push_back({potential, at, std::min(kTileRows, groups[g + 1] - at), 0});
  }

  const auto count = static_cast<std::int64_t>(s.jobs.size());
  s.threads = static_cast<int>(std::clamp<std::int64_t>(threads, 1, std::max<std::int64_t>(count, 1)));
  s.begin.assign(1, 0);
  for (int thread = 0; thread < s.threads; ++thread) {
    const std::int64_t from = s.begin.back(), to = count * (thread + 1) / s.threads;
    for (std::int64_t j = from; j < to; ++j) {
      // A slot belongs to one thread and one potential.
      if (j == from || (!gates && s.jobs[j].potential != s.jobs[j - 1].potential))
        for (std::int64_t k = 0; k < (gates ? potentials : 1); ++k)
          s.slot_potential.push_back(gates ? k : s.jobs[j].potential);
      s.jobs[j].slot = static_cast<std::int64_t>(s.slot_potential.size()) - (gates ? potentials : 1);
    }
    s.begin.push_back(to);
  }
}

}  // namespace ffrl

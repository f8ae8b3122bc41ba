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

// In multiply-adds of whole vectors, of which a core makes some four in a nanosecond; fitted to calls of one and of two
// threads at D = 16 … 324 and B = 1 … 2,048 (`python -m bench.scaling` shows some).
constexpr double kThread = 1 << 14;         // what one more thread should have to do
constexpr double kStart = 60e3;             // to start threads and to wait for all of them: 15 µs
constexpr double kTimeWeight = 1 / 6.0;     // a byte of the conditioning's weights, read from the third-level cache
constexpr double kPackedWeight = 1 / 32.0;  // a byte of packed weights fetched, less what is gained by packing together

// More rows are divided: a thread then reads all weights, but waits for no other.
constexpr std::int64_t kRowsByUnits = kTileRows / 2;
// Of a product's weights, what a share should have to read: a microsecond or two, beside which waiting is little.
constexpr double kShareOfWeights = 64 * 1024;

}  // namespace

int threads_that_pay(const Effort& effort, int threads) {
  const double shared = effort.products + kTimeWeight * effort.time_weights;
  const int useful = static_cast<int>(std::clamp(shared / kThread, 1.0, static_cast<double>(std::max(threads, 1))));
  const double saved = shared * (1 - 1.0 / useful);
  return saved > kStart + kPackedWeight * effort.packed ? useful : 1;
}

int threads_of_units(const Effort& effort, std::int64_t rows, int threads) {
  if (rows > kRowsByUnits) return 1;
  return static_cast<int>(std::clamp(effort.largest / kShareOfWeights, 1.0, static_cast<double>(std::max(threads, 1))));
}

void plan(Schedule& s, std::int64_t rows, std::int64_t potentials, std::int64_t selected, const std::int64_t* index,
          bool gates, Division shares) {
  s.order.clear();
  s.jobs.clear();
  s.slot_potential.clear();

  std::vector<std::int64_t> groups = {0, rows};  // where the rows of each potential begin
  if (index) groups = group_rows(s.order, rows, potentials, index);

  s.shares = shares;
  s.begin.assign(1, 0);
  for (int share = 0; share < shares.rows; ++share) {
    const std::int64_t from = rows * share / shares.rows, to = rows * (share + 1) / shares.rows;
    for (std::size_t g = 0; g + 1 < groups.size(); ++g) {
      const std::int64_t begin = std::max(from, groups[g]), end = std::min(to, groups[g + 1]);
      if (begin >= end) continue;
      // A slot belongs to one share and one potential.
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

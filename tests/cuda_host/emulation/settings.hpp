// What a test may choose before a launch, and the random numbers that the choice seeds.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cuda_host {

struct Settings {
  std::uint64_t seed = 0;
  /// One step of the scheduler in so many gives the warps new priorities.
  unsigned reshuffle_one_in = 512;
  /// cp.async lands at its wait, the destination being NaN until then; otherwise at once.
  bool copies_land_late = true;
  /// The dynamic and static shared memory of a block may take so many bytes: 227 KiB, as on sm_90.
  std::size_t max_shared_bytes = 227 << 10;
  int multiprocessors = 132;
  int compute_capability = 90;
};

inline Settings settings;

/// splitmix64.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  unsigned below(unsigned bound) {
    std::uint64_t x = (state_ += 0x9E3779B97F4A7C15u);
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return static_cast<unsigned>(((x ^ (x >> 31)) >> 32) * bound >> 32);
  }

  template <class Sequence>
  void shuffle(Sequence& values) {
    for (std::size_t i = values.size(); i > 1; --i) {
      const unsigned j = below(static_cast<unsigned>(i));
      const auto kept = values[i - 1];
      values[i - 1] = values[j];
      values[j] = kept;
    }
  }

 private:
  std::uint64_t state_;
};

}  // namespace cuda_host

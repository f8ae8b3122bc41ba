// What the lanes of a warp do together: barriers, shuffles, votes.
//
// __syncwarp orders memory between its lanes. Shuffles, votes and matrix instructions exchange registers and promise
// nothing about memory, so ThreadSanitizer is told of no order there.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "block.hpp"

namespace cuda_host {

inline constexpr std::uint32_t kFullMask = ~0u;

/// What the 32 lanes brought; null where a lane takes no part.
template <class Deposit>
using Lanes = std::array<Deposit*, kWarpLanes>;

/// All lanes in `mask` bring a Deposit; `Exchange`, a function of Lanes<Deposit>, runs once and may change all of them.
template <auto Exchange, class Deposit>
void meet(const char* name, std::uint32_t mask, Deposit& mine) {
  const Unwatched bookkeeping;
  constexpr auto exchange = [](void* const* deposits) {
    Lanes<Deposit> lanes;
    for (unsigned lane = 0; lane < kWarpLanes; ++lane) lanes[lane] = static_cast<Deposit*>(deposits[lane]);
    Exchange(lanes);
  };
  block->meet({name, mask, &mine, exchange, false});
}

/// As `meet`, of instructions that need the whole warp.
template <auto Exchange, class Deposit>
void meet_all(const char* name, Deposit& mine) {
  const Unwatched bookkeeping;
  const unsigned threads = block->size().x * block->size().y * block->size().z;
  if ((current->warp() + 1) * kWarpLanes > threads)
    throw Fault{text("%s: needs 32 lanes, its warp has %u", name, threads % kWarpLanes)};
  meet<Exchange>(name, kFullMask, mine);
}

struct Shuffle {
  std::uint32_t value;
  unsigned source;
  std::uint32_t result;
  bool found;
};

inline void shuffle(const Lanes<Shuffle>& lanes) {
  for (Shuffle* lane : lanes) {
    if (!lane) continue;
    const Shuffle* source = lanes[lane->source];
    lane->found = source != nullptr;
    if (source) lane->result = source->value;
  }
}

template <class T>
T shuffle_from(const char* name, std::uint32_t mask, T value, unsigned source) {
  static_assert(sizeof(T) == 4, "shuffles exchange 32-bit values");
  const Unwatched bookkeeping;
  Shuffle mine{0, source, 0, false};
  std::memcpy(&mine.value, &value, 4);
  meet<shuffle>(name, mask, mine);
  if (!mine.found) throw Fault{text("%s: reads lane %u, which is not in mask %08x", name, source, mask)};
  T result;
  std::memcpy(&result, &mine.result, 4);
  return result;
}

/// The lane `index` in the caller's segment of `width` lanes; the caller itself where that is outside.
inline unsigned within_segment(int index, int width) {
  const int lane = static_cast<int>(lane_index()), first = lane / width * width;
  const bool inside = index >= 0 && index < width;
  return static_cast<unsigned>(inside ? first + index : lane);
}

struct Vote {
  bool predicate;
  std::uint32_t ballot;
};

inline void vote(const Lanes<Vote>& lanes) {
  std::uint32_t ballot = 0;
  for (unsigned lane = 0; lane < kWarpLanes; ++lane)
    if (lanes[lane] && lanes[lane]->predicate) ballot |= 1u << lane;
  for (Vote* lane : lanes)
    if (lane) lane->ballot = ballot;
}

inline std::uint32_t ballot(const char* name, std::uint32_t mask, bool predicate) {
  const Unwatched bookkeeping;
  Vote mine{predicate, 0};
  meet<vote>(name, mask, mine);
  return mine.ballot;
}

}  // namespace cuda_host

inline void __syncwarp(unsigned mask = cuda_host::kFullMask) {
  const cuda_host::Unwatched bookkeeping;
  cuda_host::block->meet({"__syncwarp", mask, nullptr, nullptr, true});
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  // The source wraps around within the segment.
  return cuda_host::shuffle_from("__shfl_sync", mask, value, cuda_host::within_segment(source & (width - 1), width));
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  const int lane = static_cast<int>(cuda_host::lane_index()), source = lane ^ lanes;
  // Segments before the caller's may be read, those after it not.
  const bool inside = source < (lane / width + 1) * width;
  return cuda_host::shuffle_from("__shfl_xor_sync", mask, value, static_cast<unsigned>(inside ? source : lane));
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
  const int index = static_cast<int>(cuda_host::lane_index()) % width + static_cast<int>(lanes);
  return cuda_host::shuffle_from("__shfl_down_sync", mask, value, cuda_host::within_segment(index, width));
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
  const int index = static_cast<int>(cuda_host::lane_index()) % width - static_cast<int>(lanes);
  return cuda_host::shuffle_from("__shfl_up_sync", mask, value, cuda_host::within_segment(index, width));
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return cuda_host::ballot("__ballot_sync", mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) {
  return cuda_host::ballot("__any_sync", mask, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return cuda_host::ballot("__all_sync", mask, predicate == 0) == 0;
}

// A warp's registers, and how instructions read and write 32 lanes of them.
#pragma once

#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "program.hpp"

namespace ptx {

struct Block;

/// One 16-byte (or 4, or 8) piece that cp.async has read and not yet delivered.
struct Copy {
  std::uint32_t offset, pc;
  std::uint8_t bytes;
  std::byte data[16];
};

/// A thread's cp.async copies: the groups committed, oldest first, and the one still open.
struct CopyQueue {
  std::vector<std::vector<Copy>> committed;
  std::vector<Copy> open;
};

/// Registers that a wgmma will write when it is waited for.
struct MatrixResult {
  std::vector<std::uint32_t> offsets;
  std::vector<float> values;  // (offsets, kWarp)
  struct Range {
    std::uint32_t offset, bytes, pc;
  };
  std::vector<Range> reads;  // of shared memory, until then
};

struct MatrixQueue {
  std::vector<std::vector<MatrixResult>> committed;
  std::vector<MatrixResult> open;
};

struct Warp {
  Block* block = nullptr;
  int index = 0;
  std::vector<std::byte> file;
  std::uint32_t pc[kWarp] = {};
  Lanes alive = 0, at_barrier = 0, at_collective = 0;
  std::uint32_t current = 0;       // the instruction being carried out
  std::uint8_t carry[kWarp] = {};  // the condition code of add.cc
  std::uint64_t priority = 0;
  CopyQueue copies[kWarp];
  MatrixQueue matrices;
  std::vector<std::byte> local;  // (kWarp, local_bytes)

  int thread(int lane) const { return index * kWarp + lane; }
  template <class T>
  T* at(Slot slot) {
    return reinterpret_cast<T*>(file.data() + slot.offset);
  }
};

template <class F>
inline void each_lane(Lanes mask, F f) {
  for (; mask; mask &= mask - 1) f(std::countr_zero(mask));
}

/// The bits of a predicate register as a mask.
inline Lanes predicate_mask(const std::uint8_t* lanes) {
  Lanes out = 0;
  for (int i = 0; i < kWarp; ++i) out |= Lanes{lanes[i]} << i;
  return out;
}

/// Reads an operand as T: the register's low bytes where it is wider.
template <class T>
struct Read {
  Slot slot;
  bool negated = false;

  const T* operator()(Warp& warp, T* scratch) const {
    if (slot.width == sizeof(T) && !negated) return warp.at<T>(slot);
    if constexpr (std::is_same_v<T, std::uint8_t>) {
      if (negated) {
        for (int i = 0; i < kWarp; ++i) scratch[i] = warp.at<std::uint8_t>(slot)[i] ^ 1;
        return scratch;
      }
    }
    const std::byte* from = warp.file.data() + slot.offset;
    for (int i = 0; i < kWarp; ++i) std::memcpy(scratch + i, from + i * slot.width, sizeof(T));
    return scratch;
  }
};

/// Writes T to the lanes of a mask, extended by T's sign where the register is wider. A slot of no width takes nothing.
template <class T>
struct Write {
  Slot slot;

  void operator()(Warp& warp, const T* values, Lanes mask) const {
    if (slot.width == sizeof(T)) {
      T* to = warp.at<T>(slot);
      if (mask == kAllLanes)
        std::memcpy(to, values, sizeof(T) * kWarp);
      else
        each_lane(mask, [&](int i) { to[i] = values[i]; });
    } else if constexpr (std::is_integral_v<T>) {
      each_lane(mask, [&](int i) {
        if (slot.width == 2) warp.at<std::uint16_t>(slot)[i] = static_cast<std::uint16_t>(values[i]);
        if (slot.width == 4) warp.at<std::uint32_t>(slot)[i] = static_cast<std::uint32_t>(values[i]);
        if (slot.width == 8) warp.at<std::uint64_t>(slot)[i] = static_cast<std::uint64_t>(values[i]);
      });
    }
  }
};

}  // namespace ptx

// Where each weight of a potential lies in the flat parameter row of a bank; ffrl_fast/layout.py states the same order.
#pragma once

#include <cstdint>

namespace ffrl {

enum class TimeEmbedding : std::int64_t { none, separable, sinusoidal };

struct NetworkShape {
  std::int64_t dim = 0;    // D
  std::int64_t width = 0;  // H
  std::int64_t depth = 0;  // L hidden layers
  bool out_tanh = true;    // φ = tanh, else the identity
  TimeEmbedding time = TimeEmbedding::none;

  bool separable() const { return time == TimeEmbedding::separable; }  // u = S(z) − E t
};

/// Offsets, in elements, from the start of one potential's row. The last group depends on the time embedding: energy,
/// or the two layers of the sinusoidal one.
struct Layout {
  std::int64_t w_in, b_in, w_hid, b_hid, w_out, b_out;
  std::int64_t energy;
  std::int64_t w_time1, b_time1, w_time2, b_time2;

  // Always inline: the code of every instruction set must have its own copy (simd.hpp).
  __attribute__((always_inline)) explicit constexpr Layout(const NetworkShape& s)
      : w_in(0),
        b_in(s.width * s.dim),
        w_hid(b_in + s.width),
        b_hid(w_hid + s.depth * s.width * s.width),
        w_out(b_hid + s.depth * s.width),
        b_out(w_out + s.width),
        energy(b_out + 1),
        w_time1(b_out + 1),
        b_time1(w_time1 + s.width * s.dim),
        w_time2(b_time1 + s.width),
        b_time2(w_time2 + s.width * s.width) {}
};

/// Rows of weights and activations are padded with zeros to whole cache lines, on every instruction set alike, so that
/// the size of a tape does not depend on the processor.
template <class T>
constexpr std::int64_t padded(std::int64_t n) {
  constexpr std::int64_t line = 64 / sizeof(T);
  return (n + line - 1) / line * line;
}

}  // namespace ffrl

// What one call of the engine is given and what it writes. Plain pointers; every pointer may be null where it says so.
#pragma once

#include <cstdint>

#include "layout.hpp"

namespace ffrl {

/// K networks of one shape with their time conditioning.
template <class T>
struct Network {
  NetworkShape shape;
  const T* theta = nullptr;      // (K, stride); null: no such network
  std::int64_t stride = 0;       // elements from one potential's parameters to the next
  const T* tau = nullptr;        // (conditioned, times, H); null: τ = 0
  const T* dtau = nullptr;       // (conditioned, times, H); null: dτ/dt = 0
  std::int64_t conditioned = 1;  // K, or 1 where one potential was selected

  explicit operator bool() const { return theta != nullptr; }
};

template <class T>
struct Problem {
  std::int64_t rows = 0;        // B
  std::int64_t potentials = 1;  // K
  std::int64_t times = 1;       // 1: one time for all rows; else B
  const T* z = nullptr;         // (B, D), unit stride within a row
  std::int64_t z_stride = 0;
  const T* t = nullptr;  // (times,)
  Network<T> potential;
  Network<T> force;
  // Exactly one of the three says which potential moves a row.
  std::int64_t selected = -1;           // ≥ 0: this one for all rows
  const std::int64_t* index = nullptr;  // (B,)
  const T* gates = nullptr;             // (B, K), contiguous
  bool residual = false;
  int threads = 1;
};

template <class T>
struct Outputs {
  T* u = nullptr;         // (B,)
  T* dt = nullptr;        // (B,)
  T* grad = nullptr;      // (B, D)
  T* residual = nullptr;  // (B,); null unless asked for
  T* force = nullptr;     // (B,); null without a force network
  T* tape = nullptr;      // activations kept for the backward sweep (engine.hpp); null: keep nothing
};

/// Cotangents of the outputs; null: zero.
template <class T>
struct Cotangents {
  const T* u = nullptr;
  const T* dt = nullptr;
  const T* grad = nullptr;
  const T* residual = nullptr;
};

/// What the backward sweep reads of the forward one.
template <class T>
struct Saved {
  const T* grad = nullptr;   // (B, D), needed for the residual's cotangent
  const T* force = nullptr;  // (B,), likewise
  T* tape = nullptr;         // null: the activations are computed again
};

/// Gradients to write; null: not wanted. Those of shape (K, B, H) must come zeroed.
template <class T>
struct Gradients {
  T* z = nullptr;            // (B, D)
  T* t = nullptr;            // (times,), the explicit dependence −E t alone; the embedding's goes through τ
  T* theta = nullptr;        // (K, stride)
  T* tau = nullptr;          // (conditioned, times, H)
  T* dtau = nullptr;         // (conditioned, times, H)
  T* force_theta = nullptr;  // (K, stride of the force)
  T* force_tau = nullptr;    // (conditioned, times, H of the force)
  T* gates = nullptr;        // (B, K)
};

/// Elements of the activations kept for one row of one network: a, c_1 … c_L and v_1 … v_L; its output comes beside.
template <class T>
constexpr std::int64_t tape_row(const NetworkShape& s, bool derivatives) {
  return padded<T>(s.width) * (1 + s.depth * (derivatives ? 2 : 1));
}

/// Rows that a tape holds: under gates every row passes through every potential.
template <class T>
std::int64_t tape_rows(const Problem<T>& p) {
  return p.rows * (p.gates ? p.potentials : 1);
}

}  // namespace ffrl

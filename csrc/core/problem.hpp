// What one call of the engine is given and what it writes. Plain pointers; a pointer may be null where it says so.
//
// The engine evaluates the field of the potentials at one or more moments. At one moment with an output `grad` it is an
// operator on rows; at N moments with an output `path` it moves the rows, z ← z + step·∇u, from each to the next.
#pragma once

#include <cstdint>

#include "layout.hpp"
#include "phases.hpp"

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

  /// The engine computes τ itself unless the caller gave it, as it must where every row has a time of its own.
  bool computes_time() const { return shape.time == TimeEmbedding::sinusoidal && !tau; }
};

template <class T>
struct Problem {
  std::int64_t rows = 0;        // B
  std::int64_t potentials = 1;  // K
  std::int64_t moments = 1;     // N
  std::int64_t substeps = 1;    // u, ∂_t u and the residual are written at every so many moments
  T step = 0;                   // from one moment to the next
  bool row_times = false;       // every row has a time of its own; then N = 1
  const T* z = nullptr;         // (B, D), unit stride within a row
  std::int64_t z_stride = 0;
  const T* t = nullptr;  // (N,), or (B,) with row_times
  Network<T> potential;
  Network<T> force;
  // Exactly one of the three says which potential moves a row.
  std::int64_t selected = -1;           // ≥ 0: this one for all rows
  const std::int64_t* index = nullptr;  // (B,)
  const T* gates = nullptr;             // (B, K), or (B, N / substeps, K)
  bool gates_by_step = false;
  bool residual = false;
  const T* tangent = nullptr;  // a direction for the Hessian product: (B, D), or (D,) with tangent_shared
  bool tangent_shared = false;
  bool row_sum = false;  // of a path: Σ_d log|1 + step·(∇²u 1)_d|
  int threads = 1;
  PhaseRecord* phases = nullptr;  // (threads,), to be added to; null: nothing is timed

  std::int64_t times() const { return row_times ? rows : moments; }
  std::int64_t steps() const { return moments / substeps; }
  bool second_order() const { return tangent || row_sum; }
  bool shares_tangent() const { return tangent_shared || row_sum; }
};

template <class T>
struct Outputs {
  T* u = nullptr;         // (steps, B)
  T* dt = nullptr;        // (steps, B)
  T* residual = nullptr;  // (steps, B); null unless asked for
  T* hvp = nullptr;       // (B, D), where there is a tangent
  T* row_sum = nullptr;   // (steps, B), the sum over a step's moments; null unless asked for
  T* log_det = nullptr;   // (steps, B) of a path, likewise: Σ log|det(I + step · ∇²u)|; not for a backward sweep
  T* grad = nullptr;      // (B, D); or
  T* path = nullptr;      // (N + 1, B, D)
  T* tape = nullptr;      // for the backward sweep: tape_moment_size() elements for each of the last `taped` moments
  std::int64_t taped = 0;
  T* packed = nullptr;  // packed_size() elements, likewise, with a tape always; null: nothing is kept
};

/// Cotangents of the outputs; null: zero.
template <class T>
struct Cotangents {
  const T* u = nullptr;
  const T* dt = nullptr;
  const T* residual = nullptr;
  const T* hvp = nullptr;
  const T* row_sum = nullptr;
  const T* grad = nullptr;
  const T* path = nullptr;
};

/// What the backward sweep has from the forward one.
template <class T>
struct Saved {
  const T* path = nullptr;  // (N + 1, B, D); null where there is no path
  T* tape = nullptr;        // of the last `taped` moments; the activations of others are computed again
  std::int64_t taped = 0;
  T* packed = nullptr;  // with a tape always; null: the weights are packed again
};

/// Gradients to write; null: not wanted.
template <class T>
struct Gradients {
  T* z = nullptr;            // (B, D)
  T* t = nullptr;            // as t; through a τ that the caller gave nothing is added
  T* theta = nullptr;        // (K, stride)
  T* tau = nullptr;          // (conditioned, times, H); with row_times it must come zeroed
  T* dtau = nullptr;         // likewise
  T* force_theta = nullptr;  // (K, stride of the force)
  T* force_tau = nullptr;    // as tau
  T* gates = nullptr;        // as gates, must come zeroed
  T* tangent = nullptr;      // as tangent
};

/// The loss of one evaluation, mean over rows of weight · residual², and where its gradients go.
template <class T>
struct Loss {
  const T* weight = nullptr;  // (B,); null: 1
  double* value = nullptr;
  T* d_weight = nullptr;  // (B,); null: not wanted
};

/// The curvature of u at one moment: where its parts go, null: not wanted.
template <class T>
struct Curvature {
  T* laplacian = nullptr;  // (B,)
  T* hessian = nullptr;    // (B, D, D)
  T* log_det = nullptr;    // (B,) of I + step · ∇²u: the logarithm of its absolute value, −inf where it is singular
  T* sign = nullptr;       // (B,), with log_det
};

// The functions below are used by the code of every instruction set, each of which must have its own copy (simd.hpp).
#define FFRL_EACH_ISA inline __attribute__((always_inline))

/// Potentials that each row passes through.
template <class T>
FFRL_EACH_ISA std::int64_t potentials_per_row(const Problem<T>& p) {
  return p.gates ? p.potentials : 1;
}

/// Elements of the activations kept for one row of one network: a, c_1 … c_L and v_1 … v_L; its output comes beside.
template <class T>
FFRL_EACH_ISA std::int64_t activations_row(const NetworkShape& s, bool derivatives) {
  return padded<T>(s.width) * (1 + s.depth * (derivatives ? 2 : 1));
}

/// Elements of a row's derivatives along a tangent: those of p_1 … p_L and v_1 … v_L, and of q where each row has a
/// tangent of its own.
template <class T>
FFRL_EACH_ISA std::int64_t tangent_row(const Problem<T>& p) {
  const NetworkShape& s = p.potential.shape;
  return p.second_order() ? padded<T>(s.width) * (2 * s.depth + (p.shares_tangent() ? 0 : 1)) : 0;
}

/// Elements kept for one row at one moment: what every potential and force that it passes leaves, and besides ∇u where
/// there is a residual, ∇²u 1 where there is a row sum.
template <class T>
FFRL_EACH_ISA std::int64_t tape_row(const Problem<T>& p) {
  const std::int64_t potential = activations_row<T>(p.potential.shape, true) + tangent_row(p);
  const std::int64_t force = p.force ? activations_row<T>(p.force.shape, false) : 0;
  return potentials_per_row(p) * (potential + force) +
         padded<T>(p.potential.shape.dim) * ((p.residual ? 1 : 0) + (p.row_sum ? 1 : 0));
}

/// Numbers kept for one row: the outputs of all networks, and their derivatives along a tangent.
template <class T>
FFRL_EACH_ISA std::int64_t tape_values_row(const Problem<T>& p) {
  return potentials_per_row(p) * (1 + (p.force ? 1 : 0) + (p.second_order() ? 1 : 0));
}

template <class T>
FFRL_EACH_ISA std::int64_t tape_moment_size(const Problem<T>& p) {
  return p.rows * (tape_row(p) + tape_values_row(p));
}

/// Vectors (Hp,) a moment of the conditioning that all rows share (conditioning.hpp).
template <class T>
FFRL_EACH_ISA std::int64_t time_arrays(const Network<T>& net, bool derivatives) {
  const std::int64_t each = derivatives ? 2 : 1;
  return 1 + (net.tau || net.computes_time() ? each : 0) + (net.computes_time() ? 2 * each : 0);
}

/// For so few rows the weights are read where they lie: packing would take longer than the products.
inline constexpr std::int64_t kFewRows = 4;

/// Narrow networks are packed always: behind their matrices lie too few elements for whole vectors to be read.
FFRL_EACH_ISA bool packs_weights(const NetworkShape& s, std::int64_t rows) { return rows > kFewRows || s.width < 8; }

/// Elements of the packed weights of one network (packed_bank.hpp): each weight matrix in both orientations, vectors,
/// and the conditioning at the moments that all rows share. Room for the matrices is there for few rows too: a graph
/// that is traced for any number of rows has one size.
template <class T>
FFRL_EACH_ISA std::int64_t packed_network_size(const Network<T>& net, std::int64_t moments, bool derivatives) {
  const NetworkShape& s = net.shape;
  const std::int64_t hp = padded<T>(s.width), dp = padded<T>(s.dim);
  const std::int64_t matrices = s.dim * hp + s.width * (dp + 2 * s.depth * hp);
  return matrices + hp * (2 + s.depth + moments * time_arrays(net, derivatives));
}

/// The packed weights of all networks, and the line ahead of them (dispatch.cpp).
template <class T>
FFRL_EACH_ISA std::int64_t packed_size(const Problem<T>& p) {
  const std::int64_t moments = p.row_times ? 0 : p.moments;
  return padded<T>(1) +
         (p.selected >= 0 ? 1 : p.potentials) * (packed_network_size(p.potential, moments, true) +
                                                 (p.force ? packed_network_size(p.force, moments, false) : 0));
}

}  // namespace ffrl

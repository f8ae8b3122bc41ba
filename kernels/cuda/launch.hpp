// What a call of the CUDA kernels is given and what it writes. Plain pointers to device memory; a pointer may be null
// where it says so. All numbers are float32.
//
// The kernels evaluate the field of networks at one or more moments. At one moment with an output `grad` a call is an
// operator on rows; at N moments with an output `path` it moves the rows, z ← z + step·∇u, from each to the next.
//
// Nothing here allocates or waits: the caller hands over workspace of the size that workspace_floats() states, and
// every call can be captured in a CUDA graph.
#pragma once

#include <cstdint>

#ifndef FFRL_CUDA_HOST
#include <cuda_runtime_api.h>
#endif

namespace ffrl::cuda {

/// How the products round their operands; everything between the products is in float32. `ieee` splits each operand
/// into two tf32 numbers and leaves out the product of the two small ones.
enum class Precision : int { ieee, tf32, bf16 };

/// K networks of one shape with their time conditioning.
struct Network {
  int dim = 0;    // D
  int width = 0;  // H
  int depth = 0;  // L hidden layers
  bool out_tanh = true;
  const float* theta = nullptr;  // (K, stride), in the order of ffrl_fast/layout.py; null: no such network
  std::int64_t stride = 0;
  const float* tau = nullptr;   // (conditioned, times, H); null: τ = 0
  const float* dtau = nullptr;  // (conditioned, times, H); null: dτ/dt = 0
  int conditioned = 1;          // K, or 1 where one network was selected
};

struct Problem {
  std::int64_t rows = 0;     // B
  int potentials = 1;        // K
  int moments = 1;           // N
  int substeps = 1;          // u, ∂_t u and the residual are written at every so many moments
  float step = 0;            // from one moment to the next
  bool row_times = false;    // every row has a time of its own, times = B and N = 1; else times = N
  const float* z = nullptr;  // (B, D), unit stride within a row
  std::int64_t z_stride = 0;
  Network potential;
  Network force;            // its square is added to the residual
  bool value_only = false;  // u alone, as of a force network
  // Exactly one of the three says which network moves a row.
  int selected = -1;             // ≥ 0: this one for all rows
  const int* order = nullptr;    // (B,): the rows, those of one network behind each other; with
  const int* first = nullptr;    // (K + 1,): where those of each network begin
  const float* gates = nullptr;  // (B, K), or (B, N / substeps, K)
  bool gates_by_step = false;
  bool residual = false;
  const float* drive = nullptr;    // (B,), is added to the residual; null: 0
  const float* tangent = nullptr;  // (B, D), or (D,) with tangent_shared: a direction for the Hessian product
  bool tangent_shared = false;
  Precision precision = Precision::tf32;
};

struct Outputs {
  float* u = nullptr;         // (N / substeps, B), null: not wanted
  float* dt = nullptr;        // (N / substeps, B), null: not wanted
  float* residual = nullptr;  // (N / substeps, B), with Problem::residual
  float* grad = nullptr;      // (B, D); or
  float* path = nullptr;      // (N + 1, B, D)
  float* hvp = nullptr;       // (B, D), with Problem::tangent
};

/// What the backward sweep has from the forward one.
struct Saved {
  const float* path = nullptr;  // (N + 1, B, D); null where there is no path
  const float* grad = nullptr;  // (B, D); null: ∇u is computed again where the residual has a cotangent
};

/// Cotangents of the outputs; null: zero.
struct Cotangents {
  const float* u = nullptr;
  const float* dt = nullptr;
  const float* residual = nullptr;
  const float* grad = nullptr;
  const float* path = nullptr;
};

/// Gradients to write; null: not wanted.
struct Gradients {
  float* z = nullptr;            // (B, D); a path needs it: it carries the cotangent from moment to moment
  float* theta = nullptr;        // (K, stride)
  float* tau = nullptr;          // (conditioned, times, H); with row_times it must come zeroed
  float* dtau = nullptr;         // likewise
  float* force_theta = nullptr;  // (K, stride of the force)
  float* force_tau = nullptr;    // as tau
  float* gates = nullptr;        // as gates, must come zeroed
};

/// Floats of workspace that forward() or backward() of this problem needs. Depends on sizes and on which pointers are
/// null, not on what they point to.
std::int64_t workspace_floats(const Problem& p, bool backward);

cudaError_t forward(const Problem& p, const Outputs& out, float* workspace, cudaStream_t stream);

/// Writes every gradient that is wanted; the same bits for the same inputs on the same device.
cudaError_t backward(const Problem& p, const Saved& saved, const Cotangents& cotangents, const Gradients& to,
                     float* workspace, cudaStream_t stream);

}  // namespace ffrl::cuda

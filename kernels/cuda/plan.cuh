// How a problem is cut into tiles of rows, where everything lies in shared memory and workspace. Computed on the host,
// from sizes alone, and handed to the kernels by value.
#pragma once

#include "launch.hpp"
#include "multiply.cuh"

namespace ffrl::cuda {

/// Weights of one network, padded with zeros: w_in (Hp, Dp + 4), w_hid (L, Hp, Hp + 4), b_in (Hp,), b_hid (L, Hp),
/// w_out (Hp,), b_out. Workspace and shared memory hold the same image.
struct PackedNetwork {
  int dim, width, depth;
  bool out_tanh;
  const float* image = nullptr;

  __host__ __device__ explicit PackedNetwork(const Network& n)
      : dim(padded(n.dim)), width(padded(n.width)), depth(n.depth), out_tanh(n.out_tanh) {}

  __host__ __device__ std::int64_t hidden_size() const { return std::int64_t(width) * (width + 4); }
  __host__ __device__ std::int64_t hidden_at() const { return std::int64_t(width) * (dim + 4); }
  __host__ __device__ std::int64_t vectors_at() const { return hidden_at() + depth * hidden_size(); }
  __host__ __device__ std::int64_t size() const { return vectors_at() + (depth + 2) * width + 4; }

  __device__ ConstMatrix w_in() const { return {image, dim + 4}; }
  __device__ ConstMatrix w_hid(int l) const { return {image + hidden_at() + l * hidden_size(), width + 4}; }
  __device__ const float* b_in() const { return image + vectors_at(); }
  __device__ const float* b_hid(int l) const { return b_in() + (l + 1) * width; }
  __device__ const float* w_out() const { return b_in() + (depth + 1) * width; }
  __device__ float b_out() const { return b_in()[(depth + 2) * width]; }
};

/// Numbers of the row buffers of a tile, and of the network that is being evaluated on it.
struct TileBuffers {
  int depth = 1;
  bool backward = false, tangent = false;
  bool streamed =
      false;  // the weight gradients are summed after the tile is done: nothing that they need is overwritten

  static constexpr int kCommon = 2;  // numbers below are of the tile
  __host__ __device__ int z() const { return 0; }
  __host__ __device__ int grad() const { return 1; }  // ∇u; in the backward sweep then its cotangent ḡ
  __host__ __device__ int a() const { return 2; }
  __host__ __device__ int s() const { return 3; }    // a + τ
  __host__ __device__ int hat() const { return 4; }  // the operand of a reverse product, at last ĥ_L
  __host__ __device__ int c(int l) const { return 5 + l; }
  __host__ __device__ int v(int l) const { return 5 + depth + l; }
  // Of the backward sweep.
  __host__ __device__ int d_v(int l) const { return 5 + 2 * depth + l; }
  __host__ __device__ int d_p(int l) const { return 5 + 3 * depth + l; }
  __host__ __device__ int d_q() const { return 5 + 4 * depth; }
  __host__ __device__ int d_s() const { return streamed ? 6 + 4 * depth : d_v(0); }
  // Of the sweep along a tangent.
  __host__ __device__ int x() const { return 5 + 2 * depth; }
  __host__ __device__ int v_dot() const { return 6 + 2 * depth; }
  __host__ __device__ int a_dot() const { return 7 + 2 * depth; }
  __host__ __device__ int c_dot(int l) const { return 8 + 2 * depth + l; }

  __host__ __device__ int count() const {
    if (backward) return 6 + 4 * depth + (streamed ? 1 : 0);
    return tangent ? 8 + 3 * depth : 5 + 2 * depth;
  }
};

/// Numbers of the values that a tile keeps for each row, in shared memory.
enum RowValue : int {
  kValue,  // φ(o), its slope φ' and ∂_t u of the network that is being evaluated
  kSlope,
  kDt,
  kGate,
  kDOut,        // dL/do
  kAlong,       // ∇u · x of that network
  kTotalValue,  // sums over the networks of a row
  kTotalDt,
  kTotalForce,
  kValueBar,  // cotangents of the totals
  kDtBar,
  kForceBar,
  kResidualBar,
  kRowValues
};

/// Sizes of the gradient of one network: matrices and vectors are summed apart, then put in the order of theta.
struct GradientSizes {
  std::int64_t matrices, vectors;
  __host__ __device__ explicit GradientSizes(const Network& n)
      : matrices(std::int64_t(n.width) * n.dim + std::int64_t(n.depth) * n.width * n.width),
        vectors((n.depth + 2) * n.width + 1) {}
};

/// Where in the workspace the gradients of one family of networks are summed, block by block.
struct GradientSlots {
  float* matrices = nullptr;  // (matrix_slots, networks, matrices): w_in (H, D), w_hid (L, H, H)
  float* vectors = nullptr;   // (blocks, networks, vectors): b_in, b_hid, w_out, b_out
  float* times = nullptr;     // (blocks, networks, 2, N, H): of τ and dτ/dt that all rows share
};

struct Plan {
  bool resident = true;
  int tile_rows = 16;
  int pitch = 0;              // of the row buffers
  TileBuffers buffers;        // of the deeper family
  int networks = 1;           // K, or 1 where one is selected
  int groups = 1;             // of rows by their network: K with an index
  int visits = 1;             // networks that a row goes through, potentials and forces
  int resident_networks = 0;  // images that shared memory holds at a time: all that a block needs, or 1
  std::int64_t image = 0;     // floats of the larger image
  // Of one network: a launch takes so many of its tiles. Where weights are streamed the tiles of a launch have their
  // row buffers in workspace, so that it does not grow with the rows of a call.
  std::int64_t tiles = 0;
  int blocks = 0;        // of one network
  int matrix_slots = 0;  // of one network
  int shared_bytes = 0;
  int chained_width = 0;  // of the kernel that keeps activations in registers (path_kernel.cuh); 0: another one
  // Workspace.
  float* packed_potential = nullptr;  // (networks, ·)
  float* packed_force = nullptr;
  float* rows = nullptr;  // (visits, buffers, groups, tiles, tile_rows, pitch) where streamed
  GradientSlots potential, force;
  std::int64_t workspace = 0;  // floats in all

  __host__ __device__ std::int64_t buffer_size() const {
    return (resident ? 1 : groups * tiles) * tile_rows * std::int64_t(pitch);
  }
};

/// The plan of a problem, its pointers into `workspace`, which may be null to learn the size.
Plan make_plan(const Problem& p, bool backward, float* workspace);

}  // namespace ffrl::cuda

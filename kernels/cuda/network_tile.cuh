// One network on a tile of rows: its value, its first derivatives, its Hessian along a tangent. The formulas and their
// names are those of ffrl_fast/reference.py, the phases those of csrc/core/network_tile.hpp.
#pragma once

#include "tile.cuh"

namespace ffrl::cuda {

/// τ or dτ/dt for the rows of a tile.
struct Conditioning {
  const float* shared = nullptr;  // (padded width,) where all rows share the moment
  const float* by_row = nullptr;  // (B, width) where each row has its own; both null: 0
  int width = 0;

  __device__ __forceinline__ explicit operator bool() const { return shared || by_row; }
  __device__ __forceinline__ float operator()(const Tile& tile, int r, int n) const {
    if (shared) return shared[n];
    const int row = tile.row[r];
    return by_row && n < width && row >= 0 ? load_global(by_row + std::int64_t(row) * width + n) : 0.f;
  }
};

template <class P, bool kResident>
struct NetworkTile {
  PackedNetwork net;
  Conditioning tau, dtau;
  const Tile& tile;
  TileBuffers at;
  float* staging;

  __device__ __forceinline__ Matrix buffer(int number) const { return tile.buffer(number); }

  template <bool kTransposed, class Epilogue>
  __device__ __forceinline__ void multiply(int x, int inner, const ConstMatrix& w, int columns,
                                           Epilogue epilogue) const {
    const Matrix from = buffer(x);
    const ConstMatrix operand{from.data, from.pitch};
    if constexpr (kResident)
      multiply_resident<P, kTransposed>(tile.rows, operand, inner, w, columns, epilogue);
    else
      multiply_streamed<P, kTransposed>(staging, operand, inner, w, columns, epilogue);
  }

  // a = tanh(W_in z + b_in), c_ℓ = tanh(W_ℓ s_{ℓ−1} + b_ℓ), u = φ(w_out · c_L + b_out); ĥ_L beside
  __device__ __forceinline__ void values() const {
    const Matrix a = buffer(at.a()), s = buffer(at.s()), hat = buffer(at.hat());
    const float *const b_in = net.b_in(), *const w_out = net.w_out();
    multiply<false>(at.z(), net.dim, net.w_in(), net.width, [&](int r, int n, float x) {
      const float y = P::tanh(x + b_in[n]);
      a(r, n) = y;
      s(r, n) = y + tau(tile, r, n);
    });
    for (int l = 0; l < net.depth; ++l) {
      const Matrix c = buffer(at.c(l));
      const float* const b = net.b_hid(l);
      const bool last = l + 1 == net.depth;
      multiply<false>(l > 0 ? at.c(l - 1) : at.s(), net.width, net.w_hid(l), net.width, [&](int r, int n, float x) {
        const float y = P::tanh(x + b[n]);
        c(r, n) = y;
        if (last) hat(r, n) = w_out[n] * (1 - y * y);
      });
    }
    const Matrix c = buffer(at.c(net.depth - 1));
    each_row_sum(
        tile, net.width, [&](int r, int n) { return w_out[n] * c(r, n); },
        [&](int r, float sum) {
          const float o = sum + net.b_out(), u = net.out_tanh ? P::tanh(o) : o;
          tile.value(kValue, r) = u;
          tile.value(kSlope, r) = net.out_tanh ? 1 - u * u : 1.f;
        });
  }

  // v_ℓ = W_ℓᵀ ĥ_ℓ, ĥ_{ℓ−1} = v_ℓ ⊙ (1 − c_{ℓ−1}²); ∂_t u = φ' v_1 · dτ/dt
  __device__ __forceinline__ void reverse() const {
    const Matrix hat = buffer(at.hat()), v1 = buffer(at.v(0));
    for (int l = net.depth - 1; l >= 0; --l) {
      const Matrix v = buffer(at.v(l));
      multiply<true>(at.hat(), net.width, net.w_hid(l), net.width, [&](int r, int n, float x) { v(r, n) = x; });
      if (l == 0) break;
      const Matrix c = buffer(at.c(l - 1));
      each(tile, net.width, [&](int r, int n) { hat(r, n) = v(r, n) * (1 - c(r, n) * c(r, n)); });
    }
    if (dtau)
      each_row_sum(
          tile, net.width, [&](int r, int n) { return v1(r, n) * dtau(tile, r, n); },
          [&](int r, float sum) { tile.value(kDt, r) = tile.value(kSlope, r) * sum; });
    else
      each_row(tile, [&](int r) { tile.value(kDt, r) = 0; });
  }

  // epilogue(r, d, ∇u): ∇u = W_inᵀ (φ' v_1 ⊙ (1 − a²))
  template <class Epilogue>
  __device__ __forceinline__ void gradient(Epilogue epilogue) const {
    const Matrix a = buffer(at.a()), v1 = buffer(at.v(0)), hat = buffer(at.hat());
    each(tile, net.width,
         [&](int r, int n) { hat(r, n) = tile.value(kSlope, r) * v1(r, n) * (1 - a(r, n) * a(r, n)); });
    multiply<true>(at.hat(), net.width, net.w_in(), net.dim, epilogue);
  }

  // epilogue(r, d, ∇²u x), the derivative of the sweeps above along the tangent x
  template <class Epilogue>
  __device__ __forceinline__ void hessian_product(Epilogue epilogue) const {
    const Matrix a = buffer(at.a()), a_dot = buffer(at.a_dot()), v_dot = buffer(at.v_dot()), hat = buffer(at.hat());
    const float* const w_out = net.w_out();
    const int last = net.depth - 1;
    multiply<false>(at.x(), net.dim, net.w_in(), net.width,
                    [&](int r, int n, float x) { a_dot(r, n) = x * (1 - a(r, n) * a(r, n)); });
    const Matrix v1 = buffer(at.v(0));
    // ∇u · x, which the output's own curvature needs.
    each_row_sum(
        tile, net.width, [&](int r, int n) { return v1(r, n) * a_dot(r, n); },
        [&](int r, float sum) { tile.value(kAlong, r) = tile.value(kSlope, r) * sum; });
    for (int l = 0; l <= last; ++l) {
      const Matrix c = buffer(at.c(l)), c_dot = buffer(at.c_dot(l));
      multiply<false>(l > 0 ? at.c_dot(l - 1) : at.a_dot(), net.width, net.w_hid(l), net.width,
                      [&](int r, int n, float x) { c_dot(r, n) = x * (1 - c(r, n) * c(r, n)); });
    }
    for (int l = last; l >= 0; --l) {
      const Matrix c = buffer(at.c(l)), c_dot = buffer(at.c_dot(l)), v_above = buffer(at.v(l + 1 <= last ? l + 1 : l));
      each(tile, net.width, [&](int r, int n) {
        const float v = l == last ? w_out[n] : v_above(r, n), x = c(r, n);
        hat(r, n) = (l == last ? 0 : v_dot(r, n) * (1 - x * x)) - 2 * v * x * c_dot(r, n);
      });
      multiply<true>(at.hat(), net.width, net.w_hid(l), net.width, [&](int r, int n, float x) { v_dot(r, n) = x; });
    }
    each(tile, net.width, [&](int r, int n) {
      const float x = a(r, n), a1 = 1 - x * x, v = v1(r, n);
      const float curve = net.out_tanh ? -2 * tile.value(kValue, r) * tile.value(kAlong, r) : 0.f;
      hat(r, n) = tile.value(kSlope, r) * (v_dot(r, n) * a1 - 2 * v * x * a_dot(r, n)) + curve * v * a1;
    });
    multiply<true>(at.hat(), net.width, net.w_in(), net.dim, epilogue);
  }
};

}  // namespace ffrl::cuda

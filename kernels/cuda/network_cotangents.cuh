// The backward sweep of one network on a tile of rows: from cotangents of u, ∂_t u and ∇u to those of its weights, its
// conditioning and the rows. Names are those of csrc/core/network_tile.hpp: d_x is dL/dx.
#pragma once

#include "network_tile.cuh"
#include "weight_sums.cuh"

namespace ffrl::cuda {

/// Where a block sums the gradient of one network; null: not wanted.
struct BlockSums {
  float* matrices = nullptr;  // null too where another kernel sums them
  float* vectors = nullptr;
  float* tau = nullptr;  // (width,) of a moment that all rows share
  float* dtau = nullptr;
  float* tau_by_row = nullptr;  // (B, width)
  float* dtau_by_row = nullptr;
  bool fresh = true;       // nothing has been summed yet
  bool fresh_time = true;  // nor for this moment
};

template <class P, bool kResident>
struct NetworkCotangents {
  const NetworkTile<P, kResident>& of;
  BlockSums sums;
  int dim, width;  // not padded

  /// Needs the activations of values() and reverse(), ḡ in the buffer grad() and the cotangents among the tile's
  /// values. Adds dL/dz to the rows of d_z and dL/dgate to d_gate(r), where not null.
  template <class AddGate>
  __device__ __forceinline__ void backward(float* d_z, AddGate d_gate) const {
    gradient_cotangent(d_gate);
    for (int l = 0; l < of.net.depth; ++l) reverse_cotangent(l);
    rest<true>(d_z);
  }

  /// As backward() of a network of which u alone was used, with the cotangent `bar`.
  template <class AddGate>
  __device__ __forceinline__ void backward_value(RowValue bar, float* d_z, AddGate d_gate) const {
    const Tile& tile = of.tile;
    each_row(tile, [&](int r) {
      tile.value(kDOut, r) = tile.value(kGate, r) * tile.value(bar, r) * tile.value(kSlope, r);
      d_gate(r, tile.value(bar, r) * tile.value(kValue, r));
    });
    const int last = of.net.depth - 1;
    const Matrix c = of.buffer(of.at.c(last)), d_p = of.buffer(of.at.d_p(last));
    const float* const w_out = of.net.w_out();
    each(tile, of.net.width, [&](int r, int n) {
      const float x = c(r, n), d_o = tile.value(kDOut, r);
      d_p(r, n) = d_o * w_out[n] * (1 - x * x);
      c(r, n) = d_o * x;
    });
    rest<false>(d_z);
  }

 private:
  // d_ga = W_in ḡ, d_gs = d_ga ⊙ (1 − a²) + t̄ dτ/dt, d_v = γ φ' d_gs, d_φ' = γ Σ d_gs ⊙ v, and d_o from it
  template <class AddGate>
  __device__ __forceinline__ void gradient_cotangent(AddGate d_gate) const {
    const Tile& tile = of.tile;
    const Matrix a = of.buffer(of.at.a()), v = of.buffer(of.at.v(0)), d_v = of.buffer(of.at.d_v(0)),
                 d_a = of.buffer(of.at.d_q());
    of.template multiply<false>(of.at.grad(), of.net.dim, of.net.w_in(), of.net.width, [&](int r, int n, float x) {
      const float y = a(r, n), scale = tile.value(kGate, r) * tile.value(kSlope, r);
      d_v(r, n) = x * (1 - y * y) + (of.dtau ? tile.value(kDtBar, r) * of.dtau(tile, r, n) : 0.f);
      d_a(r, n) = x * scale * v(r, n) * (-2 * y);
    });
    each_row_sum(
        tile, of.net.width,
        [&](int r, int n) {
          const float d_gs = d_v(r, n);
          d_v(r, n) = d_gs * tile.value(kGate, r) * tile.value(kSlope, r);
          return d_gs * v(r, n);
        },
        [&](int r, float sum) {
          const float gate = tile.value(kGate, r), u = tile.value(kValue, r), slope = tile.value(kSlope, r);
          const float bar = tile.value(kValueBar, r);
          tile.value(kDOut, r) = of.net.out_tanh ? (gate * bar - 2 * u * gate * sum) * slope : gate * bar;
          d_gate(r, bar * u + slope * sum);
        });
    if (!of.dtau) return;
    const auto d_dtau = [&](int r, int n) {
      return tile.value(kDtBar, r) * tile.value(kGate, r) * tile.value(kSlope, r) * v(r, n);
    };
    if (sums.dtau) add_columns(tile, width, sums.dtau, sums.fresh_time, d_dtau);
    if (sums.dtau_by_row) store_by_row(sums.dtau_by_row, d_dtau);
  }

  // d_ĥ = W_ℓ d_v; d_v of the layer above and the part of d_c through 1 − c², or for the last layer d_p; ĥ_ℓ again
  __device__ __forceinline__ void reverse_cotangent(int l) const {
    const Tile& tile = of.tile;
    const Matrix c = of.buffer(of.at.c(l)), d_p = of.buffer(of.at.d_p(l));
    if (l + 1 < of.net.depth) {
      const Matrix v = of.buffer(of.at.v(l + 1)), d_v = of.buffer(of.at.d_v(l + 1));
      of.template multiply<false>(of.at.d_v(l), of.net.width, of.net.w_hid(l), of.net.width,
                                  [&](int r, int n, float d_h) {
                                    const float x = c(r, n), y = v(r, n), c1 = 1 - x * x;
                                    d_p(r, n) = d_h * y * (-2 * x);
                                    d_v(r, n) = d_h * c1;
                                    v(r, n) = y * c1;
                                  });
      return;
    }
    const Matrix hat = of.buffer(of.at.hat());
    const float* const w_out = of.net.w_out();
    of.template multiply<false>(of.at.d_v(l), of.net.width, of.net.w_hid(l), of.net.width,
                                [&](int r, int n, float d_h) {
                                  const float x = c(r, n), w = w_out[n], c1 = 1 - x * x, d_o = tile.value(kDOut, r);
                                  hat(r, n) = w * c1;
                                  d_p(r, n) = (d_o - 2 * x * d_h) * w * c1;
                                  c(r, n) = d_h * c1 + d_o * x;
                                });
  }

  // d_p_{ℓ−1} from W_ℓᵀ d_p_ℓ, d_q from W_1ᵀ d_p_1, d_z = W_inᵀ d_q; every sum over rows. c_L holds the part of dw_out.
  template <bool kDerivatives>
  __device__ __forceinline__ void rest(float* d_z) const {
    const Tile& tile = of.tile;
    const int last = of.net.depth - 1;
    for (int l = last; l > 0; --l) {
      const Matrix c = of.buffer(of.at.c(l - 1)), d_p = of.buffer(of.at.d_p(l - 1));
      of.template multiply<true>(of.at.d_p(l), of.net.width, of.net.w_hid(l), of.net.width, [&](int r, int n, float x) {
        const float y = c(r, n);
        d_p(r, n) = (kDerivatives ? d_p(r, n) + x : x) * (1 - y * y);
      });
    }
    if (kResident && sums.matrices) add_hidden<kDerivatives>();

    const Matrix a = of.buffer(of.at.a()), v = of.buffer(of.at.v(0)), d_q = of.buffer(of.at.d_q()),
                 d_s = of.buffer(of.at.d_s());
    of.template multiply<true>(of.at.d_p(0), of.net.width, of.net.w_hid(0), of.net.width, [&](int r, int n, float x) {
      const float y = a(r, n), a1 = 1 - y * y;
      d_s(r, n) = x;
      d_q(r, n) = (kDerivatives ? d_q(r, n) + x : x) * a1;
      // g_a, whose outer product with ḡ is a part of dW_in.
      if (kDerivatives) v(r, n) *= tile.value(kGate, r) * tile.value(kSlope, r) * a1;
    });
    if (of.tau) {
      const auto d_tau = [&](int r, int n) { return d_s(r, n); };
      if (sums.tau) add_columns(tile, width, sums.tau, sums.fresh_time, d_tau);
      if (sums.tau_by_row) store_by_row(sums.tau_by_row, d_tau);
    }
    if (sums.vectors) add_vectors();
    if (kResident && sums.matrices) add_in<kDerivatives>();
    if (!d_z) {
      __syncthreads();
      return;
    }
    of.template multiply<true>(of.at.d_q(), of.net.width, of.net.w_in(), of.net.dim, [&](int r, int n, float x) {
      const int row = tile.row[r];
      if (row < 0 || n >= dim) return;
      float* const to = d_z + std::int64_t(row) * dim + n;
      store_global(to, load_global(to) + x);
    });
  }

  // dW_ℓ += d_p_ℓᵀ s_{ℓ−1} + ĥ_ℓᵀ d_v_ℓ
  template <bool kDerivatives>
  __device__ __forceinline__ void add_hidden() const {
    for (int l = 0; l < of.net.depth; ++l) {
      OuterPairs pairs{readable(of.buffer(of.at.d_p(l))), readable(of.buffer(l > 0 ? of.at.c(l - 1) : of.at.s()))};
      if (kDerivatives) {
        pairs.p2 = readable(of.buffer(l + 1 < of.net.depth ? of.at.v(l + 1) : of.at.hat()));
        pairs.q2 = readable(of.buffer(of.at.d_v(l)));
      }
      float* const to = sums.matrices + std::int64_t(width) * dim + std::int64_t(l) * width * width;
      add_outer<P>(of.tile.rows, pairs, width, width, to, sums.fresh);
    }
    __syncthreads();
  }

  // dW_in += d_qᵀ z + g_aᵀ ḡ
  template <bool kDerivatives>
  __device__ __forceinline__ void add_in() const {
    OuterPairs pairs{readable(of.buffer(of.at.d_q())), readable(of.buffer(of.at.z()))};
    if (kDerivatives) {
      pairs.p2 = readable(of.buffer(of.at.v(0)));
      pairs.q2 = readable(of.buffer(of.at.grad()));
    }
    add_outer<P>(of.tile.rows, pairs, width, dim, sums.matrices, sums.fresh);
  }

  // db_in, db_ℓ, dw_out, db_out
  __device__ __forceinline__ void add_vectors() const {
    const Tile& tile = of.tile;
    const auto column = [&](int number, float* to) {
      const Matrix from = of.buffer(number);
      add_columns(tile, width, to, sums.fresh, [&](int r, int n) { return from(r, n); });
    };
    column(of.at.d_q(), sums.vectors);
    for (int l = 0; l < of.net.depth; ++l) column(of.at.d_p(l), sums.vectors + (l + 1) * width);
    column(of.at.c(of.net.depth - 1), sums.vectors + (of.net.depth + 1) * width);
    add_columns(tile, 1, sums.vectors + (of.net.depth + 2) * width, sums.fresh,
                [&](int r, int) { return tile.value(kDOut, r); });
  }

  template <class F>
  __device__ __forceinline__ void store_by_row(float* to, F f) const {
    const Lane at;
    for (int r = at.warp; r < of.tile.rows; r += kWarps)
      for (int n = at.lane; n < width; n += 32)
        if (of.tile.row[r] >= 0) store_global(to + std::int64_t(of.tile.row[r]) * width + n, f(r, n));
  }
};

}  // namespace ffrl::cuda

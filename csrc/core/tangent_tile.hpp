// The sweeps of network_tile.hpp with a tangent: the Hessian of u times a direction x, and its backward sweep.
//
// A dot is the derivative along x. With a₁ = 1 − a², a₂ = −2a a₁, and likewise c₁, c₂, φ', φ'', forward
//     q̇ = W_in x,  ȧ = a₁ ⊙ q̇,  ṗ_ℓ = W_ℓ ṡ_{ℓ−1},  ċ_ℓ = c₁ ⊙ ṗ_ℓ,  ȯ = w_out · ċ_L
//     ĥ̇_ℓ = v̇_{ℓ+1} ⊙ c₁ + v_{ℓ+1} ⊙ c₂ ⊙ ṗ_ℓ,  v̇_ℓ = W_ℓᵀ ĥ̇_ℓ,  G = v_1 ⊙ a₁,  Ġ = v̇_1 ⊙ a₁ + v_1 ⊙ a₂ ⊙ q̇
//     ∇²u x = W_inᵀ (φ' Ġ + φ'' ȯ G)
// and backward every variable of these lines has its cotangent (d_…). The cotangents of the first-order outputs join
// them, so that each layer needs two products a sweep, not three.
#pragma once

#include "network_tile.hpp"

namespace ffrl::FFRL_ISA {

/// The first two derivatives of y = tanh(p) with respect to p, and that of the second with respect to y.
template <class T>
struct TanhDerivatives {
  Vec<T> first, second, third;
  explicit FFRL_INLINE TanhDerivatives(Vec<T> y)
      : first(broadcast(T(1)) - y * y), second(T(-2) * y * first), third(T(6) * y * y - T(2)) {}
};

template <class T>
void NetworkTile<T>::forward_tangent(const PackedNetwork<T>& w, std::int64_t rows, const Activations<T>& kept,
                                     const Tangent<T>& along, T* hvp) {
  {
    const PhaseTimer timer(record_, Phase::input, in_size(along.shared ? 1 : rows));
    product(timer, along.shared ? 1 : rows, along.x, dim_, w.in, along.q_dot, width_, kNoEpilogue);
  }
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t n = 0; n < width_; n += kVector)
      store(s_dot_ + r * width_ + n,
            one_minus_square(load(kept.a + r * width_ + n)) * load(along.q_dot + r * q_stride(along) + n));
  clear_row_partials(rows);
  for (std::int64_t l = 0; l < depth_; ++l) hidden_tangent(w, l, rows, kept, along);
  for (std::int64_t r = 0; r < rows; ++r) along.out_dot[r] = row_sum(r);
  for (std::int64_t l = depth_ - 1; l > 0; --l) reverse_tangent(w, l, rows, kept, along);
  gradient_tangent(w, rows, kept, along);
  const PhaseTimer timer(record_, Phase::gradient, in_size(rows));
  product(timer, rows, g_dot_, width_, w.in_transposed, hvp, dim_, kNoEpilogue);
}

// ṗ_ℓ = W_ℓ ṡ_{ℓ−1}, ċ_ℓ; for ℓ = L also ȯ and ĥ̇_L = w_out ⊙ c₂ ⊙ ṗ
template <class T>
void NetworkTile<T>::hidden_tangent(const PackedNetwork<T>& w, std::int64_t l, std::int64_t rows,
                                    const Activations<T>& kept, const Tangent<T>& along) {
  const PhaseTimer timer(record_, Phase::hidden, hidden_size(rows));
  const T* const c = layer(kept.c, l, rows);
  const bool last = l == depth_ - 1;
  T *const p_dot = layer(along.p_dot, l, rows), *const c_dot = last ? nullptr : layer(s_dot_, l + 1, rows);
  T* const h_dot = layer(h_dot_, l, rows);
  const T* const w_out = w.w_out;
  product(timer, rows, layer(s_dot_, l, rows), width_, w.hid[l], p_dot, width_, [=, this](auto width, Patch patch) {
    if (!last) {
      each(width, patch, [=](std::int64_t, std::int64_t i, std::int64_t, int) {
        store(c_dot + i, one_minus_square(load(c + i)) * load(p_dot + i));
      });
      return;
    }
    each_with_row_sum(width, patch, [=](std::int64_t, std::int64_t i, std::int64_t n, int) {
      const TanhDerivatives<T> d(load(c + i));
      const Vec<T> p = load(p_dot + i), out = load(w_out + n);
      store(h_dot + i, out * d.second * p);
      return out * d.first * p;
    });
  });
}

// v̇_ℓ = W_ℓᵀ ĥ̇_ℓ and ĥ̇_{ℓ−1}
template <class T>
void NetworkTile<T>::reverse_tangent(const PackedNetwork<T>& w, std::int64_t l, std::int64_t rows,
                                     const Activations<T>& kept, const Tangent<T>& along) {
  const PhaseTimer timer(record_, Phase::reverse, hidden_size(rows));
  T *const v_dot = layer(along.v_dot, l, rows), *const h_dot = layer(h_dot_, l - 1, rows);
  const T *const v = layer(kept.v, l, rows), *const c = layer(kept.c, l - 1, rows);
  const T* const p_dot = layer(along.p_dot, l - 1, rows);
  product(timer, rows, layer(h_dot_, l, rows), width_, w.hid_transposed[l], v_dot, width_,
          [=, this](auto width, Patch patch) {
            each(width, patch, [=](std::int64_t, std::int64_t i, std::int64_t, int) {
              const TanhDerivatives<T> d(load(c + i));
              store(h_dot + i, load(v_dot + i) * d.first + load(v + i) * d.second * load(p_dot + i));
            });
          });
}

// v̇_1 = W_1ᵀ ĥ̇_1 and φ' Ġ + φ'' ȯ G
template <class T>
void NetworkTile<T>::gradient_tangent(const PackedNetwork<T>& w, std::int64_t rows, const Activations<T>& kept,
                                      const Tangent<T>& along) {
  const PhaseTimer timer(record_, Phase::reverse, hidden_size(rows));
  T *const v_dot = along.v_dot, *const g_dot = g_dot_;
  const T *const v_1 = kept.v, *const a = kept.a, *const q_dot = along.q_dot, *const slope = slope_;
  const T *const curve = curve_, *const out_dot = along.out_dot;
  const std::int64_t stride = q_stride(along);
  product(timer, rows, h_dot_, width_, w.hid_transposed[0], v_dot, width_, [=, this](auto width, Patch patch) {
    each(width, patch, [=](std::int64_t r, std::int64_t i, std::int64_t n, int) {
      const TanhDerivatives<T> d(load(a + i));
      const Vec<T> v = load(v_1 + i);
      const Vec<T> g = load(v_dot + i) * d.first + v * d.second * load(q_dot + r * stride + n);
      store(g_dot + i, slope[r] * g + curve[r] * out_dot[r] * v * d.first);
    });
  });
}

template <class T>
void NetworkTile<T>::backward_tangent(const PackedNetwork<T>& w, const TileConditioning<T>& at, const T* z,
                                      std::int64_t rows, const Activations<T>& kept, const Tangent<T>& along,
                                      const TileCotangents<T>& cotangents, const WeightSums<T>& sums, T* d_z, T* d_x,
                                      T* d_tau, T* d_dtau, T* d_gate) {
  set_slope(rows, kept);
  if (along.shared) {  // it is not kept
    const PhaseTimer timer(record_, Phase::input, in_size(1));
    product(timer, 1, along.x, dim_, w.in, along.q_dot, width_, kNoEpilogue);
  }
  gradient_cotangent_tangent(w, at, rows, kept, along, cotangents, sums, d_dtau);
  T b_out = T(0);
  for (std::int64_t r = 0; r < rows; ++r) {
    // Three derivatives of φ, and the cotangents of φ' and of φ'' ȯ.
    const T u = kept.value[r], first = slope_[r], second = curve_[r], out_dot = along.out_dot[r];
    const T third = shape_.out_tanh ? -2 * first * (1 - 3 * u * u) : T(0);
    const T d_slope = d_slope_[r], d_bend = sum_of_partials(r, second_partial_);
    d_out_[r] = cotangents.gate[r] * (cotangents.u[r] * first + d_slope * second + d_bend * out_dot * third);
    d_out_dot_[r] = cotangents.gate[r] * d_bend * second;
    b_out += d_out_[r];
    if (d_gate) d_gate[r] = cotangents.u[r] * u + first * d_slope + second * out_dot * d_bend;
  }
  sums.add(sums.b_out, b_out);
  for (std::int64_t l = 0; l + 1 < depth_; ++l) reverse_cotangent_tangent(w, l, rows, kept, along);
  last_layer_cotangent_tangent(w, rows, kept, along, sums);
  for (std::int64_t l = depth_ - 1; l > 0; --l) hidden_cotangent_tangent(w, l, rows, kept, along, sums);
  input_cotangent_tangent(w, rows, kept, along, sums, d_tau);
  {
    const PhaseTimer timer(record_, Phase::d_input, in_size(rows));
    product(timer, rows, d_s_, width_, w.in_transposed, d_z, dim_, kNoEpilogue);
  }
  tangent_cotangent(w, rows, along, sums, d_x);
  if (sums.w_in) weight_sums_tangent(at, z, rows, kept, along, cotangents, sums);
}

// e = W_in ḡ and f = W_in w̄; the cotangents of v_1, v̇_1 and dτ/dt, of a and q̇ so far; and in the row sums those of φ'
// and of φ'' ȯ, which are t̄ v_1 · dτ/dt + e · G + f · Ġ and f · G
template <class T>
void NetworkTile<T>::gradient_cotangent_tangent(const PackedNetwork<T>& w, const TileConditioning<T>& at,
                                                std::int64_t rows, const Activations<T>& kept, const Tangent<T>& along,
                                                const TileCotangents<T>& cotangents, const WeightSums<T>& sums,
                                                T* d_dtau) {
  const PhaseTimer timer(record_, Phase::d_gradient, 2 * in_size(rows));
  product(timer, rows, cotangents.hvp, dim_, w.in, f_, width_, kNoEpilogue);
  clear_row_partials(rows);
  clear_partials(rows, second_partial_);
  T *const d_v = d_v_, *const d_v_dot = d_v_dot_, *const g_a = g_a_, *const g_dot = g_dot_, *const d_a = d_a_;
  T *const s_dot = s_dot_, *const d_q_dot = d_q_dot_, *const second_partial = second_partial_;
  const T *const kept_a = kept.a, *const kept_v = kept.v, *const kept_v_dot = along.v_dot, *const q_dot = along.q_dot;
  const T *const f_of = f_, *const slope = slope_, *const curve = curve_, *const out_dot = along.out_dot;
  const T *const dtau = at.dtau, *const gates = cotangents.gate, *const dt_bar = cotangents.dt;
  const std::int64_t dtau_stride = at.dtau_stride, stride = q_stride(along);
  product(timer, rows, cotangents.grad, dim_, w.in, d_v, width_, [=, this, &sums](auto width, Patch patch) {
    constexpr int last = decltype(width)::value - 1;
    Vec<T> dtau_sum[last + 1] = {}, bend_sum{};
    T* const bends = partials_of(patch, second_partial);
    each_with_row_sum(width, patch, [=, &dtau_sum, &bend_sum](std::int64_t r, std::int64_t i, std::int64_t n, int j) {
      const Vec<T> a = load(kept_a + i), v = load(kept_v + i), v_dot = load(kept_v_dot + i);
      const Vec<T> q = load(q_dot + r * stride + n), e = load(d_v + i), f = load(f_of + i);
      const TanhDerivatives<T> d(a);
      const T scale = gates[r] * slope[r], bend = gates[r] * curve[r] * out_dot[r];
      const Vec<T> g = v * d.first, g_along = v_dot * d.first + v * d.second * q;
      Vec<T> time{};
      if (dtau) {
        const Vec<T> d_dtau_row = dt_bar[r] * scale * v;
        time = dt_bar[r] * load(dtau + r * dtau_stride + n);
        dtau_sum[j] += d_dtau_row;
        if (d_dtau) store(d_dtau + i, d_dtau_row);
      }
      store(d_v + i, scale * (time + e * d.first + f * d.second * q) + bend * f * d.first);
      store(d_v_dot + i, scale * f * d.first);
      const Vec<T> d_first = scale * (e * v + f * v_dot) + bend * f * v, d_second = scale * f * v * q;
      store(d_a + i, d_first * (T(-2) * a) + d_second * d.third);
      store(d_q_dot + i, scale * f * v * d.second);
      store(g_a + i, scale * g);
      store(g_dot + i, scale * g_along + bend * g);
      store(s_dot + i, d.first * q);
      bend_sum = j == 0 ? f * g : bend_sum + f * g;
      if (j == last) store(bends + r * kVector, load(bends + r * kVector) + bend_sum);
      return v * time + e * g + f * g_along;
    });
    if (dtau) sums.add_columns(sums.dtau, patch.column, dtau_sum);
  });
  for (std::int64_t r = 0; r < rows; ++r) d_slope_[r] = row_sum(r);
}

// d_ĥ = W_ℓ d_v and d_ĥ̇ = W_ℓ d_v̇; the cotangents of v and v̇ of the layer above, of c and ṗ so far; ĥ, ĥ̇ and ċ again
template <class T>
void NetworkTile<T>::reverse_cotangent_tangent(const PackedNetwork<T>& w, std::int64_t l, std::int64_t rows,
                                               const Activations<T>& kept, const Tangent<T>& along) {
  const PhaseTimer timer(record_, Phase::d_reverse, 2 * hidden_size(rows));
  const T *const c = layer(kept.c, l, rows), *const v_above = layer(kept.v, l + 1, rows);
  const T *const v_dot_above = layer(along.v_dot, l + 1, rows), *const p_dot = layer(along.p_dot, l, rows);
  T *const d_v_above = layer(d_v_, l + 1, rows), *const d_v_dot_above = layer(d_v_dot_, l + 1, rows);
  T *const d_c = layer(d_p_, l, rows), *const d_p_dot = layer(d_p_dot_, l, rows);
  T *const h = layer(h_, l, rows), *const h_dot = layer(h_dot_, l, rows), *const c_dot = layer(s_dot_, l + 1, rows);
  product(timer, rows, layer(d_v_dot_, l, rows), width_, w.hid[l], d_v_dot_above, width_, kNoEpilogue);
  product(timer, rows, layer(d_v_, l, rows), width_, w.hid[l], d_v_above, width_, [=, this](auto width, Patch patch) {
    each(width, patch, [=](std::int64_t, std::int64_t i, std::int64_t, int) {
      const Vec<T> x = load(c + i), p = load(p_dot + i), v = load(v_above + i), v_dot = load(v_dot_above + i);
      const Vec<T> d_h = load(d_v_above + i), d_h_dot = load(d_v_dot_above + i);
      const TanhDerivatives<T> d(x);
      store(h + i, v * d.first);
      store(h_dot + i, v_dot * d.first + v * d.second * p);
      store(c_dot + i, d.first * p);
      store(d_c + i, (d_h * v + d_h_dot * v_dot) * (T(-2) * x) + d_h_dot * v * p * d.third);
      store(d_p_dot + i, d_h_dot * v * d.second);
      store(d_v_above + i, d_h * d.first + d_h_dot * d.second * p);
      store(d_v_dot_above + i, d_h_dot * d.first);
    });
  });
}

// d_ĥ_L = W_L d_v_L and d_ĥ̇_L = W_L d_v̇_L; d_p_L and d_ṗ_L; sums of dw_out and db_L
template <class T>
void NetworkTile<T>::last_layer_cotangent_tangent(const PackedNetwork<T>& w, std::int64_t rows,
                                                  const Activations<T>& kept, const Tangent<T>& along,
                                                  const WeightSums<T>& sums) {
  const std::int64_t l = depth_ - 1;
  const PhaseTimer timer(record_, Phase::d_reverse, 2 * hidden_size(rows));
  const T *const c = layer(kept.c, l, rows), *const p_dot = layer(along.p_dot, l, rows);
  T *const d_p = layer(d_p_, l, rows), *const d_p_dot = layer(d_p_dot_, l, rows);
  T *const h = layer(h_, l, rows), *const h_dot = layer(h_dot_, l, rows);
  T* const b_sum = l > 0 ? sums.b_hid + l * width_ : sums.b_first;
  const T *const d_out = d_out_, *const d_out_dot = d_out_dot_, *const w_out = w.w_out;
  product(timer, rows, layer(d_v_dot_, l, rows), width_, w.hid[l], d_p_dot, width_, kNoEpilogue);
  product(timer, rows, layer(d_v_, l, rows), width_, w.hid[l], d_p, width_, [=, this, &sums](auto width, Patch patch) {
    Vec<T> d_out_weight[decltype(width)::value] = {}, d_bias[decltype(width)::value] = {};
    each(width, patch, [=, &d_out_weight, &d_bias](std::int64_t r, std::int64_t i, std::int64_t n, int j) {
      const Vec<T> x = load(c + i), p = load(p_dot + i), out = load(w_out + n);
      const Vec<T> d_h = load(d_p + i), d_h_dot = load(d_p_dot + i);
      const TanhDerivatives<T> d(x);
      d_out_weight[j] += d_h * d.first + d_h_dot * d.second * p + d_out[r] * x + d_out_dot[r] * d.first * p;
      store(h + i, out * d.first);
      store(h_dot + i, out * d.second * p);
      store(d_p_dot + i, out * (d_h_dot * d.second + d_out_dot[r] * d.first));
      const Vec<T> d_c = broadcast(d_out[r]) + (d_h + d_out_dot[r] * p) * (T(-2) * x) + d_h_dot * p * d.third;
      const Vec<T> d_sum = out * d_c * d.first;
      d_bias[j] += d_sum;
      store(d_p + i, d_sum);
    });
    sums.add_columns(sums.w_out, patch.column, d_out_weight);
    sums.add_columns(b_sum, patch.column, d_bias);
  });
}

// d_s = W_ℓᵀ d_p_ℓ and d_ṡ = W_ℓᵀ d_ṗ_ℓ; d_p and d_ṗ of the layer below; sum of its db
template <class T>
void NetworkTile<T>::hidden_cotangent_tangent(const PackedNetwork<T>& w, std::int64_t l, std::int64_t rows,
                                              const Activations<T>& kept, const Tangent<T>& along,
                                              const WeightSums<T>& sums) {
  const PhaseTimer timer(record_, Phase::d_hidden, 2 * hidden_size(rows));
  const T *const c = layer(kept.c, l - 1, rows), *const p_dot = layer(along.p_dot, l - 1, rows);
  T *const d_p = layer(d_p_, l - 1, rows), *const d_p_dot = layer(d_p_dot_, l - 1, rows);
  T *const d_s = d_s_, *const d_s_dot = d_s_dot_;
  T* const b_sum = l > 1 ? sums.b_hid + (l - 1) * width_ : sums.b_first;
  product(timer, rows, layer(d_p_dot_, l, rows), width_, w.hid_transposed[l], d_s_dot, width_, kNoEpilogue);
  product(timer, rows, layer(d_p_, l, rows), width_, w.hid_transposed[l], d_s, width_,
          [=, this, &sums](auto width, Patch patch) {
            Vec<T> d_bias[decltype(width)::value] = {};
            each(width, patch, [=, &d_bias](std::int64_t, std::int64_t i, std::int64_t, int j) {
              const Vec<T> x = load(c + i), d_along = load(d_s_dot + i), c1 = one_minus_square(x);
              const Vec<T> d_c = load(d_p + i) + load(d_s + i) + d_along * load(p_dot + i) * (T(-2) * x);
              const Vec<T> d = d_c * c1;
              d_bias[j] += d;
              store(d_p + i, d);
              store(d_p_dot + i, load(d_p_dot + i) + d_along * c1);
            });
            sums.add_columns(b_sum, patch.column, d_bias);
          });
}

// d_s0 = W_1ᵀ d_p_1, which is also dL/dτ, and d_ȧ = W_1ᵀ d_ṗ_1; d_q, left in d_s, and d_q̇; sum of db_in
template <class T>
void NetworkTile<T>::input_cotangent_tangent(const PackedNetwork<T>& w, std::int64_t rows, const Activations<T>& kept,
                                             const Tangent<T>& along, const WeightSums<T>& sums, T* d_tau) {
  const PhaseTimer timer(record_, Phase::d_hidden, 2 * hidden_size(rows));
  T *const d_s = d_s_, *const d_s_dot = d_s_dot_, *const d_q_dot = d_q_dot_;
  const T *const kept_a = kept.a, *const d_a = d_a_, *const q_dot = along.q_dot;
  const std::int64_t stride = q_stride(along);
  product(timer, rows, d_p_dot_, width_, w.hid_transposed[0], d_s_dot, width_, kNoEpilogue);
  product(timer, rows, d_p_, width_, w.hid_transposed[0], d_s, width_, [=, this, &sums](auto width, Patch patch) {
    Vec<T> d_bias[decltype(width)::value] = {};
    each(width, patch, [=, &d_bias](std::int64_t r, std::int64_t i, std::int64_t n, int j) {
      const Vec<T> a = load(kept_a + i), a1 = one_minus_square(a), d_s0 = load(d_s + i), d_along = load(d_s_dot + i);
      if (d_tau) store(d_tau + i, d_s0);
      const Vec<T> d = (d_s0 + load(d_a + i) + d_along * load(q_dot + r * stride + n) * (T(-2) * a)) * a1;
      d_bias[j] += d;
      store(d_s + i, d);
      store(d_q_dot + i, load(d_q_dot + i) + d_along * a1);
    });
    sums.add_columns(sums.b_in, patch.column, d_bias);
  });
}

// dL/dx = W_inᵀ d_q̇; where the rows share x, of the sum over them
template <class T>
void NetworkTile<T>::tangent_cotangent(const PackedNetwork<T>& w, std::int64_t rows, const Tangent<T>& along,
                                       const WeightSums<T>& sums, T* d_x) {
  if (along.shared) {
    // The sum is left in the first row of d_q̇, for the weight gradient.
    for (std::int64_t r = 1; r < rows; ++r)
      for (std::int64_t n = 0; n < width_; n += kVector)
        store(d_q_dot_ + n, load(d_q_dot_ + n) + load(d_q_dot_ + r * width_ + n));
    if (!sums.tangent) return;
    const PhaseTimer timer(record_, Phase::d_input, in_size(1));
    product(timer, 1, d_q_dot_, width_, w.in_transposed, one_d_x_, dim_, kNoEpilogue);
    for (std::int64_t d = 0; d < dim_; d += kVector)
      store(sums.tangent + d, load(sums.tangent + d) + load(one_d_x_ + d));
  } else if (d_x) {
    const PhaseTimer timer(record_, Phase::d_input, in_size(rows));
    product(timer, rows, d_q_dot_, width_, w.in_transposed, d_x, dim_, kNoEpilogue);
  }
}

// dW_ℓ += d_pᵀ s + ĥᵀ d_v + d_ṗᵀ ṡ + ĥ̇ᵀ d_v̇ and dW_in += d_qᵀ z + Gᵀ ḡ + Ġᵀ w̄ + d_q̇ᵀ x
template <class T>
void NetworkTile<T>::weight_sums_tangent(const TileConditioning<T>& at, const T* z, std::int64_t rows,
                                         const Activations<T>& kept, const Tangent<T>& along,
                                         const TileCotangents<T>& cotangents, const WeightSums<T>& sums) {
  const PhaseTimer timer(record_, Phase::weight_sums,
                         4 * double(depth_) * hidden_size(rows) + (along.shared ? 3 : 4) * in_size(rows));
  const std::int64_t h = shape_.width;
  if (at.tau) add_time(at, rows, kept);
  for (std::int64_t l = 0; l < depth_; ++l) {
    OuterPairs<T> pairs(width_, width_);
    pairs.add(layer(d_p_, l, rows), layer_input(at, kept, l, rows));
    pairs.add(layer(h_, l, rows), layer(d_v_, l, rows));
    pairs.add(layer(d_p_dot_, l, rows), layer(s_dot_, l, rows));
    pairs.add(layer(h_dot_, l, rows), layer(d_v_dot_, l, rows));
    outer(timer, rows, h, h, pairs, sums.w_hid + l * h * width_, !sums.fresh);
  }
  OuterPairs<T> pairs(width_, dim_);
  pairs.add(d_s_, z);
  pairs.add(g_a_, cotangents.grad);
  pairs.add(g_dot_, cotangents.hvp);
  if (!along.shared) pairs.add(d_q_dot_, along.x);
  outer(timer, rows, h, shape_.dim, pairs, sums.w_in, !sums.fresh);
  if (!along.shared) return;
  OuterPairs<T> one(width_, dim_);
  one.add(d_q_dot_, along.x);
  outer(timer, 1, h, shape_.dim, one, sums.w_in, true);
}

}  // namespace ffrl::FFRL_ISA

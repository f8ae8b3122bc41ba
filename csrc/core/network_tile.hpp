// One tile of rows through one potential: the sweeps of ffrl_fast/reference.py, phase by phase.
//
// Vectors run along the features. Every phase is one product of the tile with a packed weight matrix, and the
// elementwise work that follows it is done panel by panel on what the product has just written.
#pragma once

#include "elementary.hpp"
#include "helpers.hpp"
#include "layout.hpp"
#include "memory.hpp"
#include "multiply.hpp"
#include "packed_bank.hpp"
#include "phases.hpp"
#include "problem.hpp"
#include "schedule.hpp"
#include "simd.hpp"
#include "weight_sums.hpp"

namespace ffrl::FFRL_ISA {

/// Activations kept from the forward sweep for the backward one.
template <class T>
struct Activations {
  T* a;      // (rows, Hp)
  T* c;      // (L, rows, Hp)
  T* v;      // (L, rows, Hp); v[ℓ] = W_ℓᵀ ĥ_ℓ
  T* value;  // (rows,) φ(o)

  Activations(T* memory, T* value, std::int64_t rows, std::int64_t width, std::int64_t depth)
      : a(memory), c(a + rows * width), v(c + depth * rows * width), value(value) {}
};

/// A direction in z, and what its sweep adds to the activations: their derivatives along it, a dot in math.
template <class T>
struct Tangent {
  const T* x;   // (rows, Dp), or (Dp,) one direction for all rows
  bool shared;  // the latter
  T* q_dot;     // (rows, Hp), or (Hp,): W_in x
  T* p_dot;     // (L, rows, Hp): W_ℓ times the derivative of s_{ℓ−1}
  T* v_dot;     // (L, rows, Hp)
  T* out_dot;   // (rows,) of o
};

/// The time of a tile's rows: what it adds to the first hidden layer, and dτ/dt.
template <class T>
struct TileConditioning {
  const T* bias;            // (Hp,) first hidden bias, W_1 τ in it where all rows share one time
  const T* tau = nullptr;   // (rows, Hp) where every row has its own; else null
  const T* dtau = nullptr;  // row r at dtau + r·stride; null: dτ/dt = 0
  std::int64_t dtau_stride = 0;
};

/// Cotangents of one tile's outputs for one potential before its gate is applied, and the gate.
template <class T>
struct TileCotangents {
  const T* u;     // (rows,)
  const T* dt;    // (rows,)
  const T* grad;  // (rows, Dp)
  const T* gate;  // (rows,)
  const T* hvp;   // (rows, Dp); read by backward_tangent alone
};

template <class T>
class NetworkTile {
  static constexpr int kVector = kLanes<T>;
  static constexpr std::int64_t kPartials = kTileRows * kVector;

 public:
  NetworkTile(const NetworkShape& shape, bool tangent, Helpers& helpers, PhaseRecord* record, Carver& memory)
      : shape_(shape),
        width_(padded<T>(shape.width)),
        dim_(padded<T>(shape.dim)),
        depth_(shape.depth),
        helpers_(helpers),
        record_(record) {
    const std::int64_t block = kTileRows * width_;
    s0_ = memory.take<T>(block);
    h_ = memory.take<T>(depth_ * block);
    g_a_ = memory.take<T>(block);
    d_a_ = memory.take<T>(block);
    d_v_ = memory.take<T>(depth_ * block);
    d_p_ = memory.take<T>(depth_ * block);
    d_s_ = memory.take<T>(block);
    row_partial_ = memory.take<T>(partials_size());
    slope_ = memory.take<T>(kTileRows);
    d_slope_ = memory.take<T>(kTileRows);
    d_out_ = memory.take<T>(kTileRows);
    curve_ = memory.take<T>(kTileRows);
    if (!tangent) return;
    for (T** layers : {&s_dot_, &h_dot_, &d_v_dot_, &d_p_dot_}) *layers = memory.take<T>(depth_ * block);
    for (T** one : {&g_dot_, &f_, &d_s_dot_, &d_q_dot_}) *one = memory.take<T>(block);
    second_partial_ = memory.take<T>(partials_size());
    d_out_dot_ = memory.take<T>(kTileRows);
    one_d_x_ = memory.take<T>(dim_);
  }

  /// ∇o (rows, Dp) of activations that `forward` has filled.
  void output_gradient(const PackedNetwork<T>& w, std::int64_t rows, const Activations<T>& kept, T* grad) {
    for (std::int64_t i = 0; i < rows * width_; i += kVector)
      store(g_a_ + i, load(kept.v + i) * one_minus_square(load(kept.a + i)));
    const PhaseTimer timer(record_, Phase::gradient, in_size(rows));
    product(timer, rows, g_a_, width_, w.in_transposed, grad, dim_, kNoEpilogue);
  }

  /// After `forward`: fills the tangent's derivatives and hvp = ∇²φ(o) x (rows, Dp).
  void forward_tangent(const PackedNetwork<T>& w, std::int64_t rows, const Activations<T>& kept,
                       const Tangent<T>& along, T* hvp);

  /// As `backward`, with the cotangent of hvp besides. Writes d_x (rows, Dp) where it is given; where the rows share a
  /// direction, adds dL/dx to sums.tangent.
  void backward_tangent(const PackedNetwork<T>& w, const TileConditioning<T>& at, const T* z, std::int64_t rows,
                        const Activations<T>& kept, const Tangent<T>& along, const TileCotangents<T>& cotangents,
                        const WeightSums<T>& sums, T* d_z, T* d_x, T* d_tau, T* d_dtau, T* d_gate);

  /// The activations of `rows` rows kept at `memory`, and their outputs at `value`.
  Activations<T> activations(T* memory, T* value, std::int64_t rows) const {
    return {memory, value, rows, width_, depth_};
  }

  /// Fills `keep`; with derivatives also dt = ∂_t φ(o) (rows,) and grad = ∇_z φ(o) (rows, Dp).
  template <bool kDerivatives>
  void forward(const PackedNetwork<T>& w, const TileConditioning<T>& at, const T* z, std::int64_t rows,
               Activations<T> keep, T* dt, T* grad) {
    input_layer(w, at, z, rows, keep);
    clear_row_partials(rows);
    for (std::int64_t l = 0; l < depth_; ++l)
      hidden_layer<kDerivatives>(w, at.bias, l, rows, keep, layer_input(at, keep, l, rows));
    output(w, rows, keep);
    if constexpr (kDerivatives) {
      clear_row_partials(rows);
      for (std::int64_t l = depth_ - 1; l > 0; --l) reverse_layer(w, l, rows, keep);
      reverse_first_layer(w, at, rows, keep);
      for (std::int64_t r = 0; r < rows; ++r) dt[r] = slope_[r] * row_sum(r);
      const PhaseTimer timer(record_, Phase::gradient, in_size(rows));
      product(timer, rows, g_a_, width_, w.in_transposed, grad, dim_, kNoEpilogue);
    }
  }

  /// Adds this tile's parameter gradients to `sums`, writes d_z (rows, Dp), and where the pointers are given: the rows
  /// of dL/dτ (rows, Hp) and dL/d(dτ/dt) (rows, Hp), and dL/dgate of ⟨cotangents, (φ(o), ∂_t φ(o), ∇φ(o))⟩ (rows,).
  template <bool kDerivatives>
  void backward(const PackedNetwork<T>& w, const TileConditioning<T>& at, const T* z, std::int64_t rows,
                Activations<T> kept, const TileCotangents<T>& cotangents, const WeightSums<T>& sums, T* d_z, T* d_tau,
                T* d_dtau, T* d_gate) {
    set_slope(rows, kept);
    for (std::int64_t r = 0; r < rows; ++r) d_slope_[r] = T(0);
    if constexpr (kDerivatives) {
      gradient_cotangent(w, at, rows, kept, cotangents, sums, d_dtau);
    }
    T b_out = T(0);
    for (std::int64_t r = 0; r < rows; ++r) {
      const T u = kept.value[r];
      const T through_slope = shape_.out_tanh ? -2 * u * d_slope_[r] : T(0);
      d_out_[r] = cotangents.gate[r] * (cotangents.u[r] + through_slope) * slope_[r];
      b_out += d_out_[r];
      if (d_gate) d_gate[r] = cotangents.u[r] * u + slope_[r] * d_slope_[r];
    }
    sums.add(sums.b_out, b_out);
    for (std::int64_t l = 0; l + 1 < depth_; ++l)
      if constexpr (kDerivatives) reverse_cotangent(w, l, rows, kept);
    last_layer_cotangent<kDerivatives>(w, rows, kept, sums);
    for (std::int64_t l = depth_ - 1; l > 0; --l) hidden_cotangent<kDerivatives>(w, l, rows, kept, sums);
    input_cotangent<kDerivatives>(w, rows, kept, sums, d_tau);
    {
      const PhaseTimer timer(record_, Phase::d_input, in_size(rows));
      product(timer, rows, d_s_, width_, w.in_transposed, d_z, dim_, kNoEpilogue);
    }
    if (sums.w_in) weight_sums<kDerivatives>(at, z, rows, kept, cotangents, sums);
  }

 private:
  // Calls body(r, offset of the vector in a (rows, Hp) block, its column, its number) over the vectors of a patch.
  template <class W, class Body>
  FFRL_INLINE void each(W, const Patch& patch, Body body) const {
    const std::int64_t width = width_;
    for (std::int64_t r = patch.first; r < patch.end; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < W::value; ++j) {
        const std::int64_t column = patch.column + j * kVector;
        body(r, r * width + column, column, j);
      }
  }

  // The same, where body returns what the vector adds to its row's partial sum.
  template <class W, class Body>
  FFRL_INLINE void each_with_row_sum(W, const Patch& patch, Body body) const {
    const std::int64_t width = width_;
    T* const partial = partials_of(patch, row_partial_);
    for (std::int64_t r = patch.first; r < patch.end; ++r) {
      Vec<T> sum{};
#pragma GCC unroll 4
      for (int j = 0; j < W::value; ++j) {
        const std::int64_t column = patch.column + j * kVector;
        sum += body(r, r * width + column, column, j);
      }
      store(partial + r * kVector, load(partial + r * kVector) + sum);
    }
  }

  // A row's sum over units is formed panel by panel, in their order: the first share adds its panels up; those of
  // others are kept one by one, and added when all are there. So it does not depend on the number of shares.

  std::int64_t partials() const { return helpers_.shares() > 1 ? 1 + width_ / kVector : 1; }
  std::int64_t partials_size() const { return kPartials * partials(); }
  static FFRL_INLINE T* partials_of(const Patch& patch, T* partials) {
    return patch.share == 0 ? partials : partials + (1 + patch.column / kVector) * kPartials;
  }

  void clear_row_partials(std::int64_t rows) { clear_partials(rows, row_partial_); }
  void clear_partials(std::int64_t rows, T* of) const {
    for (std::int64_t i = 0; i < partials(); ++i) __builtin_memset(of + i * kPartials, 0, rows * kVector * sizeof(T));
  }

  FFRL_INLINE T row_sum(std::int64_t r) const { return sum_of_partials(r, row_partial_); }
  FFRL_INLINE T sum_of_partials(std::int64_t r, const T* partials) const {
    Vec<T> sum = load(partials + r * kVector);
    if (helpers_.shares() > 1) {
      const std::int64_t vectors = width_ / kVector;
      for (std::int64_t at = first_panel(vectors, 1, helpers_.shares()); at < vectors; at += panel_width(vectors - at))
        sum += load(partials + (1 + at) * kPartials + r * kVector);
    }
    return horizontal_sum<T>(sum);
  }

  /// A product of the tile with its epilogue, its columns shared out.
  template <class Epilogue>
  FFRL_INLINE void product(const PhaseTimer& timer, std::int64_t rows, const T* x, std::int64_t x_stride,
                           const Panels<T>& w, T* y, std::int64_t y_stride, Epilogue epilogue) const {
    share_out(timer, [=](Share share) { multiply(rows, x, x_stride, w, y, y_stride, share, epilogue); });
  }

  /// The outer products of a weight gradient, its rows shared out.
  void outer(const PhaseTimer& timer, std::int64_t rows, std::int64_t n, std::int64_t columns,
             const OuterPairs<T>& pairs, T* g, bool add) const {
    share_out(timer, [=](Share share) { add_outer(rows, n, columns, pairs, g, add, share); });
  }

  template <class F>
  FFRL_INLINE void share_out(const PhaseTimer& timer, F f) const {
    if (helpers_.shares() == 1)
      run_share<F>(&f, 0, 1);
    else
      helpers_.lead(timer.phase(), run_share<F>, &f);
  }

  // A copy, since what lies in memory that others know would be read again after each store.
  template <class F>
  [[gnu::noinline]] static void run_share(const void* f, int share, int of) {
    const F copy = *static_cast<const F*>(f);
    copy(Share{share, of});
  }

  static FFRL_INLINE Vec<T> one_minus_square(Vec<T> x) { return broadcast(T(1)) - x * x; }

  // Multiply-adds of one product.
  double in_size(std::int64_t rows) const { return double(rows * shape_.width * shape_.dim); }
  double hidden_size(std::int64_t rows) const { return double(rows * shape_.width * shape_.width); }

  T* layer(T* block, std::int64_t l, std::int64_t rows) const { return block + l * rows * width_; }

  /// s_{ℓ}, what hidden layer ℓ reads (ℓ from 0).
  const T* layer_input(const TileConditioning<T>& at, const Activations<T>& keep, std::int64_t l,
                       std::int64_t rows) const {
    return l > 0 ? layer(keep.c, l - 1, rows) : at.tau ? s0_ : keep.a;
  }

  // In the epilogues below, pointers are copied out of the members first: a store of floats through a vector type may
  // alias anything, and the compiler would read every member again after each.

  // a = tanh(W_in z + b_in); s_0 = a + τ where every row has its own τ
  void input_layer(const PackedNetwork<T>& w, const TileConditioning<T>& at, const T* z, std::int64_t rows,
                   Activations<T>& keep) {
    const PhaseTimer timer(record_, Phase::input, in_size(rows));
    T* const a = keep.a;
    const T* const b_in = w.b_in;
    product(timer, rows, z, dim_, w.in, a, width_, [=, this](auto width, Patch patch) {
      each(width, patch, [=](std::int64_t, std::int64_t i, std::int64_t n, int) {
        store(a + i, tanh<T>(load(a + i) + load(b_in + n)));
      });
    });
    if (at.tau) add_time(at, rows, keep);
  }

  void add_time(const TileConditioning<T>& at, std::int64_t rows, const Activations<T>& keep) {
    for (std::int64_t i = 0; i < rows * width_; i += kVector) store(s0_ + i, load(keep.a + i) + load(at.tau + i));
  }

  // c_ℓ = tanh(W_ℓ s_{ℓ−1} + b_ℓ); for ℓ = L also o += w_out · c and ĥ_L = w_out ⊙ (1 − c²)
  template <bool kDerivatives>
  void hidden_layer(const PackedNetwork<T>& w, const T* first_bias, std::int64_t l, std::int64_t rows,
                    Activations<T>& keep, const T* s) {
    const PhaseTimer timer(record_, Phase::hidden, hidden_size(rows));
    T* const c = layer(keep.c, l, rows);
    T* const h = layer(h_, l, rows);
    const T* const b = l > 0 ? w.b_hid + l * width_ : first_bias;
    const T* const w_out = w.w_out;
    const bool last = l == depth_ - 1;
    product(timer, rows, s, width_, w.hid[l], c, width_, [=, this](auto width, Patch patch) {
      if (!last) {
        each(width, patch, [=](std::int64_t, std::int64_t i, std::int64_t n, int) {
          store(c + i, tanh<T>(load(c + i) + load(b + n)));
        });
        return;
      }
      each_with_row_sum(width, patch, [=](std::int64_t, std::int64_t i, std::int64_t n, int) {
        const Vec<T> x = tanh<T>(load(c + i) + load(b + n)), out = load(w_out + n);
        store(c + i, x);
        if constexpr (kDerivatives) store(h + i, out * one_minus_square(x));
        return out * x;
      });
    });
  }

  // u = φ(o), φ', φ''
  void output(const PackedNetwork<T>& w, std::int64_t rows, Activations<T>& keep) {
    for (std::int64_t r = 0; r < rows; ++r) slope_[r] = row_sum(r) + w.b_out;
    for (std::int64_t r = rows; r < kTileRows; ++r) slope_[r] = T(0);
    if (shape_.out_tanh)
      for (std::int64_t r = 0; r < rows; r += kVector) store(slope_ + r, tanh<T>(load(slope_ + r)));
    __builtin_memcpy(keep.value, slope_, rows * sizeof(T));
    set_slope(rows, keep);
  }

  void set_slope(std::int64_t rows, const Activations<T>& keep) {
    for (std::int64_t r = 0; r < rows; ++r) {
      slope_[r] = shape_.out_tanh ? 1 - keep.value[r] * keep.value[r] : T(1);
      curve_[r] = shape_.out_tanh ? -2 * keep.value[r] * slope_[r] : T(0);
    }
  }

  // v_ℓ = W_ℓᵀ ĥ_ℓ and ĥ_{ℓ−1} = v_ℓ ⊙ (1 − c_{ℓ−1}²)
  void reverse_layer(const PackedNetwork<T>& w, std::int64_t l, std::int64_t rows, Activations<T>& keep) {
    const PhaseTimer timer(record_, Phase::reverse, hidden_size(rows));
    T* const v = layer(keep.v, l, rows);
    const T* const c = layer(keep.c, l - 1, rows);
    T* const h = layer(h_, l - 1, rows);
    product(timer, rows, layer(h_, l, rows), width_, w.hid_transposed[l], v, width_,
            [=, this](auto width, Patch patch) {
              each(width, patch, [=](std::int64_t, std::int64_t i, std::int64_t, int) {
                store(h + i, load(v + i) * one_minus_square(load(c + i)));
              });
            });
  }

  // v_1 = W_1ᵀ ĥ_1; g_a = φ' v_1 ⊙ (1 − a²) and, in the row sums, v_1 · dτ/dt
  void reverse_first_layer(const PackedNetwork<T>& w, const TileConditioning<T>& at, std::int64_t rows,
                           Activations<T>& keep) {
    const PhaseTimer timer(record_, Phase::reverse, hidden_size(rows));
    T *const v_1 = keep.v, *const g_a = g_a_;
    const T *const a = keep.a, *const slope = slope_, *const dtau = at.dtau;
    const std::int64_t dtau_stride = at.dtau_stride;
    product(timer, rows, h_, width_, w.hid_transposed[0], v_1, width_, [=, this](auto width, Patch patch) {
      if (!dtau) {
        each(width, patch, [=](std::int64_t r, std::int64_t i, std::int64_t, int) {
          store(g_a + i, slope[r] * load(v_1 + i) * one_minus_square(load(a + i)));
        });
        return;
      }
      each_with_row_sum(width, patch, [=](std::int64_t r, std::int64_t i, std::int64_t n, int) {
        const Vec<T> v = load(v_1 + i);
        store(g_a + i, slope[r] * v * one_minus_square(load(a + i)));
        return v * load(dtau + r * dtau_stride + n);
      });
    });
  }

  // d_ga = W_in ḡ; then, with γ the gate, d_gs = d_ga ⊙ (1 − a²) + t̄ dτ/dt, d_φ' = d_gs · v_1,
  // d_v1 = γ φ' d_gs, the part of d_a through 1 − a², and g_a again for the weight gradient
  void gradient_cotangent(const PackedNetwork<T>& w, const TileConditioning<T>& at, std::int64_t rows,
                          const Activations<T>& kept, const TileCotangents<T>& cotangents, const WeightSums<T>& sums,
                          T* d_dtau) {
    const PhaseTimer timer(record_, Phase::d_gradient, in_size(rows));
    clear_row_partials(rows);
    T *const d_v = d_v_, *const g_a = g_a_, *const d_a = d_a_;
    const T *const kept_a = kept.a, *const kept_v = kept.v, *const slope = slope_, *const dtau = at.dtau;
    const T *const gates = cotangents.gate, *const dt_bar = cotangents.dt;
    const std::int64_t dtau_stride = at.dtau_stride;
    product(timer, rows, cotangents.grad, dim_, w.in, d_v, width_, [=, this, &sums](auto width, Patch patch) {
      if (!dtau) {
        each_with_row_sum(width, patch, [=](std::int64_t r, std::int64_t i, std::int64_t, int) {
          const Vec<T> d_ga = load(d_v + i), a = load(kept_a + i), v = load(kept_v + i), a1 = one_minus_square(a);
          const T scale = gates[r] * slope[r];
          const Vec<T> g_s = scale * v, d_gs = d_ga * a1;
          store(g_a + i, g_s * a1);
          store(d_a + i, d_ga * g_s * (T(-2) * a));
          store(d_v + i, scale * d_gs);
          return d_gs * v;
        });
        return;
      }
      Vec<T> dtau_sum[decltype(width)::value] = {};
      each_with_row_sum(width, patch, [=, &dtau_sum](std::int64_t r, std::int64_t i, std::int64_t n, int j) {
        const Vec<T> d_ga = load(d_v + i), a = load(kept_a + i), v = load(kept_v + i), a1 = one_minus_square(a);
        const T scale = gates[r] * slope[r];
        const Vec<T> g_s = scale * v, d_gs = d_ga * a1 + dt_bar[r] * load(dtau + r * dtau_stride + n);
        const Vec<T> d_slope = dt_bar[r] * g_s;
        dtau_sum[j] += d_slope;
        if (d_dtau) store(d_dtau + i, d_slope);
        store(g_a + i, g_s * a1);
        store(d_a + i, d_ga * g_s * (T(-2) * a));
        store(d_v + i, scale * d_gs);
        return d_gs * v;
      });
      sums.add_columns(sums.dtau, patch.column, dtau_sum);
    });
    for (std::int64_t r = 0; r < rows; ++r) d_slope_[r] = row_sum(r);
  }

  // d_ĥ = W_ℓ d_v; d_v of the layer above, the part of d_c through 1 − c², and ĥ_ℓ again for the weight gradient
  void reverse_cotangent(const PackedNetwork<T>& w, std::int64_t l, std::int64_t rows, const Activations<T>& kept) {
    const PhaseTimer timer(record_, Phase::d_reverse, hidden_size(rows));
    const T* const c = layer(kept.c, l, rows);
    const T* const v_above = layer(kept.v, l + 1, rows);
    T *const d_v_above = layer(d_v_, l + 1, rows), *const d_c = layer(d_p_, l, rows), *const h = layer(h_, l, rows);
    product(timer, rows, layer(d_v_, l, rows), width_, w.hid[l], d_v_above, width_, [=, this](auto width, Patch patch) {
      each(width, patch, [=](std::int64_t, std::int64_t i, std::int64_t, int) {
        const Vec<T> d_h = load(d_v_above + i), x = load(c + i), v = load(v_above + i), c1 = one_minus_square(x);
        store(h + i, v * c1);
        store(d_c + i, d_h * v * (T(-2) * x));
        store(d_v_above + i, d_h * c1);
      });
    });
  }

  // d_ĥ_L = W_L d_v_L; d_p_L = (d_ĥ ⊙ w_out ⊙ (−2c) + d_o w_out) ⊙ (1 − c²); sums of dw_out and db_L
  template <bool kDerivatives>
  void last_layer_cotangent(const PackedNetwork<T>& w, std::int64_t rows, const Activations<T>& kept,
                            const WeightSums<T>& sums) {
    const PhaseTimer timer(record_, Phase::d_reverse, kDerivatives ? hidden_size(rows) : 0);
    const std::int64_t l = depth_ - 1;
    const T* const c = layer(kept.c, l, rows);
    T *const d_p = layer(d_p_, l, rows), *const h = layer(h_, l, rows);
    T* const b_sum = l > 0 ? sums.b_hid + l * width_ : sums.b_first;
    const T *const d_out = d_out_, *const w_out = w.w_out;
    const auto epilogue = [=, this, &sums](auto width, Patch patch) {
      Vec<T> d_out_weight[decltype(width)::value] = {}, d_bias[decltype(width)::value] = {};
      each(width, patch, [=, &d_out_weight, &d_bias](std::int64_t r, std::int64_t i, std::int64_t n, int j) {
        const Vec<T> x = load(c + i), out = load(w_out + n), c1 = one_minus_square(x);
        Vec<T> d_c = broadcast(d_out[r]);
        d_out_weight[j] += d_out[r] * x;
        if constexpr (kDerivatives) {
          const Vec<T> d_h = load(d_p + i);
          d_out_weight[j] += d_h * c1;
          d_c += d_h * (T(-2) * x);
          store(h + i, out * c1);
        }
        const Vec<T> d = d_c * out * c1;
        d_bias[j] += d;
        store(d_p + i, d);
      });
      sums.add_columns(sums.w_out, patch.column, d_out_weight);
      sums.add_columns(b_sum, patch.column, d_bias);
    };
    if constexpr (kDerivatives)
      product(timer, rows, layer(d_v_, l, rows), width_, w.hid[l], d_p, width_, epilogue);
    else
      for_each_panel(width_ / kVector, Share{},
                     [&](auto width, std::int64_t at) { epilogue(width, Patch{0, rows, at * kVector}); });
  }

  // d_s = W_ℓᵀ d_p_ℓ; d_p_{ℓ−1} = (d_c_{ℓ−1} + d_s) ⊙ (1 − c_{ℓ−1}²); sum of db_{ℓ−1}
  template <bool kDerivatives>
  void hidden_cotangent(const PackedNetwork<T>& w, std::int64_t l, std::int64_t rows, const Activations<T>& kept,
                        const WeightSums<T>& sums) {
    const PhaseTimer timer(record_, Phase::d_hidden, hidden_size(rows));
    const T* const c = layer(kept.c, l - 1, rows);
    T *const d_p = layer(d_p_, l - 1, rows), *const d_s = d_s_;
    T* const b_sum = l > 1 ? sums.b_hid + (l - 1) * width_ : sums.b_first;
    product(timer, rows, layer(d_p_, l, rows), width_, w.hid_transposed[l], d_s, width_,
            [=, this, &sums](auto width, Patch patch) {
              Vec<T> d_bias[decltype(width)::value] = {};
              each(width, patch, [=, &d_bias](std::int64_t, std::int64_t i, std::int64_t, int j) {
                Vec<T> d = load(d_s + i);
                if constexpr (kDerivatives) d += load(d_p + i);
                d *= one_minus_square(load(c + i));
                d_bias[j] += d;
                store(d_p + i, d);
              });
              sums.add_columns(b_sum, patch.column, d_bias);
            });
  }

  // d_s0 = W_1ᵀ d_p_1, which is also dL/dτ; d_q = (d_a + d_s0) ⊙ (1 − a²), left in d_s; sum of db_in
  template <bool kDerivatives>
  void input_cotangent(const PackedNetwork<T>& w, std::int64_t rows, const Activations<T>& kept,
                       const WeightSums<T>& sums, T* d_tau) {
    const PhaseTimer timer(record_, Phase::d_hidden, hidden_size(rows));
    T* const d_s = d_s_;
    const T *const kept_a = kept.a, *const d_a = d_a_;
    product(timer, rows, d_p_, width_, w.hid_transposed[0], d_s, width_, [=, this, &sums](auto width, Patch patch) {
      Vec<T> d_bias[decltype(width)::value] = {};
      each(width, patch, [=, &d_bias](std::int64_t, std::int64_t i, std::int64_t, int j) {
        Vec<T> d = load(d_s + i);
        if (d_tau) store(d_tau + i, d);
        if constexpr (kDerivatives) d += load(d_a + i);
        d *= one_minus_square(load(kept_a + i));
        d_bias[j] += d;
        store(d_s + i, d);
      });
      sums.add_columns(sums.b_in, patch.column, d_bias);
    });
  }

  // dW_ℓ += d_pᵀ s_{ℓ−1} + ĥᵀ d_v and dW_in += d_qᵀ z + g_aᵀ ḡ
  template <bool kDerivatives>
  void weight_sums(const TileConditioning<T>& at, const T* z, std::int64_t rows, const Activations<T>& kept,
                   const TileCotangents<T>& cotangents, const WeightSums<T>& sums) {
    const PhaseTimer timer(record_, Phase::weight_sums,
                           (kDerivatives ? 2 : 1) * (in_size(rows) + double(depth_) * hidden_size(rows)));
    const std::int64_t h = shape_.width;
    if (at.tau) add_time(at, rows, kept);
    for (std::int64_t l = 0; l < depth_; ++l) {
      OuterPairs<T> pairs(width_, width_);
      pairs.add(layer(d_p_, l, rows), layer_input(at, kept, l, rows));
      if constexpr (kDerivatives) pairs.add(layer(h_, l, rows), layer(d_v_, l, rows));
      outer(timer, rows, h, h, pairs, sums.w_hid + l * h * width_, !sums.fresh);
    }
    OuterPairs<T> pairs(width_, dim_);
    pairs.add(d_s_, z);
    if constexpr (kDerivatives) pairs.add(g_a_, cotangents.grad);
    outer(timer, rows, h, shape_.dim, pairs, sums.w_in, !sums.fresh);
  }

  // The phases with a tangent, tangent_tile.hpp.
  std::int64_t q_stride(const Tangent<T>& along) const { return along.shared ? 0 : width_; }
  void hidden_tangent(const PackedNetwork<T>& w, std::int64_t l, std::int64_t rows, const Activations<T>& kept,
                      const Tangent<T>& along);
  void reverse_tangent(const PackedNetwork<T>& w, std::int64_t l, std::int64_t rows, const Activations<T>& kept,
                       const Tangent<T>& along);
  void gradient_tangent(const PackedNetwork<T>& w, std::int64_t rows, const Activations<T>& kept,
                        const Tangent<T>& along);
  void gradient_cotangent_tangent(const PackedNetwork<T>& w, const TileConditioning<T>& at, std::int64_t rows,
                                  const Activations<T>& kept, const Tangent<T>& along,
                                  const TileCotangents<T>& cotangents, const WeightSums<T>& sums, T* d_dtau);
  void reverse_cotangent_tangent(const PackedNetwork<T>& w, std::int64_t l, std::int64_t rows,
                                 const Activations<T>& kept, const Tangent<T>& along);
  void last_layer_cotangent_tangent(const PackedNetwork<T>& w, std::int64_t rows, const Activations<T>& kept,
                                    const Tangent<T>& along, const WeightSums<T>& sums);
  void hidden_cotangent_tangent(const PackedNetwork<T>& w, std::int64_t l, std::int64_t rows,
                                const Activations<T>& kept, const Tangent<T>& along, const WeightSums<T>& sums);
  void input_cotangent_tangent(const PackedNetwork<T>& w, std::int64_t rows, const Activations<T>& kept,
                               const Tangent<T>& along, const WeightSums<T>& sums, T* d_tau);
  void tangent_cotangent(const PackedNetwork<T>& w, std::int64_t rows, const Tangent<T>& along,
                         const WeightSums<T>& sums, T* d_x);
  void weight_sums_tangent(const TileConditioning<T>& at, const T* z, std::int64_t rows, const Activations<T>& kept,
                           const Tangent<T>& along, const TileCotangents<T>& cotangents, const WeightSums<T>& sums);

  NetworkShape shape_;
  std::int64_t width_, dim_, depth_;  // Hp, Dp, L
  Helpers& helpers_;
  PhaseRecord* record_;
  T *s0_, *h_, *g_a_, *d_a_, *d_v_, *d_p_, *d_s_, *row_partial_, *slope_, *d_slope_, *d_out_, *curve_;
  // With a tangent: what answers to s, ĥ, g_a, d_v, d_p and d_s along it; W_in w̄; d_q̇; sums of a row; d_ȯ; dL/dx (Dp,).
  T *s_dot_, *h_dot_, *g_dot_, *d_v_dot_, *d_p_dot_, *d_s_dot_, *f_, *d_q_dot_, *second_partial_, *d_out_dot_,
      *one_d_x_;
};

}  // namespace ffrl::FFRL_ISA

// The Hessian of u, row by row, by the structure of the network and not by D directions. With P_0 = W_in and
// P_ℓ = W_ℓ diag(∂s_{ℓ−1}) P_{ℓ−1}, where ∂s is 1 − a² or 1 − c²,
//     ∇²o = Σ_ℓ P_ℓᵀ diag(β_ℓ) P_ℓ,   β_0 = v_1 ⊙ a₂,   β_ℓ = v_{ℓ+1} ⊙ c₂ (v_{L+1} = w_out),
//     ∇²u = φ' ∇²o + φ'' ∇o ∇oᵀ.
#pragma once

#include "layout.hpp"
#include "memory.hpp"
#include "multiply.hpp"
#include "network_tile.hpp"
#include "tangent_tile.hpp"

namespace ffrl::FFRL_ISA {

template <class T>
class HessianTile {
 public:
  HessianTile(const NetworkShape& shape, Carver& memory)
      : shape_(shape), width_(padded<T>(shape.width)), dim_(padded<T>(shape.dim)) {
    for (T** of : {&w_in_, &p_, &next_, &scaled_}) *of = memory.take<T>(shape.width * dim_);
    beta_ = memory.take<T>(width_);
    slope_ = memory.take<T>(width_);
    rank_one_ = memory.take<T>(dim_);
  }

  /// The potential whose parameters the next calls read.
  void use(const T* theta) {
    if (theta == theta_) return;
    theta_ = theta;
    const Layout at(shape_);
    for (std::int64_t i = 0; i < shape_.width; ++i) copy_row(theta + at.w_in + i * shape_.dim, w_in_ + i * dim_);
  }

  /// Adds gate · ∇²φ(o) of row r to `hessian` (D, Dp), = where `first`, and its trace to `trace`; `hessian` may be
  /// null. grad: ∇o (Dp,).
  void add(const Activations<T>& kept, std::int64_t rows, std::int64_t r, const T* grad, T gate, bool first, T* hessian,
           T& trace) {
    const Layout at(shape_);
    const std::int64_t h = shape_.width, depth = shape_.depth;
    const T u = kept.value[r];
    const T slope = gate * (shape_.out_tanh ? 1 - u * u : T(1)), curve = shape_.out_tanh ? -2 * u * slope : T(0);
    const auto row = [&](const T* block, std::int64_t l) { return block + (l * rows + r) * width_; };
    const T* p = w_in_;
    set_layer(row(kept.a, 0), row(kept.v, 0), h, slope);
    add_layer(p, first, hessian, trace);
    T* const buffers[2] = {p_, next_};
    for (std::int64_t l = 0; l < depth; ++l) {
      T* const to = buffers[l % 2];
      for (std::int64_t i = 0; i < h; ++i)
        for (std::int64_t d = 0; d < dim_; d += kLanes<T>)
          store(scaled_ + i * dim_ + d, slope_[i] * load(p + i * dim_ + d));
      const Panels<T> panels{nullptr, scaled_, h, shape_.dim, dim_, 1};
      multiply(h, theta_ + at.w_hid + l * h * h, h, panels, to, dim_, Share{}, kNoEpilogue);
      p = to;
      const bool last = l + 1 == depth;
      set_layer(row(kept.c, l), last ? theta_ + at.w_out : row(kept.v, l + 1), h, slope);
      add_layer(p, false, hessian, trace);
    }
    T square = T(0);
    for (std::int64_t d = 0; d < shape_.dim; ++d) square += grad[d] * grad[d];
    trace += curve * square;
    if (!hessian) return;
    for (std::int64_t d = 0; d < dim_; d += kLanes<T>) store(rank_one_ + d, curve * load(grad + d));
    OuterPairs<T> pair(dim_, dim_);
    pair.add(grad, rank_one_);
    add_outer(1, shape_.dim, shape_.dim, pair, hessian, true, Share{});
  }

 private:
  void copy_row(const T* from, T* to) const {
    copy(shape_.dim, from, to);
    for (std::int64_t d = shape_.dim; d < dim_; ++d) to[d] = T(0);
  }

  // From y = tanh(p) and the v above it: β = slope · v ⊙ tanh''(p), and tanh'(p).
  void set_layer(const T* y, const T* v, std::int64_t n, T slope) {
    for (std::int64_t i = 0; i < n; ++i) {
      slope_[i] = 1 - y[i] * y[i];
      beta_[i] = slope * v[i] * (-2 * y[i] * slope_[i]);
    }
  }

  void add_layer(const T* p, bool first, T* hessian, T& trace) {
    const std::int64_t h = shape_.width;
    Vec<T> sum{};
    for (std::int64_t i = 0; i < h; ++i)
      for (std::int64_t d = 0; d < dim_; d += kLanes<T>) {
        const Vec<T> x = load(p + i * dim_ + d), scaled = beta_[i] * x;
        sum += scaled * x;
        if (hessian) store(scaled_ + i * dim_ + d, scaled);
      }
    trace += horizontal_sum<T>(sum);
    if (!hessian) return;
    OuterPairs<T> pair(dim_, dim_);
    pair.add(p, scaled_);
    add_outer(h, shape_.dim, shape_.dim, pair, hessian, !first, Share{});
  }

  NetworkShape shape_;
  std::int64_t width_, dim_;
  const T* theta_ = nullptr;
  // (H, Dp): W_in padded; P_ℓ and P_{ℓ+1}; P with its rows scaled. (Hp,): β, the derivative of tanh. (Dp,)
  T *w_in_, *p_, *next_, *scaled_, *beta_, *slope_, *rank_one_;
};

}  // namespace ffrl::FFRL_ISA

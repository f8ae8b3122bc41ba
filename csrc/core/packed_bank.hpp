// The weights of all networks of a bank, packed into panels in both orientations.
#pragma once

#include "layout.hpp"
#include "memory.hpp"
#include "multiply.hpp"
#include "problem.hpp"

namespace ffrl::FFRL_ISA {

/// Weights of one potential; vectors padded with zeros.
template <class T>
struct PackedNetwork {
  Panels<T> in, in_transposed;     // z → W_in z and g → W_inᵀ g
  Panels<T>*hid, *hid_transposed;  // L of each
  T *b_in, *b_hid, *w_out;         // (Hp,), (L, Hp), (Hp,)
  // Where all rows share one time, by moment (N, Hp): the first hidden bias with W_1 τ in it, and dτ/dt.
  T *bias, *dtau;
  T b_out, energy;
};

/// The packed data lie in a block of their own, `data`, which a forward call may hand to the backward one.
template <class T>
class PackedBank {
 public:
  PackedBank(const Network<T>& net, const Problem<T>& p, Carver& memory, Carver& data)
      : net_(net),
        times_(p.times()),
        moments_(p.row_times ? 0 : p.moments),
        count_(net ? (p.selected >= 0 ? 1 : p.potentials) : 0),
        first_(p.selected >= 0 ? p.selected : 0) {
    const NetworkShape& s = net.shape;
    const std::int64_t h = s.width, l = s.depth, hp = padded<T>(h);
    networks_ = memory.take<PackedNetwork<T>>(count_);
    auto* panels = memory.take<Panels<T>>(count_ * 2 * l);
    for (std::int64_t i = 0; i < count_; ++i) {
      T* in = data.take<T>(panels_size<T>(s.dim, h));
      T* in_transposed = data.take<T>(panels_size<T>(h, s.dim));
      T* hid = data.take<T>(2 * l * panels_size<T>(h, h));
      T* vectors = data.take<T>(hp * (2 + l + moments_ * (net.dtau ? 2 : 1)));
      if (!networks_) continue;
      PackedNetwork<T>& w = networks_[i];
      w.in = {in, s.dim, hp / kLanes<T>};
      w.in_transposed = {in_transposed, h, padded<T>(s.dim) / kLanes<T>};
      w.hid = panels + i * 2 * l;
      w.hid_transposed = w.hid + l;
      for (std::int64_t j = 0; j < 2 * l; ++j) w.hid[j] = {hid + j * panels_size<T>(h, h), h, hp / kLanes<T>};
      w.b_in = vectors;
      w.w_out = vectors + hp;
      w.b_hid = vectors + 2 * hp;
      w.bias = w.b_hid + l * hp;
      w.dtau = net.dtau ? w.bias + moments_ * hp : nullptr;
      const T* theta = net_.theta + (first_ + i) * net_.stride;
      w.b_out = theta[Layout(s).b_out];
      w.energy = s.separable ? theta[Layout(s).energy] : T(0);
    }
  }

  const PackedNetwork<T>& operator[](std::int64_t potential) const { return networks_[potential - first_]; }

  /// Pieces of work that threads may share.
  std::int64_t pieces() const { return count_ * (3 + 2 * net_.shape.depth); }

  void pack_piece(std::int64_t piece) const {
    const NetworkShape& s = net_.shape;
    const Layout at(s);
    const std::int64_t h = s.width, d = s.dim, each = 3 + 2 * s.depth, i = piece / each, part = piece % each;
    const T* theta = net_.theta + (first_ + i) * net_.stride;
    const PackedNetwork<T>& w = networks_[i];
    if (part == 0)
      pack<T>(theta + at.w_in, 1, d, w.in, h);
    else if (part == 1)
      pack<T>(theta + at.w_in, d, 1, w.in_transposed, d);
    else if (part == 2)
      pack_vectors(theta, at, first_ + i, w);
    else if (part < 3 + s.depth)
      pack<T>(theta + at.w_hid + (part - 3) * h * h, 1, h, w.hid[part - 3], h);
    else
      pack<T>(theta + at.w_hid + (part - 3 - s.depth) * h * h, h, 1, w.hid_transposed[part - 3 - s.depth], h);
  }

  /// τ and dτ/dt (H,) of potential k at time i, unpadded; null where there is none.
  const T* tau(std::int64_t k, std::int64_t i) const { return conditioning(net_.tau, k, i); }
  const T* dtau(std::int64_t k, std::int64_t i) const { return conditioning(net_.dtau, k, i); }

 private:
  const T* conditioning(const T* of, std::int64_t k, std::int64_t i) const {
    return of ? of + ((net_.conditioned > 1 ? k : 0) * times_ + i) * net_.shape.width : nullptr;
  }

  void pack_vectors(const T* theta, const Layout& at, std::int64_t k, const PackedNetwork<T>& w) const {
    const NetworkShape& s = net_.shape;
    const std::int64_t h = s.width, hp = padded<T>(h);
    copy_padded(theta + at.b_in, h, w.b_in);
    copy_padded(theta + at.w_out, h, w.w_out);
    for (std::int64_t l = 0; l < s.depth; ++l) copy_padded(theta + at.b_hid + l * h, h, w.b_hid + l * hp);
    for (std::int64_t n = 0; n < moments_; ++n) {
      copy_padded(w.b_hid, h, w.bias + n * hp);
      // W_1 (a + τ) + b = W_1 a + (b + W_1 τ): a time that all rows share costs nothing in the tile.
      if (const T* shift = tau(k, n))
        for (std::int64_t i = 0; i < h; ++i) w.bias[n * hp + i] += precise_dot(h, theta + at.w_hid + i * h, shift);
      if (w.dtau) copy_padded(dtau(k, n), h, w.dtau + n * hp);
    }
  }

  /// In double: an error here would be the same in every row, and sums over rows would not average it out.
  static double precise_dot(std::int64_t n, const T* x, const T* y) {
    double parts[8] = {};
    std::int64_t i = 0;
    for (; i + 8 <= n; i += 8)
      for (int j = 0; j < 8; ++j) parts[j] += double(x[i + j]) * double(y[i + j]);
    for (; i < n; ++i) parts[0] += double(x[i]) * double(y[i]);
    return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
  }

  static void copy_padded(const T* from, std::int64_t n, T* to) {
    __builtin_memcpy(to, from, n * sizeof(T));
    for (std::int64_t i = n; i < padded<T>(n); ++i) to[i] = T(0);
  }

  Network<T> net_;
  std::int64_t times_, moments_, count_, first_;
  PackedNetwork<T>* networks_;
};

}  // namespace ffrl::FFRL_ISA

// The weights of all networks of a bank, packed into panels in both orientations, with their time conditioning.
#pragma once

#include "conditioning.hpp"
#include "layout.hpp"
#include "memory.hpp"
#include "multiply.hpp"
#include "problem.hpp"

namespace ffrl::FFRL_ISA {

/// Weights of one network; vectors padded with zeros.
template <class T>
struct PackedNetwork {
  Panels<T> in, in_transposed;     // z → W_in z and g → W_inᵀ g
  Panels<T>*hid, *hid_transposed;  // L of each
  T *b_in, *b_hid, *w_out;         // (Hp,), (L, Hp), (Hp,)
  Conditioning<T> time;            // where all rows share their times
  T b_out, energy;
};

/// The packed data lie in a block of their own, `data`, which a forward call may hand to the backward one.
template <class T>
class PackedBank {
 public:
  PackedBank(const Network<T>& net, const Problem<T>& p, bool derivatives, Carver& memory, Carver& data)
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
      // In the order in which a tile meets them, forward and backward: each panel is followed by the next one needed.
      const bool packs = packs_weights(net.shape, p.rows);
      T* in = data.take<T>(packs ? panels_size<T>(s.dim, h) : 0);
      T* hid = data.take<T>(packs ? 2 * l * panels_size<T>(h, h) : 0);
      T* in_transposed = data.take<T>(packs ? panels_size<T>(h, s.dim) : 0);
      T* vectors = data.take<T>(hp * (2 + l));
      T* time = data.take<T>(moments_ * hp * time_arrays(net, derivatives));
      if (!networks_) continue;
      PackedNetwork<T>& w = networks_[i];
      const T* row = theta(first_ + i);
      const Layout at(s);
      w.in = {packs ? in : nullptr, row + at.w_in, s.dim, h, 1, s.dim};
      w.in_transposed = {packs ? in_transposed : nullptr, row + at.w_in, h, s.dim, s.dim, 1};
      w.hid = panels + i * 2 * l;
      w.hid_transposed = w.hid + l;
      for (std::int64_t j = 0; j < l; ++j) {
        const T* source = row + at.w_hid + j * h * h;
        w.hid[j] = {packs ? hid + j * panels_size<T>(h, h) : nullptr, source, h, h, 1, h};
        w.hid_transposed[j] = {packs ? hid + (2 * l - 1 - j) * panels_size<T>(h, h) : nullptr, source, h, h, h, 1};
      }
      w.b_in = vectors;
      w.w_out = vectors + hp;
      w.b_hid = vectors + 2 * hp;
      w.time = Conditioning<T>(time, moments_ * hp, net.tau != nullptr, net.computes_time(), derivatives);
      w.b_out = row[at.b_out];
      w.energy = s.separable() ? row[at.energy] : T(0);
    }
  }

  const PackedNetwork<T>& operator[](std::int64_t potential) const { return networks_[potential - first_]; }
  const T* theta(std::int64_t potential) const { return net_.theta + potential * net_.stride; }

  /// Pieces of packing that threads may share.
  std::int64_t pieces() const { return count_ * (3 + 2 * net_.shape.depth); }

  void pack_piece(std::int64_t piece) const {
    const std::int64_t l = net_.shape.depth, each = 3 + 2 * l, i = piece / each, part = piece % each;
    const PackedNetwork<T>& w = networks_[i];
    if (part == 0) return pack_vectors(theta(first_ + i), Layout(net_.shape), first_ + i, w);
    if (!w.in.data) return;
    pack(part == 1      ? w.in
         : part == 2    ? w.in_transposed
         : part < 3 + l ? w.hid[part - 3]
                        : w.hid_transposed[part - 3 - l]);
  }

  /// The three stages of the conditioning, in pieces of a block of units of one network each.
  std::int64_t time_pieces() const {
    return moments_ && (net_.tau || net_.computes_time()) ? count_ * unit_blocks(net_.shape.width) : 0;
  }
  void time_hidden(std::int64_t piece, const Embedding<T>& embedding) const {
    if (!net_.computes_time()) return;
    block_of(piece, [&](const PackedNetwork<T>& w, const T* row, std::int64_t from, std::int64_t to) {
      w.time.hidden(net_.shape, row, embedding, moments_, from, to);
    });
  }
  void time_output(std::int64_t piece) const {
    if (!net_.computes_time()) return;
    block_of(piece, [&](const PackedNetwork<T>& w, const T* row, std::int64_t from, std::int64_t to) {
      w.time.output(net_.shape, row, moments_, from, to);
    });
  }
  void time_fold(std::int64_t piece) const {
    block_of(piece, [&](const PackedNetwork<T>& w, const T* row, std::int64_t from, std::int64_t to) {
      w.time.fold(net_.shape, row, moments_, from, to);
    });
  }

  /// τ and dτ/dt (H,) given by the caller for potential k at time i, unpadded; null where there is none.
  const T* given_tau(std::int64_t k, std::int64_t i) const { return given(net_.tau, k, i); }
  const T* given_dtau(std::int64_t k, std::int64_t i) const { return given(net_.dtau, k, i); }

 private:
  const T* given(const T* of, std::int64_t k, std::int64_t i) const {
    return of ? of + ((net_.conditioned > 1 ? k : 0) * times_ + i) * net_.shape.width : nullptr;
  }

  template <class F>
  void block_of(std::int64_t piece, F f) const {
    const std::int64_t h = net_.shape.width, blocks = unit_blocks(h), i = piece / blocks;
    const std::int64_t from = piece % blocks * kUnits, to = from + kUnits < h ? from + kUnits : h;
    f(networks_[i], theta(first_ + i), from, to);
  }

  void pack_vectors(const T* row, const Layout& at, std::int64_t k, const PackedNetwork<T>& w) const {
    const NetworkShape& s = net_.shape;
    const std::int64_t h = s.width, hp = padded<T>(h);
    copy_padded(row + at.b_in, h, w.b_in);
    copy_padded(row + at.w_out, h, w.w_out);
    for (std::int64_t l = 0; l < s.depth; ++l) copy_padded(row + at.b_hid + l * h, h, w.b_hid + l * hp);
    // All of it, so that the padding is zero.
    for (T* of : {w.time.tau, w.time.dtau, w.time.q, w.time.dq, w.time.y, w.time.dy})
      if (of) __builtin_memset(of, 0, moments_ * hp * sizeof(T));
    for (std::int64_t n = 0; n < moments_; ++n) {
      copy_padded(w.b_hid, h, w.time.bias + n * hp);
      if (net_.tau) copy_padded(given_tau(k, n), h, w.time.tau + n * hp);
      if (net_.dtau) copy_padded(given_dtau(k, n), h, w.time.dtau + n * hp);
    }
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

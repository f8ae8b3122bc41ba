// From the slots of row sums to the parameter gradients of a bank, in three stages of independent pieces.
#pragma once

#include "conditioning.hpp"
#include "packed_bank.hpp"
#include "problem.hpp"
#include "schedule.hpp"
#include "weight_sums.hpp"

namespace ffrl::FFRL_ISA {

/// Where the gradients of one bank go; null: not wanted.
template <class T>
struct BankOutputs {
  T *theta, *tau, *dtau;
  T* time;  // (N,), the engine's own conditioning's share of dL/dt is added
};

template <class T>
class BankGradients {
 public:
  BankGradients(const Network<T>& net, const Problem<T>& p, const Schedule& schedule, const BankOutputs<T>& out,
                Carver& memory)
      : net_(net),
        s_(schedule),
        out_(out),
        moments_(p.row_times ? 0 : p.moments),
        count_(net ? p.potentials : 0),
        selected_(p.selected),
        blocks_(net ? unit_blocks(net.shape.width) : 0) {
    const std::int64_t size = count_ * moments_ * padded<T>(net.shape.width);
    for (T** of : {&d_b1_, &d_tau_, &d_dtau_}) *of = memory.take<T>(size);
    d_time_ = memory.take<double>(count_ * blocks_ * moments_);
  }

  std::int64_t pieces() const { return count_ * blocks_; }

  /// Stage 1: sums the slots, in their order; dW_1 gets the share of a shared τ.
  void sum_slots(std::int64_t piece, const PackedBank<T>& bank, const Slots<T>& slots) const {
    const auto [k, from, to] = block_of(piece);
    const NetworkShape& s = net_.shape;
    const std::int64_t h = s.width, hp = padded<T>(h), d = s.dim, dp = padded<T>(d), l = s.depth;
    const Layout at(s);
    if (T* theta = theta_of(k)) {
      bool written = false;  // the first slot writes, the others add
      for_each_slot(slots, k, [&](std::int64_t slot) {
        const WeightSums<T> sums = slots.at(slot, 0);
        if (sums.fresh) return;
        const auto put = [written](std::int64_t n, const T* x, T* y) { written ? add(n, x, y) : copy(n, x, y); };
        const std::int64_t units = to - from;
        // Rows of the padded sums to rows of theta; at once where nothing is padded.
        const auto put_rows = [&](std::int64_t n, std::int64_t padded_n, const T* x, T* y) {
          if (n == padded_n) return put(units * n, x, y);
          for (std::int64_t row = 0; row < units; ++row) put(n, x + row * padded_n, y + row * n);
        };
        put(units, sums.b_in + from, theta + at.b_in + from);
        put(units, sums.w_out + from, theta + at.w_out + from);
        put_rows(d, dp, sums.w_in + from * dp, theta + at.w_in + from * d);
        for (std::int64_t i = 0; i < l; ++i) {
          if (i > 0) put(units, sums.b_hid + i * hp + from, theta + at.b_hid + i * h + from);
          put_rows(h, hp, sums.w_hid + (i * h + from) * hp, theta + at.w_hid + (i * h + from) * h);
        }
        if (from == 0) {
          put(1, sums.b_out, theta + at.b_out);
          if (s.separable()) put(1, sums.energy, theta + at.energy);
        }
        written = true;
      });
      if (!written) clear_core(from, to, theta);
      for (std::int64_t n = from; n < to; ++n) theta[at.b_hid + n] = T(0);
      if (s.time == TimeEmbedding::sinusoidal && !(moments_ && uses(k) && net_.computes_time()))
        clear_time(from, to, theta);
    }
    // With a time for each row the slots hold one sum over all rows.
    for (std::int64_t moment = 0; moment < slots.moments(); ++moment) {
      T b[kUnits] = {}, dtau[kUnits] = {};
      for_each_slot(slots, k, [&](std::int64_t slot) {
        const WeightSums<T> sums = slots.at(slot, moment);
        for (std::int64_t n = from; n < to; ++n) {
          b[n - from] += sums.b_first[n];
          dtau[n - from] += sums.dtau[n];
        }
      });
      const T* tau = moments_ && uses(k) && bank[k].time.tau ? bank[k].time.tau + moment * hp : nullptr;
      for (std::int64_t n = from; n < to; ++n) {
        if (moments_) {
          d_b1_[place(k, moment) + n] = b[n - from];
          d_dtau_[place(k, moment) + n] = dtau[n - from];
        }
        T* theta = theta_of(k);
        if (!theta) continue;
        theta[at.b_hid + n] += b[n - from];
        // The tile read a where the formula reads a + τ: dW_1 += db_1 τᵀ.
        if (tau) add_scaled(h, b[n - from], tau, theta + at.w_hid + n * h);
      }
    }
  }

  /// Stage 2: dL/dτ = W_1ᵀ db_1; dW_2 = dτ yᵀ + d(dτ/dt) (dy/dt)ᵀ, db_2 = dτ.
  void through_hidden_bias(std::int64_t piece, const PackedBank<T>& bank) const {
    const auto [k, from, to] = block_of(piece);
    if (!moments_ || !uses(k) || !bank[k].time.tau) return;
    const NetworkShape& s = net_.shape;
    const std::int64_t h = s.width, hp = padded<T>(h);
    const Layout at(s);
    const T* w = bank.theta(k) + at.w_hid;
    for (std::int64_t moment = 0; moment < moments_; ++moment) {
      double sum[kUnits];
      precise_columns(h, d_b1_ + place(k, moment), w + from, h, to - from, sum);
      const std::int64_t given = ((net_.conditioned > 1 ? k : 0) * moments_ + moment) * h;
      for (std::int64_t n = from; n < to; ++n) {
        d_tau_[place(k, moment) + n] = static_cast<T>(sum[n - from]);
        if (out_.tau) out_.tau[given + n] = static_cast<T>(sum[n - from]);
        if (out_.dtau) out_.dtau[given + n] = d_dtau_[place(k, moment) + n];
      }
    }
    T* theta = theta_of(k);
    if (!theta || !net_.computes_time()) return;
    const Conditioning<T>& time = bank[k].time;
    for (std::int64_t moment = 0; moment < moments_; ++moment)
      for (std::int64_t n = from; n < to; ++n) {
        const T d_tau = d_tau_[place(k, moment) + n], d_dtau = d_dtau_[place(k, moment) + n];
        theta[at.b_time2 + n] = moment ? theta[at.b_time2 + n] + d_tau : d_tau;
        combine(h, d_tau, time.y + moment * hp, d_dtau, time.dy ? time.dy + moment * hp : nullptr, moment > 0,
                theta + at.w_time2 + n * h);
      }
  }

  /// Stage 3, through y = GELU(q) and q = W_1 PE + b_1: with d_y = W_2ᵀ d_τ and d_ẏ = W_2ᵀ d_τ̇,
  /// d_q = d_y GELU' + d_ẏ GELU'' q̇ and d_q̇ = d_ẏ GELU'.
  void through_embedding(std::int64_t piece, const PackedBank<T>& bank, const Embedding<T>& embedding) const {
    const auto [k, from, to] = block_of(piece);
    double* d_time = d_time_ + piece * moments_;
    for (std::int64_t moment = 0; moment < moments_; ++moment) d_time[moment] = 0;
    if (!moments_ || !uses(k) || !net_.computes_time()) return;
    const NetworkShape& s = net_.shape;
    const std::int64_t h = s.width, hp = padded<T>(h), d = s.dim;
    const Layout at(s);
    const T *w1 = bank.theta(k) + at.w_time1, *w2 = bank.theta(k) + at.w_time2;
    const Conditioning<T>& time = bank[k].time;
    T* theta = theta_of(k);
    for (std::int64_t moment = 0; moment < moments_; ++moment) {
      double sum[kUnits] = {}, d_sum[kUnits] = {};
      precise_columns(h, d_tau_ + place(k, moment), w2 + from, h, to - from, sum);
      if (time.dq) precise_columns(h, d_dtau_ + place(k, moment), w2 + from, h, to - from, d_sum);
      alignas(64) T d_q[kUnits], d_dq[kUnits];
      for (std::int64_t i = 0; i < kUnits; ++i) {
        d_q[i] = static_cast<T>(sum[i]);
        d_dq[i] = static_cast<T>(d_sum[i]);
      }
      for (std::int64_t i = 0; i < padded<T>(to - from); i += kLanes<T>) {
        const std::int64_t n = moment * hp + from + i;
        const Gelu<T> gelu(load(time.q + n));
        const Vec<T> d_y = load(d_q + i), d_dy = load(d_dq + i);
        store(d_q + i, time.dq ? d_y * gelu.first + d_dy * gelu.second * load(time.dq + n) : d_y * gelu.first);
        store(d_dq + i, d_dy * gelu.first);
      }
      for (std::int64_t n = from; n < to; ++n) {
        const T q = d_q[n - from], dq = d_dq[n - from];
        if (theta) {
          theta[at.b_time1 + n] = moment ? theta[at.b_time1 + n] + q : q;
          combine(d, q, embedding.value(moment), dq, time.dq ? embedding.first(moment) : nullptr, moment > 0,
                  theta + at.w_time1 + n * d);
        }
        if (out_.time) {
          const double q_dot = time.dq ? time.dq[moment * hp + n] : precise_dot(d, w1 + n * d, embedding.first(moment));
          d_time[moment] += double(q) * q_dot;
          if (time.dq) d_time[moment] += double(dq) * precise_dot(d, w1 + n * d, embedding.second(moment));
        }
      }
    }
  }

  /// After all stages, by one thread.
  void add_time() const {
    if (!out_.time || !net_.computes_time()) return;
    for (std::int64_t piece = 0; piece < pieces(); ++piece)
      for (std::int64_t moment = 0; moment < moments_; ++moment)
        out_.time[moment] += d_time_[piece * moments_ + moment];
  }

 private:
  struct Block {
    std::int64_t potential, from, to;
  };

  Block block_of(std::int64_t piece) const {
    const std::int64_t from = piece % blocks_ * kUnits, h = net_.shape.width;
    return {piece / blocks_, from, from + kUnits < h ? from + kUnits : h};
  }

  bool uses(std::int64_t k) const { return selected_ < 0 || selected_ == k; }
  T* theta_of(std::int64_t k) const { return out_.theta ? out_.theta + k * net_.stride : nullptr; }
  std::int64_t place(std::int64_t k, std::int64_t moment) const {
    return (k * moments_ + moment) * padded<T>(net_.shape.width);
  }

  template <class F>
  void for_each_slot(const Slots<T>& slots, std::int64_t k, F f) const {
    for (std::int64_t slot = 0; slot < slots.size(); ++slot)
      if (s_.slot_potential[slot] == k) f(slot);
  }

  /// Zeroes what the slots would have written.
  void clear_core(std::int64_t from, std::int64_t to, T* theta) const {
    const NetworkShape& s = net_.shape;
    const std::int64_t h = s.width, units = to - from;
    const Layout at(s);
    clear(units, theta + at.b_in + from);
    clear(units, theta + at.w_out + from);
    clear(units * s.dim, theta + at.w_in + from * s.dim);
    for (std::int64_t i = 0; i < s.depth; ++i) {
      clear(units, theta + at.b_hid + i * h + from);
      clear(units * h, theta + at.w_hid + (i * h + from) * h);
    }
    if (from > 0) return;
    theta[at.b_out] = T(0);
    if (s.separable()) theta[at.energy] = T(0);
  }

  void clear_time(std::int64_t from, std::int64_t to, T* theta) const {
    const NetworkShape& s = net_.shape;
    const Layout at(s);
    clear((to - from) * s.dim, theta + at.w_time1 + from * s.dim);
    clear((to - from) * s.width, theta + at.w_time2 + from * s.width);
    clear(to - from, theta + at.b_time1 + from);
    clear(to - from, theta + at.b_time2 + from);
  }

  static void clear(std::int64_t n, T* x) { __builtin_memset(x, 0, n * sizeof(T)); }
  static void add(std::int64_t n, const T* x, T* y) {
    for (std::int64_t i = 0; i < n; ++i) y[i] += x[i];
  }
  static void add_scaled(std::int64_t n, T factor, const T* x, T* y) {
    for (std::int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
  }
  /// to = a·x + b·y, or += with `more`; y null: without it. x and y are padded, `to` is not.
  static void combine(std::int64_t n, T a, const T* x, T b, const T* y, bool more, T* to) {
    const auto part = [&](std::int64_t i) { return y ? a * x[i] + b * y[i] : a * x[i]; };
    if (more)
      for (std::int64_t i = 0; i < n; ++i) to[i] += part(i);
    else
      for (std::int64_t i = 0; i < n; ++i) to[i] = part(i);
  }

  Network<T> net_;
  const Schedule& s_;
  BankOutputs<T> out_;
  std::int64_t moments_, count_, selected_, blocks_;
  T *d_b1_, *d_tau_, *d_dtau_;
  double* d_time_;
};

}  // namespace ffrl::FFRL_ISA

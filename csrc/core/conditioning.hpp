// The time conditioning of a bank at the moments that all rows share:
//     τ(t) = W_2 GELU(W_1 PE(t) + b_1) + b_2   and   dτ/dt.
// It is as large as one row a moment, so its weights are read where they lie, unpacked, a block of units at a time.
#pragma once

#include "elementary.hpp"
#include "layout.hpp"
#include "memory.hpp"
#include "simd.hpp"

namespace ffrl::FFRL_ISA {

/// Units of a layer whose conditioning, or whose weight gradients, are one piece of work for a thread.
inline constexpr std::int64_t kUnits = 16;

constexpr std::int64_t unit_blocks(std::int64_t width) { return (width + kUnits - 1) / kUnits; }

/// x·w, and y·w where y is given, in one pass over w.
template <class T>
FFRL_INLINE void dots(std::int64_t n, const T* w, const T* x, const T* y, T& x_dot, T* y_dot) {
  Vec<T> a[2] = {}, b[2] = {};
  const auto step = [&](int j, std::int64_t at) {
    const Vec<T> weights = load(w + at);
    a[j] += weights * load(x + at);
    if (y_dot) b[j] += weights * load(y + at);
  };
  std::int64_t i = 0;
  for (; i + 2 * kLanes<T> <= n; i += 2 * kLanes<T>) {
    step(0, i);
    step(1, i + kLanes<T>);
  }
  if (i + kLanes<T> <= n) {
    step(0, i);
    i += kLanes<T>;
  }
  T x_sum = horizontal_sum<T>(a[0] + a[1]), y_sum = y_dot ? horizontal_sum<T>(b[0] + b[1]) : T(0);
  for (; i < n; ++i) {
    x_sum += w[i] * x[i];
    if (y_dot) y_sum += w[i] * y[i];
  }
  x_dot = x_sum;
  if (y_dot) *y_dot = y_sum;
}

/// As many values as a vector of doubles holds, in double.
template <class T>
FFRL_INLINE Vec<double> load_widened(const T* p) {
  // Lane by lane: GCC makes one instruction of this, and four of __builtin_convertvector.
  Vec<double> wide;
#pragma GCC unroll 8
  for (int i = 0; i < kLanes<double>; ++i) wide[i] = p[i];
  return wide;
}

// Sums over units go in double where their error would be the same in every row, since the sum over rows would not
// average it out.

/// x·y in double.
template <class T>
FFRL_INLINE double precise_dot(std::int64_t n, const T* x, const T* y) {
  constexpr std::int64_t lanes = kLanes<double>;
  Vec<double> sum[4] = {};
  std::int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) sum[j] += load_widened(x + i + j * lanes) * load_widened(y + i + j * lanes);
  for (; i + lanes <= n; i += lanes) sum[0] += load_widened(x + i) * load_widened(y + i);
  double total = horizontal_sum<double>((sum[0] + sum[1]) + (sum[2] + sum[3]));
  for (; i < n; ++i) total += double(x[i]) * double(y[i]);
  return total;
}

/// result[j] = Σ_i factor[i] · w[i, j] in double, for n ≤ kUnits columns of a matrix whose rows lie `stride` apart.
template <class T>
FFRL_INLINE void precise_columns(std::int64_t rows, const T* factor, const T* w, std::int64_t stride, std::int64_t n,
                                 double* result) {
  if (n < kUnits) {
    for (std::int64_t j = 0; j < n; ++j) result[j] = 0;
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < n; ++j) result[j] += double(factor[i]) * double(w[i * stride + j]);
    return;
  }
  constexpr std::int64_t lanes = kLanes<double>, count = kUnits / lanes;
  Vec<double> sum[count] = {};
  for (std::int64_t i = 0; i < rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < count; ++j) sum[j] += double(factor[i]) * load_widened(w + i * stride + j * lanes);
#pragma GCC unroll 8
  for (int j = 0; j < count; ++j) store(result + j * lanes, sum[j]);
}

/// PE(t), its derivative and second derivative at N moments: sines, then cosines, of t·rate; an odd last entry is 0.
template <class T>
class Embedding {
 public:
  Embedding(std::int64_t moments, std::int64_t dim, Carver& memory) : moments_(moments), dim_(dim) {
    const std::int64_t half = padded<T>(dim / 2);
    rate_ = memory.take<T>(half);
    sin_ = memory.take<T>(half);
    cos_ = memory.take<T>(half);
    for (T** of : {&value_, &first_, &second_}) *of = memory.take<T>(moments * padded<T>(dim));
  }

  void compute(const T* t) const {
    const std::int64_t half = dim_ / 2, dp = padded<T>(dim_);
    for (std::int64_t i = 0; i < padded<T>(half); ++i)
      rate_[i] = i < half ? static_cast<T>(__builtin_exp(-9.210340371976182736 * i / (half > 1 ? half - 1 : 1))) : T(0);
    for (std::int64_t n = 0; n < moments_; ++n) {
      for (std::int64_t i = 0; i < padded<T>(half); i += kLanes<T>) {
        Vec<T> sin, cos;
        sincos<T>(t[n] * load(rate_ + i), sin, cos);
        store(sin_ + i, sin);
        store(cos_ + i, cos);
      }
      T *value = value_ + n * dp, *first = first_ + n * dp, *second = second_ + n * dp;
      for (std::int64_t i = 0; i < half; ++i) {
        const T rate = rate_[i], sin = sin_[i], cos = cos_[i];
        value[i] = sin;
        value[half + i] = cos;
        first[i] = rate * cos;
        first[half + i] = -rate * sin;
        second[i] = -rate * rate * sin;
        second[half + i] = -rate * rate * cos;
      }
      for (std::int64_t i = 2 * half; i < dp; ++i) value[i] = first[i] = second[i] = T(0);
    }
  }

  const T* value(std::int64_t moment) const { return value_ + moment * padded<T>(dim_); }
  const T* first(std::int64_t moment) const { return first_ + moment * padded<T>(dim_); }
  const T* second(std::int64_t moment) const { return second_ + moment * padded<T>(dim_); }

 private:
  std::int64_t moments_, dim_;
  T *rate_, *sin_, *cos_, *value_, *first_, *second_;
};

/// GELU(q) = q Φ(q) and its first two derivatives.
template <class T>
struct Gelu {
  Vec<T> value, first, second;

  explicit FFRL_INLINE Gelu(Vec<T> q) {
    const Vec<T> cdf = normal_cdf<T>(q), pdf = T(0.398942280401432677940) * exp<T>(T(-0.5) * q * q);
    value = q * cdf;
    first = cdf + q * pdf;
    second = pdf * (T(2) - q * q);
  }
};

/// The conditioning of one network at N moments, (N, Hp) each. Null where a network has none, dtau, dq and dy also
/// where no derivative is wanted; q … dy only where the engine computes it itself.
template <class T>
struct Conditioning {
  T* bias;        // the first hidden bias with W_1 τ in it
  T *tau, *dtau;  // τ, dτ/dt
  T *q, *dq;      // W_1 PE + b_1 and its derivative
  T *y, *dy;      // GELU(q) and its derivative

  Conditioning() = default;
  Conditioning(T* memory, std::int64_t size, bool given, bool computed, bool derivatives) {
    const auto next = [&](bool there) {
      if (!there) return static_cast<T*>(nullptr);
      T* at = memory;
      memory += size;
      return at;
    };
    const bool any = given || computed;
    bias = next(true);
    tau = next(any);
    dtau = next(any && derivatives);
    q = next(computed);
    y = next(computed);
    dq = next(computed && derivatives);
    dy = next(computed && derivatives);
  }

  /// q, GELU(q) and their derivatives, of units from … to.
  void hidden(const NetworkShape& s, const T* theta, const Embedding<T>& embedding, std::int64_t moments,
              std::int64_t from, std::int64_t to) const {
    const std::int64_t hp = padded<T>(s.width);
    const Layout at(s);
    for (std::int64_t i = from; i < to; ++i)
      for (std::int64_t n = 0; n < moments; ++n) {
        const T* w = theta + at.w_time1 + i * s.dim;
        dots(s.dim, w, embedding.value(n), embedding.first(n), q[n * hp + i], dq ? dq + n * hp + i : nullptr);
        q[n * hp + i] += theta[at.b_time1 + i];
      }
    for (std::int64_t n = 0; n < moments; ++n)
      for (std::int64_t i = n * hp + from; i < n * hp + padded<T>(to); i += kLanes<T>) {
        const Gelu<T> gelu(load(q + i));
        store(y + i, gelu.value);
        if (dq) store(dy + i, gelu.first * load(dq + i));
      }
  }

  /// τ and dτ/dt, of units from … to.
  void output(const NetworkShape& s, const T* theta, std::int64_t moments, std::int64_t from, std::int64_t to) const {
    const std::int64_t hp = padded<T>(s.width);
    const Layout at(s);
    for (std::int64_t i = from; i < to; ++i)
      for (std::int64_t n = 0; n < moments; ++n) {
        const T* w = theta + at.w_time2 + i * s.width;
        const T* slope = dtau ? dy + n * hp : nullptr;
        dots(s.width, w, y + n * hp, slope, tau[n * hp + i], dtau ? dtau + n * hp + i : nullptr);
        tau[n * hp + i] += theta[at.b_time2 + i];
      }
  }

  /// W_1 (a + τ) + b = W_1 a + (b + W_1 τ): a time that all rows share costs nothing in the tile.
  void fold(const NetworkShape& s, const T* theta, std::int64_t moments, std::int64_t from, std::int64_t to) const {
    const std::int64_t hp = padded<T>(s.width);
    const Layout at(s);
    for (std::int64_t i = from; i < to; ++i)
      for (std::int64_t n = 0; n < moments; ++n)
        bias[n * hp + i] =
            static_cast<T>(theta[at.b_hid + i] + precise_dot(s.width, theta + at.w_hid + i * s.width, tau + n * hp));
  }
};

}  // namespace ffrl::FFRL_ISA

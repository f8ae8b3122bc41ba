// log|x_1 x_2 … x_n| without n logarithms and without overflow.
#pragma once

#include "elementary.hpp"
#include "simd.hpp"

namespace ffrl::FFRL_ISA {

/// A product of vectors, lane by lane, as mantissa · 2^exponent. A factor 0 makes it 0 (its logarithm −inf), one that
/// is not finite makes it NaN.
template <class T>
class LogProduct {
  using C = elementary::Constants<T>;
  static constexpr int kFactors = 32;  // mantissas below 2 that may be multiplied between two splits

 public:
  FFRL_INLINE void multiply(Vec<T> x) {
    mantissa_ *= split(x);
    if (++count_ % kFactors == 0) mantissa_ = split(mantissa_);
  }

  /// The logarithm of the absolute value of each lane.
  void logarithms(T* to) {
    mantissa_ = split(mantissa_);
    for (int i = 0; i < kLanes<T>; ++i) to[i] = static_cast<T>(logarithm(exponent_[i], mantissa_[i]));
  }

  /// That of the product of all lanes.
  T logarithm() {
    mantissa_ = split(mantissa_);
    double mantissa = 1, exponent = 0;
    for (int i = 0; i < kLanes<T>; ++i) {
      mantissa *= double(mantissa_[i]);
      exponent += double(exponent_[i]);
    }
    return static_cast<T>(logarithm(exponent, mantissa));
  }

 private:
  static double logarithm(double exponent, double mantissa) {
    return mantissa == 0 ? -__builtin_inf() : exponent * 0.693147180559945309417 + __builtin_log(mantissa);
  }

  // |x| = m · 2^e with 1 ≤ m < 2: adds e to the exponent, returns m. (A subnormal x counts as one of the least
  // exponent.)
  FFRL_INLINE Vec<T> split(Vec<T> x) {
    using namespace elementary;
    const Bits<T> bits = as_bits<T>(x) ^ sign_bit<T>(x);
    const Bits<T> one = as_bits<T>(broadcast(T(1)));
    exponent_ += (bits >> C::mantissa) - C::bias;
    const Vec<T> m = from_bits<T>((bits & ((typename VectorTypes<T>::Integer(1) << C::mantissa) - 1)) | one);
    return x == T(0) ? Vec<T>{} : m + (x - x);
  }

  Vec<T> mantissa_ = broadcast(T(1));
  Bits<T> exponent_{};
  int count_ = 0;
};

/// Σ_d log|1 + step·h_d| of a padded row (Dp,) whose padding is 0.
template <class T>
T log_abs_sum(std::int64_t dim, T step, const T* h) {
  LogProduct<T> product;
  for (std::int64_t d = 0; d < dim; d += kLanes<T>) product.multiply(T(1) + step * load(h + d));
  return product.logarithm();
}

}  // namespace ffrl::FFRL_ISA

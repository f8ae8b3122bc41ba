// Determinants of as many symmetric matrices at once as a vector has lanes, one matrix a lane: no shuffles, and
// matrices of a few dozen rows keep the multiply-add units busy, which one at a time they cannot.
#pragma once

#include "log_product.hpp"
#include "simd.hpp"

namespace ffrl::FFRL_ISA {

/// A pivot is good enough where it is at least this share of its column's largest: the factors grow by at most 1 +
/// 1/share a step, and most matrices near the identity have such pivots on their diagonal.
inline constexpr double kPivotShare = 0.25;

template <class T>
class Determinants {
  static constexpr int kBlock = 4;                                   // columns eliminated at once
  static constexpr int kRows = FFRL_VECTOR_REGISTERS >= 32 ? 4 : 2;  // rows updated at once
  static constexpr std::int64_t kLane = kLanes<T>;

 public:
  /// a: (n, stride, lanes), overwritten.
  Determinants(T* a, std::int64_t n, std::int64_t stride) : a_(a), n_(n), stride_(stride) {}

  /// By L D Lᵀ, which reads the upper triangle alone and does half the work. False where a lane's diagonal has a pivot
  /// that is not good enough; then nothing has been computed, and the matrix must be filled in again for `by_lu`.
  bool by_symmetric_elimination(T* log_abs, T* sign) {
    start();
    for (std::int64_t k = 0; k < n_; k += kBlock) {
      const std::int64_t end = k + kBlock < n_ ? k + kBlock : n_;
      for (std::int64_t i = k; i < end; ++i)
        if (!eliminate(k, i)) return false;
      // A block that is not whole is the last.
      std::int64_t i = end;
      for (; i + kRows <= n_; i += kRows) update_triangle<kRows>(k, i);
      for (; i < n_; ++i) update_triangle<1>(k, i);
    }
    finish(log_abs, sign);
    return true;
  }

  /// By LU with exchanges of rows. log_abs and sign: (lanes,); −inf and 0 of a singular matrix.
  void by_lu(T* log_abs, T* sign) {
    start();
    for (std::int64_t k = 0; k < n_; k += kBlock) {
      const std::int64_t end = k + kBlock < n_ ? k + kBlock : n_;
      factor_columns(k, end);
      if (end == n_) break;
      solve_rows(k, end);
      update(k, end);
    }
    finish(log_abs, sign);
  }

 private:
  T* at(std::int64_t i, std::int64_t j) const { return a_ + (i * stride_ + j) * kLane; }

  void start() {
    product_ = {};
    sign_ = broadcast(T(1));
  }

  void finish(T* log_abs, T* sign) {
    product_.logarithms(log_abs);
    for (int lane = 0; lane < kLane; ++lane) sign[lane] = sign_[lane];
  }

  FFRL_INLINE void take_pivot(Vec<T> pivot) {
    product_.multiply(pivot);
    sign_ = pivot < T(0) ? -sign_ : pivot == T(0) ? Vec<T>{} : sign_;
  }

  // Rows from … k − 1 of the block have been eliminated: applies them to row k, right of the diagonal, and inverts its
  // pivot. False where the pivot is not good enough.
  bool eliminate(std::int64_t from, std::int64_t k) {
    for (std::int64_t m = from; m < k; ++m) {
      const Vec<T> factor = load(at(m, k)) * inverse_[m - from];
      for (std::int64_t j = k; j < n_; ++j) store(at(k, j), load(at(k, j)) - factor * load(at(m, j)));
    }
    const Vec<T> pivot = load(at(k, k));
    Vec<T> largest{};
    for (std::int64_t j = k + 1; j < n_; ++j) {
      const Vec<T> x = absolute(load(at(k, j)));
      largest = x > largest ? x : largest;
    }
    const auto good = absolute(pivot) >= T(kPivotShare) * largest;
    for (int lane = 0; lane < kLane; ++lane)
      if (!good[lane]) return false;
    take_pivot(pivot);
    inverse_[k - from] = pivot == T(0) ? Vec<T>{} : T(1) / pivot;
    return true;
  }

  // Rows i … i + kCount − 1 from the diagonal of the first on, minus those of the block times their factors.
  template <int kCount>
  void update_triangle(std::int64_t from, std::int64_t i) {
    Vec<T> factor[kCount][kBlock];
#pragma GCC unroll 4
    for (int r = 0; r < kCount; ++r)
#pragma GCC unroll 4
      for (int k = 0; k < kBlock; ++k) factor[r][k] = load(at(from + k, i + r)) * inverse_[k];
    for (std::int64_t j = i; j < n_; ++j) {
      Vec<T> u[kBlock];
#pragma GCC unroll 4
      for (int k = 0; k < kBlock; ++k) u[k] = load(at(from + k, j));
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        Vec<T> x = load(at(i + r, j));
#pragma GCC unroll 4
        for (int k = 0; k < kBlock; ++k) x -= factor[r][k] * u[k];
        store(at(i + r, j), x);
      }
    }
  }

  void factor_columns(std::int64_t from, std::int64_t end) {
    for (std::int64_t k = from; k < end; ++k) {
      pivot(from, k);
      const Vec<T> diagonal = load(at(k, k));
      take_pivot(diagonal);
      const Vec<T> inverse = diagonal == T(0) ? Vec<T>{} : T(1) / diagonal;
      for (std::int64_t i = k + 1; i < n_; ++i) {
        const Vec<T> factor = load(at(i, k)) * inverse;
        store(at(i, k), factor);
        for (std::int64_t j = k + 1; j < end; ++j) store(at(i, j), load(at(i, j)) - factor * load(at(k, j)));
      }
    }
  }

  // Exchanges rows from column `from` on, in the lanes that need it.
  void pivot(std::int64_t from, std::int64_t k) {
    const Vec<T> here = absolute(load(at(k, k)));
    Vec<T> largest = here;
    for (std::int64_t i = k + 1; i < n_; ++i) {
      const Vec<T> x = absolute(load(at(i, k)));
      largest = x > largest ? x : largest;
    }
    const Vec<T> enough = T(kPivotShare) * largest;
    for (int lane = 0; lane < kLane; ++lane) {
      if (!(here[lane] < enough[lane])) continue;
      std::int64_t row = k + 1;
      while (row + 1 < n_ && __builtin_fabs(at(row, k)[lane]) < largest[lane]) ++row;
      for (std::int64_t j = from; j < n_; ++j) {
        const T x = at(k, j)[lane];
        at(k, j)[lane] = at(row, j)[lane];
        at(row, j)[lane] = x;
      }
      sign_[lane] = -sign_[lane];
    }
  }

  static FFRL_INLINE Vec<T> absolute(Vec<T> x) { return x < T(0) ? -x : x; }

  // Rows from … end of U, columns from `end` on.
  void solve_rows(std::int64_t from, std::int64_t end) {
    for (std::int64_t k = from + 1; k < end; ++k)
      for (std::int64_t m = from; m < k; ++m) {
        const Vec<T> factor = load(at(k, m));
        for (std::int64_t j = end; j < n_; ++j) store(at(k, j), load(at(k, j)) - factor * load(at(m, j)));
      }
  }

  // The rest of the matrix minus L · U of this block; a block that is not the last is whole.
  void update(std::int64_t from, std::int64_t end) {
    std::int64_t i = end;
    for (; i + kRows <= n_; i += kRows) update_rows<kRows>(from, end, i);
    for (; i < n_; ++i) update_rows<1>(from, end, i);
  }

  template <int kCount>
  void update_rows(std::int64_t from, std::int64_t end, std::int64_t i) {
    Vec<T> factor[kCount][kBlock];
#pragma GCC unroll 4
    for (int r = 0; r < kCount; ++r)
#pragma GCC unroll 4
      for (int k = 0; k < kBlock; ++k) factor[r][k] = load(at(i + r, from + k));
    for (std::int64_t j = end; j < n_; ++j) {
      Vec<T> u[kBlock];
#pragma GCC unroll 4
      for (int k = 0; k < kBlock; ++k) u[k] = load(at(from + k, j));
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        Vec<T> x = load(at(i + r, j));
#pragma GCC unroll 4
        for (int k = 0; k < kBlock; ++k) x -= factor[r][k] * u[k];
        store(at(i + r, j), x);
      }
    }
  }

  T* a_;
  std::int64_t n_, stride_;
  LogProduct<T> product_;
  Vec<T> sign_{};
  Vec<T> inverse_[kBlock];  // of the pivots of a block
};

}  // namespace ffrl::FFRL_ISA

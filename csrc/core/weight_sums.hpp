// Sums over rows of the parameter gradients, one slot for each potential that a thread works on.
#pragma once

#include "layout.hpp"
#include "memory.hpp"
#include "simd.hpp"

namespace ffrl::FFRL_ISA {

/// The sums of one potential at one moment. The vectors and scalars, which grow by one tile at a time over all rows,
/// are compensated (Kahan): what each addition loses is kept `compensation` elements behind the sum. The matrices need
/// no compensation, since a tile's outer product is formed before it is added.
template <class T>
struct WeightSums {
  T* w_in;     // (H, Dp); null when weight gradients are not wanted
  T* w_hid;    // (L, H, Hp)
  T* b_in;     // (Hp,)
  T* b_first;  // (Hp,) of the first hidden layer, at this moment: dL/dτ follows from it
  T* b_hid;    // (L, Hp), its first row not used
  T* w_out;    // (Hp,)
  T* dtau;     // (Hp,) at this moment, used where all rows share one time
  T* tangent;  // (Dp,) where the rows share a direction; null: not wanted
  T* b_out;    // scalar
  T* energy;   // scalar
  T* time;     // scalar: the gradient of −E t with respect to t, at this moment
  bool fresh;  // the matrices hold nothing yet: write instead of adding
  std::int64_t compensation;

  void add(T* sum, T x) const {
    T& lost = sum[compensation];
    const T y = x - lost, total = *sum + y;
    lost = (total - *sum) - y;
    *sum = total;
  }

  /// sums[column …] += part
  template <int N>
  FFRL_INLINE void add_columns(T* sums, std::int64_t column, const Vec<T> (&part)[N]) const {
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      T* at = sums + column + j * kLanes<T>;
      const Vec<T> sum = load(at), y = part[j] - load(at + compensation), total = sum + y;
      store(at + compensation, (total - sum) - y);
      store(at, total);
    }
  }
};

template <class T>
class Slots {
 public:
  Slots(const NetworkShape& shape, std::int64_t count, std::int64_t moments, bool matrices, bool tangent,
        Carver& memory)
      : shape_(shape), matrices_(matrices), tangent_(tangent), size_(count), moments_(moments) {
    const std::int64_t hp = padded<T>(shape.width), dp = padded<T>(shape.dim);
    moment_ = 2 * hp + padded<T>(1);
    sums_ = hp * (2 + shape.depth) + padded<T>(2) + moments * moment_ + (tangent ? dp : 0);
    matrix_size_ = matrices ? shape.width * (dp + shape.depth * hp) : 0;
    stride_ = matrix_size_ + 2 * sums_;
    memory_ = memory.take<T>(count * stride_);
    fresh_ = memory.take<bool>(count);
  }

  std::int64_t size() const { return size_; }
  std::int64_t moments() const { return moments_; }

  void clear(std::int64_t slot) const {
    __builtin_memset(memory_ + slot * stride_ + matrix_size_, 0, 2 * sums_ * sizeof(T));
    fresh_[slot] = true;
  }

  /// After a tile's outer products have been summed.
  void used(std::int64_t slot) const { fresh_[slot] = false; }

  WeightSums<T> at(std::int64_t slot, std::int64_t moment) const {
    const std::int64_t hp = padded<T>(shape_.width);
    T* p = memory_ + slot * stride_;
    WeightSums<T> s{};
    if (matrices_) {
      s.w_in = p;
      s.w_hid = p + shape_.width * padded<T>(shape_.dim);
    }
    p += matrix_size_;
    s.b_in = p;
    s.w_out = p + hp;
    s.b_hid = p + 2 * hp;
    s.b_out = s.b_hid + shape_.depth * hp;
    s.energy = s.b_out + 1;
    s.b_first = s.b_out + padded<T>(2) + moment * moment_;
    s.dtau = s.b_first + hp;
    s.time = s.dtau + hp;
    s.tangent = tangent_ ? s.b_out + padded<T>(2) + moments_ * moment_ : nullptr;
    s.fresh = fresh_[slot];
    s.compensation = sums_;
    return s;
  }

 private:
  NetworkShape shape_;
  bool matrices_, tangent_;
  std::int64_t size_, moments_, moment_, sums_, matrix_size_, stride_;
  T* memory_;
  bool* fresh_;
};

}  // namespace ffrl::FFRL_ISA

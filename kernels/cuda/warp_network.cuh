// One network with one hidden layer on the sixteen rows of a warp: what the rows go through stays in registers, from
// the first product to the last. The weights lie in shared memory; nothing is exchanged between warps.
#pragma once

#include "operand.cuh"

namespace ffrl::cuda {

/// A network's weights padded with zeros to kWidth units and whole tiles of features, as a warp's products want them:
/// w_in (kWidth, in_pitch) and w_hid (kWidth, hid_pitch) in operand precision, then b_in, b_1, w_out (kWidth,) and
/// b_out in float32. Sizes are in words.
template <class P, int kWidth>
struct OperandImage {
  using Chain = Chained<P>;
  /// Operands are of 16 inner indices. A width that is none of them ends with half an operand, so that shared memory
  /// holds wider weights.
  static constexpr int kWhole = kWidth % 16 ? 8 : 16;
  int features;

  __host__ __device__ explicit OperandImage(int dim) : features((dim + kWhole - 1) / kWhole * kWhole) {}
  /// Half an operand more or less than whole ones keeps the rows that a warp reads at a time in different banks.
  __host__ __device__ static constexpr int pitch_of(int size) { return size % 16 ? size : size + Chain::kPad; }
  __host__ __device__ int in_pitch() const { return pitch_of(features); }
  __host__ __device__ static constexpr int hid_pitch() { return pitch_of(kWidth); }
  __host__ __device__ int hid_at() const { return kWidth * in_pitch() / Chain::kPerWord; }
  __host__ __device__ int vectors_at() const { return hid_at() + kWidth * hid_pitch() / Chain::kPerWord; }
  __host__ __device__ int size() const { return vectors_at() + 3 * kWidth + 4; }
};

template <class P, int kWidth>
struct WarpNetwork {
  using Image = OperandImage<P, kWidth>;
  using Chain = Chained<P>;
  using Element = typename Chain::Element;
  static constexpr int kTiles = kWidth / 8, kOperands = (kWidth + 15) / 16;

  Image image;
  const float* words;  // the image, in shared memory
  const float* tau;    // (kWidth,), in shared memory; null: 0
  int lane;

  typename Chain::Operand s[kOperands];  // a + τ; at last g_a
  float v[kTiles][4];                    // W_inᵀ z, then v = Wᵀ ĥ

  __device__ __forceinline__ const Element* w_in() const { return reinterpret_cast<const Element*>(words); }
  __device__ __forceinline__ const Element* w_hid() const {
    return reinterpret_cast<const Element*>(words + image.hid_at());
  }
  /// Elements n, n + 1 of b_in (0), b_1 (1), w_out (2).
  __device__ __forceinline__ float2 vector(int which, int n) const {
    return *reinterpret_cast<const float2*>(words + image.vectors_at() + which * kWidth + n);
  }
  __device__ __forceinline__ float b_out() const { return words[image.vectors_at() + 3 * kWidth]; }
  __device__ __forceinline__ float2 tau_at(int n) const {
    return tau ? *reinterpret_cast<const float2*>(tau + n) : float2{0, 0};
  }
  __device__ __forceinline__ static float of(const float2& pair, int e) { return e & 1 ? pair.y : pair.x; }

  /// Whether both halves of the operand that begins at `first` are among `size` indices. Where the second of a
  /// product's results is not, the first is computed twice: one multiplication for nothing, and no branch.
  __device__ __forceinline__ static bool both(int first, int size) { return Image::kWhole == 16 || first + 8 < size; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int j = 0; j < kTiles; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) v[j][e] = 0;
  }

  /// s = tanh(W_in z + b_in) + τ. z(i, d): column d of row g (i = 0) or g + 8 (i = 1), 0 past the last.
  template <class Z>
  __device__ __forceinline__ void input(const Z& z) {
    const int t = lane % 4;
    clear();
#pragma unroll 1
    for (int k = 0; k < image.features; k += 16) {
      float tile[2][4];
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int e = 0; e < 4; ++e) tile[half][e] = z(e >> 1, k + 8 * half + 2 * t + (e & 1));
      const auto operand = Chain::pack(tile[0], tile[1]);
#pragma unroll
      for (int j = 0; j < kTiles; ++j)
        Chain::multiply_add(v[j], operand,
                            Chain::rows(w_in(), image.in_pitch(), 8 * j, k, lane, both(k, image.features)));
    }
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const float2 b = vector(0, 8 * j + 2 * t), add = tau_at(8 * j + 2 * t);
#pragma unroll
      for (int e = 0; e < 4; ++e) v[j][e] = P::tanh(v[j][e] + of(b, e)) + of(add, e);
      constexpr float kNothing[4] = {};
      if (j % 2 == 1)
        s[j / 2] = Chain::pack(v[j - 1], v[j]);
      else if (j + 1 == kTiles)
        s[j / 2] = Chain::pack(v[j], kNothing);
    }
  }

  /// o[i] = w_out · c + b_out of rows g and g + 8; with kDerivatives v = Wᵀ ĥ. W is read once for both products:
  /// sixteen units of c and ĥ at a time.
  template <bool kDerivatives>
  __device__ __forceinline__ void hidden(float (&o)[2]) {
    const int t = lane % 4;
    clear();
    o[0] = o[1] = 0;
#pragma unroll 1
    for (int n = 0; n < kWidth; n += 16) {
      float c[2][4] = {};
      const bool second = both(n, kWidth);
#pragma unroll
      for (int k = 0; k < kOperands; ++k)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          Chain::multiply_add(
              c[half], s[k],
              Chain::rows(w_hid(), image.hid_pitch(), n + (second ? 8 * half : 0), 16 * k, lane, both(16 * k, kWidth)));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = n + (second ? 8 * half : 0) + 2 * t;
        const float2 b = vector(1, at), w = half == 0 || second ? vector(2, at) : float2{0, 0};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float x = P::tanh(c[half][e] + of(b, e));
          o[e >> 1] += of(w, e) * x;
          c[half][e] = of(w, e) * (1 - x * x);
        }
      }
      if (!kDerivatives) continue;
      const auto hat = Chain::pack(c[0], c[1]);
#pragma unroll
      for (int j = 0; j < kTiles; ++j)
        Chain::multiply_add(v[j], hat, Chain::columns(w_hid(), image.hid_pitch(), n, 8 * j, lane, second));
    }
    sum_over_columns(o);
    o[0] += b_out();
    o[1] += b_out();
  }

  /// s becomes g_a = φ' v ⊙ (1 − a²), and dt[i] = φ' v · dτ/dt; `slope` is φ' of rows g and g + 8.
  __device__ __forceinline__ void gradient_operand(const float (&slope)[2], const float* dtau, float (&dt)[2]) {
    const int t = lane % 4;
    dt[0] = dt[1] = 0;
#pragma unroll
    for (int j = 0; j < kOperands; ++j) {
      float a[2][4];
      Chain::unpack(s[j], a[0], a[1]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (2 * j + half >= kTiles) continue;  // zero before, zero now
        const int at = 16 * j + 8 * half + 2 * t;
        const float2 subtract = tau_at(at);
        const float2 rate = dtau ? *reinterpret_cast<const float2*>(dtau + at) : float2{0, 0};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float y = a[half][e] - of(subtract, e), g_s = slope[e >> 1] * v[2 * j + half][e];
          dt[e >> 1] += g_s * of(rate, e);
          a[half][e] = g_s * (1 - y * y);
        }
      }
      s[j] = Chain::pack(a[0], a[1]);
    }
    sum_over_columns(dt);
  }

  /// to(i, d, ∂u/∂z_d) of rows g (i = 0) and g + 8 (i = 1).
  template <class To>
  __device__ __forceinline__ void gradient(To to) const {
    const int t = lane % 4;
#pragma unroll 1
    for (int d = 0; d < image.features; d += 16) {
      float sum[2][4] = {};
      const bool second = both(d, image.features);
#pragma unroll
      for (int k = 0; k < kOperands; ++k)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          Chain::multiply_add(sum[half], s[k],
                              Chain::columns(w_in(), image.in_pitch(), 16 * k, d + (second ? 8 * half : 0), lane,
                                             both(16 * k, kWidth)));
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (half == 0 || second) to(e >> 1, d + 8 * half + 2 * t + (e & 1), sum[half][e]);
    }
  }

  /// The four lanes of a row have its sum in four parts.
  __device__ __forceinline__ static void sum_over_columns(float (&x)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      x[i] += __shfl_xor_sync(0xffffffffu, x[i], 1);
      x[i] += __shfl_xor_sync(0xffffffffu, x[i], 2);
    }
  }
};

}  // namespace ffrl::cuda

// Products of row tiles with packed weights, and the outer products of weight gradients.
//
// A weight matrix is packed into panels of one to four vectors of columns. The register tile of a panel is chosen by
// loads per multiply-add: the processor does not sustain two vector loads a cycle, so a tile of M rows × N vectors,
// which loads M + N operands for M·N multiply-adds, should be near square and fill the register file.
#pragma once

#include "layout.hpp"
#include "simd.hpp"

namespace ffrl::FFRL_ISA {

inline constexpr int kMaxPanel = FFRL_VECTOR_REGISTERS >= 32 ? 4 : 3;

/// Rows of the register tile for a panel of `vectors` columns: accumulators, one row of the panel and one broadcast
/// value fill the registers. All divide kTileRows.
constexpr int tile_height(int vectors) {
  if (FFRL_VECTOR_REGISTERS >= 32) return vectors == 4 ? 6 : vectors == 3 ? 8 : 12;
  return vectors == 3 ? 4 : vectors == 2 ? 6 : 12;
}

/// Width of the next panel when `left` vectors of columns remain: as few narrow panels as possible, no padding.
constexpr int panel_width(std::int64_t left) {
  if (left <= kMaxPanel) return static_cast<int>(left);
  if (kMaxPanel == 4) return left % 4 == 0 ? 4 : 3;
  return left % 3 == 0 ? 3 : 2;
}

/// w (inner, columns) with w[k, n] = source[k·row_step + n·column_step], one of the two steps being 1; in panels at
/// `data`: panel after panel, each (inner, its columns), the last vector padded with zeros. Where `data` is null the
/// weights are read where they lie, which needs readable elements behind the last row up to a whole cache line.
template <class T>
struct Panels {
  T* data;
  const T* source;
  std::int64_t inner, columns;
  std::int64_t row_step, column_step;

  std::int64_t vectors() const { return padded<T>(columns) / kLanes<T>; }  // of columns, all panels together
};

template <class T>
constexpr std::int64_t panels_size(std::int64_t inner, std::int64_t columns) {
  return inner * padded<T>(columns);
}

template <class T>
void pack(const Panels<T>& w) {
  for (std::int64_t at = 0; at < w.vectors();) {
    const int width = panel_width(w.vectors() - at) * kLanes<T>;
    const std::int64_t first = at * kLanes<T>;
    const std::int64_t real = w.columns - first < width ? (w.columns > first ? w.columns - first : 0) : width;
    T* out = w.data + first * w.inner;
    const T* in = w.source + first * w.column_step;
    if (w.column_step == 1) {
      for (std::int64_t k = 0; k < w.inner; ++k) copy(real, in + k * w.row_step, out + k * width);
    } else {
      const std::int64_t whole_n = real / kLanes<T> * kLanes<T>, whole_k = w.inner / kLanes<T> * kLanes<T>;
      for (std::int64_t n = 0; n < whole_n; n += kLanes<T>)
        for (std::int64_t k = 0; k < whole_k; k += kLanes<T>)
          transpose_block(in + n * w.column_step + k, w.column_step, out + k * width + n, width);
      for (std::int64_t n = 0; n < real; ++n)
        for (std::int64_t k = n < whole_n ? whole_k : 0; k < w.inner; ++k)
          out[k * width + n] = in[n * w.column_step + k];
    }
    if (real < width)
      for (std::int64_t k = 0; k < w.inner; ++k)
        for (std::int64_t n = real; n < width; ++n) out[k * width + n] = T(0);
    at += width / kLanes<T>;
  }
}

/// A compile-time panel width, as an argument.
template <int N>
struct Width {
  static constexpr int value = N;
};

/// Weights that are fetched into the first-level cache while a register tile runs: a cache line for each step of its
/// inner loop. All weights and weight sums of a network of a few hundred units exceed the second-level cache, and the
/// processor's own prefetcher sees the jump to the next panel too late.
template <class T>
struct Ahead {
  const T* from;
  std::int64_t step;  // elements
};

/// y[i, :] = Σ_k x[i, k] panel[k, :] for M rows of N vectors, += with `add`. Not inlined: inside a larger function the
/// compiler spills the accumulators.
template <class T, int M, int N>
[[gnu::noinline]] void register_tile(std::int64_t inner, const T* x, std::int64_t x_stride, const T* panel,
                                     std::int64_t panel_stride, T* y, std::int64_t y_stride, bool add, Ahead<T> ahead) {
  Vec<T> sum[M][N] = {};
#pragma GCC unroll 1
  for (std::int64_t k = 0; k < inner; ++k) {
    Vec<T> w[N];
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) w[j] = load(panel + j * kLanes<T>);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const Vec<T> xi = broadcast(x[i * x_stride]);
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) sum[i][j] += xi * w[j];
    }
    __builtin_prefetch(ahead.from);
    ahead.from += ahead.step;
    ++x;
    panel += panel_stride;
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      T* at = y + i * y_stride + j * kLanes<T>;
      store(at, add ? load(at) + sum[i][j] : sum[i][j]);
    }
}

/// Outer products over the rows of a tile that are summed into one weight gradient: Σ_pairs pᵀ q, p (rows, ·) and
/// q (rows, ·).
template <class T>
struct OuterPairs {
  std::int64_t p_stride, q_stride;
  int count = 0;
  const T *p[4] = {}, *q[4] = {};

  OuterPairs(std::int64_t p_stride, std::int64_t q_stride) : p_stride(p_stride), q_stride(q_stride) {}
  void add(const T* of_p, const T* of_q) {
    p[count] = of_p;
    q[count++] = of_q;
  }
};

/// g[i, :] += Σ_pairs Σ_r p[r, i] q[r, :] (= where `add` is false) for M columns of the p from `row` on and N vectors
/// of the q from `column` on: all outer products of a weight gradient in one pass over g. The tile's own sum is formed
/// before g is added, so that rounding errors grow with the number of tiles, not of rows.
template <class T, int M, int N>
[[gnu::noinline]] void outer_tile(std::int64_t rows, const OuterPairs<T>& pairs, std::int64_t row, std::int64_t column,
                                  T* g, std::int64_t g_stride, bool add) {
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) __builtin_prefetch(g + i * g_stride + j * kLanes<T>, 1);
  const std::int64_t p_stride = pairs.p_stride, q_stride = pairs.q_stride;
  Vec<T> sum[M][N] = {};
  for (int pair = 0; pair < pairs.count; ++pair) {
    const T* pr = pairs.p[pair] + row;
    const T* qr = pairs.q[pair] + column;
#pragma GCC unroll 1
    for (std::int64_t r = 0; r < rows; ++r) {
      Vec<T> qv[N];
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) qv[j] = load(qr + j * kLanes<T>);
#pragma GCC unroll 16
      for (int i = 0; i < M; ++i) {
        const Vec<T> pi = broadcast(pr[i]);
#pragma GCC unroll 4
        for (int j = 0; j < N; ++j) sum[i][j] += pi * qv[j];
      }
      pr += p_stride;
      qr += q_stride;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      T* at = g + i * g_stride + j * kLanes<T>;
      store(at, add ? load(at) + sum[i][j] : sum[i][j]);
    }
}

/// The tile functions of one panel width by height, 1 … tile_height.
template <class T, int N>
struct TilesByHeight {
  static constexpr int kHeight = tile_height(N);
  using Register = void (*)(std::int64_t, const T*, std::int64_t, const T*, std::int64_t, T*, std::int64_t, bool,
                            Ahead<T>);
  using Outer = void (*)(std::int64_t, const OuterPairs<T>&, std::int64_t, std::int64_t, T*, std::int64_t, bool);
  Register multiply[kHeight];
  Outer outer[kHeight];

  template <int M = kHeight>
  constexpr void fill() {
    multiply[M - 1] = register_tile<T, M, N>;
    outer[M - 1] = outer_tile<T, M, N>;
    if constexpr (M > 1) fill<M - 1>();
  }
  constexpr TilesByHeight() : multiply{}, outer{} { fill(); }
};

template <class T, int N>
inline constexpr TilesByHeight<T, N> kTiles{};

/// A part of a product that a thread takes.
struct Share {
  int number = 0, of = 1;
};

/// Where a share of the panels of `vectors` columns begins: at the edge of a panel.
constexpr std::int64_t first_panel(std::int64_t vectors, int number, int of) {
  if (number == 0) return 0;
  if (number == of) return vectors;
  const std::int64_t wanted = vectors * number / of;
  for (std::int64_t at = 0; at < vectors;) {
    const int width = panel_width(vectors - at);
    if (2 * at + width > 2 * wanted) return at;
    at += width;
  }
  return vectors;
}

/// Calls f(Width<N>, first vector) for each panel of `vectors` columns, or of a share of them.
template <class F>
FFRL_INLINE void for_each_panel(std::int64_t vectors, Share share, F f) {
  const std::int64_t end = first_panel(vectors, share.number + 1, share.of);
  for (std::int64_t at = first_panel(vectors, share.number, share.of); at < end;) {
    const int width = panel_width(vectors - at);
    switch (width) {
      case 1:
        f(Width<1>{}, at);
        break;
      case 2:
        f(Width<2>{}, at);
        break;
      case 3:
        f(Width<3>{}, at);
        break;
      default:
        if constexpr (kMaxPanel == 4) f(Width<4>{}, at);
    }
    at += width;
  }
}

/// Bytes of a panel that stay in the first-level cache while all rows of a tile pass it; a deeper panel is cut.
inline constexpr std::int64_t kPanelBytes = 32 * 1024;

/// Columns `from` … `end` of y (rows, columns) = x (rows, inner) · wᵀ for w (columns, inner) read where it lies, the
/// rest of the last vector zero: for products of few rows, which read each weight no more often than packing would.
template <class T>
void multiply_in_place(std::int64_t rows, const T* x, std::int64_t x_stride, const Panels<T>& w, T* y,
                       std::int64_t y_stride, std::int64_t from, std::int64_t end) {
  constexpr int kUnroll = 4;
  const std::int64_t last = end < w.columns ? end : w.columns;
  const std::int64_t whole = w.inner / kLanes<T> * kLanes<T>;
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* xr = x + r * x_stride;
    T* yr = y + r * y_stride;
    for (std::int64_t n = from; n < last; n += kUnroll) {
      const T* unit[kUnroll];
      Vec<T> sum[kUnroll] = {};
#pragma GCC unroll 4
      for (int i = 0; i < kUnroll; ++i) unit[i] = w.source + (n + i < last ? n + i : n) * w.column_step;
      for (std::int64_t k = 0; k < whole; k += kLanes<T>) {
        const Vec<T> xk = load(xr + k);
#pragma GCC unroll 4
        for (int i = 0; i < kUnroll; ++i) sum[i] += xk * load(unit[i] + k);
      }
#pragma GCC unroll 4
      for (int i = 0; i < kUnroll; ++i) {
        T total = horizontal_sum<T>(sum[i]);
        for (std::int64_t k = whole; k < w.inner; ++k) total += xr[k] * unit[i][k];
        if (n + i < last) yr[n + i] = total;
      }
    }
    for (std::int64_t n = w.columns > from ? w.columns : from; n < end; ++n) yr[n] = T(0);
  }
}

/// The part of a product that a register tile has just finished: rows first … end, columns from `column` on. Of whose
/// share it is.
struct Patch {
  std::int64_t first, end, column;
  int share = 0;
};

template <class T>
FFRL_INLINE void clear_columns(std::int64_t rows, std::int64_t from, std::int64_t to, T* y, std::int64_t y_stride) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t n = from; n < to; ++n) y[r * y_stride + n] = T(0);
}

/// y (rows, columns) = x (rows, inner) · w. While a patch of y is still in the first-level cache, and while the
/// processor can already begin with the next, `epilogue(Width<N>, patch)` may transform it in place. Of a share, its
/// columns alone.
template <class T, class Epilogue>
FFRL_INLINE void multiply(std::int64_t rows, const T* x, std::int64_t x_stride, const Panels<T>& w, T* y,
                          std::int64_t y_stride, Share share, Epilogue epilogue) {
  const std::int64_t vectors = w.vectors();
  const bool done = !w.data && w.column_step != 1;
  if (done)
    multiply_in_place(rows, x, x_stride, w, y, y_stride, first_panel(vectors, share.number, share.of) * kLanes<T>,
                      first_panel(vectors, share.number + 1, share.of) * kLanes<T>);
  for_each_panel(vectors, share, [&](auto width, std::int64_t at) {
    constexpr int n = decltype(width)::value;
    using Tiles = TilesByHeight<T, n>;
    const std::int64_t column = at * kLanes<T>;
    if (done) return epilogue(width, Patch{0, rows, column, share.number});
    const T* const panel = w.data ? w.data + column * w.inner : w.source + column;
    const std::int64_t panel_stride = w.data ? n * kLanes<T> : w.row_step;
    constexpr std::int64_t line = 64 / sizeof(T), most = kPanelBytes / (n * FFRL_VECTOR_BYTES);
    const std::int64_t blocks = (w.inner + most - 1) / most, depth = (w.inner + blocks - 1) / blocks;
    // The register tiles of a panel share the next one between them.
    const std::int64_t tiles = (rows + Tiles::kHeight - 1) / Tiles::kHeight, part = n * kLanes<T> / tiles;
    const std::int64_t step = part < line ? part : line;
    for (std::int64_t k = 0; k < w.inner; k += depth) {
      const std::int64_t inner = w.inner - k < depth ? w.inner - k : depth;
      Ahead<T> ahead{panel + (k + inner) * panel_stride, step};
      for (std::int64_t r = 0; r < rows; r += Tiles::kHeight) {
        const std::int64_t height = rows - r < Tiles::kHeight ? rows - r : Tiles::kHeight;
        T* const to = y + r * y_stride + column;
        kTiles<T, n>.multiply[height - 1](inner, x + r * x_stride + k, x_stride, panel + k * panel_stride, panel_stride,
                                          to, y_stride, k > 0, ahead);
        ahead.from += inner * step;
        if (k + inner < w.inner) continue;
        if (!w.data) clear_columns(height, w.columns - column, n * kLanes<T>, to, y_stride);
        epilogue(width, Patch{r, r + height, column, share.number});
      }
    }
  });
}

/// As an epilogue: the product as it is.
inline constexpr auto kNoEpilogue = [](auto, Patch) {};

/// g (n, columns) += Σ_pairs pᵀ q over the rows of a tile, = where `add` is false. Of a share, its rows of g alone.
template <class T>
void add_outer(std::int64_t rows, std::int64_t n, std::int64_t columns, const OuterPairs<T>& pairs, T* g, bool add,
               Share share) {
  const std::int64_t stride = padded<T>(columns);
  for_each_panel(stride / kLanes<T>, Share{}, [&](auto width, std::int64_t at) {
    constexpr int w = decltype(width)::value;
    using Tiles = TilesByHeight<T, w>;
    const std::int64_t column = at * kLanes<T>;
    const auto edge = [&](int number) {
      return number == 0 ? 0 : number == share.of ? n : n * number / share.of / Tiles::kHeight * Tiles::kHeight;
    };
    const std::int64_t end = edge(share.number + 1);
    for (std::int64_t i = edge(share.number); i < end; i += Tiles::kHeight) {
      const std::int64_t height = end - i < Tiles::kHeight ? end - i : Tiles::kHeight;
      kTiles<T, w>.outer[height - 1](rows, pairs, i, column, g + i * stride + column, stride, add);
    }
  });
}

}  // namespace ffrl::FFRL_ISA

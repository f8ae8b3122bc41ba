// ldmatrix, stmatrix, mma.sync.

#include "matrix.hpp"
#include "memory.hpp"

namespace ptx {
namespace {

/// Eight rows of 16 bytes for each matrix; lane 8·i + r gives the address of row r of matrix i.
struct Rows {
  int matrices;
  bool transposed;
  Address address;
  std::vector<Slot> slots;
  bool generic;

  std::uint64_t of(Warp& warp, int lane) const {
    std::uint64_t at = address.of(warp, lane);
    if (generic) {
      if (at >> kWindowBits != kSharedWindow) throw Fault("a generic address that is not of shared memory");
      at -= kSharedWindow << kWindowBits;
    }
    return at;
  }
};

Rows take_rows(Decoder& d, std::size_t address, std::size_t registers, bool target) {
  if (!d.take("sync") || !d.take("aligned") || !d.take("m8n8")) d.refuse("not known: this shape");
  Rows out;
  out.matrices = d.one_of({"x1", "x2", "x4"})[1] - '0';
  out.transposed = d.take("trans");
  out.generic = !d.take("shared") && !d.take("shared::cta");
  if (d.type() != Type::b16) d.refuse("not known: this type");
  out.address = d.address(address);
  for (const auto& name : d.vector(registers)) out.slots.push_back(target ? d.target(name) : d.source(name, Type::b32));
  if (out.slots.size() != static_cast<std::size_t>(out.matrices)) d.refuse("the registers do not fit the matrices");
  for (const Slot slot : out.slots)
    if (slot.width != 4) d.refuse("a matrix register must have 32 bits");
  return out;
}

/// Lane l holds elements (l / 4, 2 (l % 4) + part), or transposed.
int element_at(bool transposed, int lane, int part) {
  const int row = lane / 4, column = 2 * (lane % 4) + part;
  return transposed ? column * 8 + row : row * 8 + column;
}

Execute decode_ldmatrix(Decoder& d) {
  return [rows = take_rows(d, 1, 0, true)](Warp& warp, Lanes mask) {
    need_whole_warp(mask);
    std::uint16_t matrix[4][64];
    for (int i = 0; i < 8 * rows.matrices; ++i)
      std::memcpy(&matrix[i / 8][i % 8 * 8], warp.block->shared.load(warp, i, rows.of(warp, i), 16), 16);
    for (int m = 0; m < rows.matrices; ++m)
      for (int lane = 0; lane < kWarp; ++lane)
        for (int part = 0; part < 2; ++part)
          warp.at<std::uint16_t>(rows.slots[m])[2 * lane + part] = matrix[m][element_at(rows.transposed, lane, part)];
  };
}

Execute decode_stmatrix(Decoder& d) {
  return [rows = take_rows(d, 0, 1, false)](Warp& warp, Lanes mask) {
    need_whole_warp(mask);
    for (int m = 0; m < rows.matrices; ++m) {
      std::uint16_t matrix[64];
      for (int lane = 0; lane < kWarp; ++lane)
        for (int part = 0; part < 2; ++part)
          matrix[element_at(rows.transposed, lane, part)] = warp.at<std::uint16_t>(rows.slots[m])[2 * lane + part];
      for (int r = 0; r < 8; ++r)
        warp.block->shared.store(warp, 8 * m + r, rows.of(warp, 8 * m + r), 16,
                                 reinterpret_cast<const std::byte*>(matrix + 8 * r));
    }
  };
}

std::vector<Slot> registers(Decoder& d, std::size_t operand, int bytes, std::size_t count, bool target) {
  std::vector<Slot> out;
  const Type type = bytes == 8 ? Type::f64 : Type::f32;
  for (const auto& name : d.vector(operand)) {
    out.push_back(target ? d.target(name) : d.source(name, type));
    if (out.back().width != bytes) d.refuse("fragment register " + name + " has another width");
  }
  if (out.size() != count)
    d.refuse("a fragment of " + std::to_string(out.size()) + " registers, not " + std::to_string(count));
  return out;
}

/// m16n8: D = A B + C in single precision.
Execute mma_m16n8(Decoder& d, Type type, int k) {
  const int e = type == Type::tf32 ? 1 : 2, size = 4 / e;
  const std::size_t a_count = 16 * k / kWarp / e, b_count = 8 * k / kWarp / e;
  const auto to = registers(d, 0, 4, 4, true), a = registers(d, 1, 4, a_count, false),
             b = registers(d, 2, 4, b_count, false), c = registers(d, 3, 4, 4, false);
  return [=](Warp& warp, Lanes mask) {
    need_whole_warp(mask);
    double am[16 * 16], bm[16 * 8], cm[16 * 8];
    const FragmentA layout{e};
    for (int lane = 0; lane < kWarp; ++lane) {
      const int g = lane >> 2, t = lane & 3;
      for (std::size_t i = 0; i < a_count; ++i)
        for (int part = 0; part < e; ++part)
          am[layout.row(lane, i) * k + layout.column(lane, i, part)] =
              element(type, warp.at<std::byte>(a[i]) + 4 * lane + size * part);
      for (std::size_t i = 0; i < b_count; ++i)
        for (int part = 0; part < e; ++part)
          bm[(t * e + part + static_cast<int>(i) * 4 * e) * 8 + g] =
              element(type, warp.at<std::byte>(b[i]) + 4 * lane + size * part);
      for (int i = 0; i < 4; ++i) cm[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)] = warp.at<float>(c[i])[lane];
    }
    multiply_add(16, 8, k, am, bm, cm);
    for (int lane = 0; lane < kWarp; ++lane)
      for (int i = 0; i < 4; ++i)
        warp.at<float>(to[i])[lane] =
            static_cast<float>(cm[((lane >> 2) + 8 * (i >> 1)) * 8 + 2 * (lane & 3) + (i & 1)]);
  };
}

/// m8n8k4 in double precision.
Execute mma_m8n8k4(Decoder& d) {
  const auto to = registers(d, 0, 8, 2, true), a = registers(d, 1, 8, 1, false), b = registers(d, 2, 8, 1, false),
             c = registers(d, 3, 8, 2, false);
  return [=](Warp& warp, Lanes mask) {
    need_whole_warp(mask);
    double am[8 * 4], bm[4 * 8], cm[8 * 8];
    for (int lane = 0; lane < kWarp; ++lane) {
      const int g = lane >> 2, t = lane & 3;
      am[g * 4 + t] = warp.at<double>(a[0])[lane];
      bm[t * 8 + g] = warp.at<double>(b[0])[lane];
      for (int i = 0; i < 2; ++i) cm[g * 8 + 2 * t + i] = warp.at<double>(c[i])[lane];
    }
    multiply_add(8, 8, 4, am, bm, cm);
    for (int lane = 0; lane < kWarp; ++lane)
      for (int i = 0; i < 2; ++i) warp.at<double>(to[i])[lane] = cm[(lane >> 2) * 8 + 2 * (lane & 3) + i];
  };
}

Execute decode_multiply(Decoder& d) {
  if (!d.take("sync") || !d.take("aligned")) d.refuse("not known: mma without .sync.aligned");
  const auto [m, n, k] = d.shape();
  if (!d.take("row") || !d.take("col")) d.refuse("not known: these layouts");
  const Type to = d.type(), a = d.type(), b = d.type(), c = d.type();
  if (a == b && to == c) {
    if (a == Type::f64 && to == Type::f64 && m == 8 && n == 8 && k == 4) return mma_m8n8k4(d);
    const bool tf32 = a == Type::tf32 && (k == 4 || k == 8);
    const bool half = (a == Type::bf16 || a == Type::f16) && (k == 8 || k == 16);
    if (m == 16 && n == 8 && to == Type::f32 && (tf32 || half)) return mma_m16n8(d, a, k);
  }
  d.refuse("not known: mma of this shape and these types");
}

}  // namespace

Execute decode_mma(Decoder& d) {
  if (d.opcode() == "ldmatrix") return decode_ldmatrix(d);
  if (d.opcode() == "stmatrix") return decode_stmatrix(d);
  if (d.opcode() == "mma") return decode_multiply(d);
  return {};
}

}  // namespace ptx

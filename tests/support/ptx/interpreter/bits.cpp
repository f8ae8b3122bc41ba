// Bits: logic, shifts, permutes, fields, counts, and mov with its packing.

#include <algorithm>

#include "decode.hpp"

namespace ptx {
namespace {

template <class Op>
Execute bitwise(Decoder& d, Op op) {
  const Type type = d.type();
  if (type == Type::pred)
    return binary<std::uint8_t>(d, type, [op](std::uint8_t a, std::uint8_t b) -> std::uint8_t { return op(a, b) & 1; });
  if (width(type) == 2) return binary<std::uint16_t>(d, type, op);
  if (width(type) == 4) return binary<std::uint32_t>(d, type, op);
  return binary<std::uint64_t>(d, type, op);
}

Execute decode_not(Decoder& d) {
  const Type type = d.type();
  if (type == Type::pred) return unary<std::uint8_t>(d, type, [](std::uint8_t a) -> std::uint8_t { return a ^ 1; });
  const auto op = [](auto a) { return static_cast<decltype(a)>(~a); };
  if (width(type) == 2) return unary<std::uint16_t>(d, type, op);
  if (width(type) == 4) return unary<std::uint32_t>(d, type, op);
  return unary<std::uint64_t>(d, type, op);
}

template <class T>
Execute shift(Decoder& d, Type type, bool left) {
  constexpr std::uint32_t bits = 8 * sizeof(T);
  if (left)
    return binary<T, T, std::uint32_t>(
        d, type, [](T x, std::uint32_t n) { return n >= bits ? T(0) : static_cast<T>(std::uint64_t(x) << n); },
        Type::u32);
  return binary<T, T, std::uint32_t>(
      d, type,
      [](T x, std::uint32_t n) {
        if (n >= bits) return std::is_signed_v<T> && x < 0 ? T(-1) : T(0);
        return static_cast<T>(x >> n);
      },
      Type::u32);
}

Execute decode_shift(Decoder& d) {
  const bool left = d.opcode() == "shl";
  const Type type = d.type();
  switch (type) {
    case Type::b16:
    case Type::u16:
      return shift<std::uint16_t>(d, type, left);
    case Type::s16:
      return shift<std::int16_t>(d, type, left);
    case Type::b32:
    case Type::u32:
      return shift<std::uint32_t>(d, type, left);
    case Type::s32:
      return shift<std::int32_t>(d, type, left);
    case Type::b64:
    case Type::u64:
      return shift<std::uint64_t>(d, type, left);
    case Type::s64:
      return shift<std::int64_t>(d, type, left);
    default:
      d.refuse("not known: this type");
  }
}

Execute decode_funnel_shift(Decoder& d) {
  const bool left = d.one_of({"l", "r"}) == "l", wrap = d.one_of({"wrap", "clamp"}) == "wrap";
  const Type type = d.type();
  return ternary<std::uint32_t>(d, type, [=](std::uint32_t low, std::uint32_t high, std::uint32_t n) {
    n = wrap ? n & 31 : std::min(n, 32u);
    const std::uint64_t both = (std::uint64_t{high} << 32) | low;
    return static_cast<std::uint32_t>(left ? (both << n) >> 32 : both >> n);
  });
}

Execute decode_lop3(Decoder& d) {
  const Type type = d.type();
  const auto table = static_cast<std::uint32_t>(d.integer(4));
  return ternary<std::uint32_t>(d, type, [table](std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    std::uint32_t out = 0;
    for (std::uint32_t i = 0; i < 8; ++i)
      out |= (0u - (table >> i & 1)) & (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return out;
  });
}

Execute decode_permute(Decoder& d) {
  const Type type = d.type();
  return ternary<std::uint32_t>(d, type, [](std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
    const std::uint64_t bytes = (std::uint64_t{b} << 32) | a;
    std::uint32_t out = 0;
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t pick = selector >> (4 * i) & 15;
      const auto byte = static_cast<std::uint32_t>(bytes >> (8 * (pick & 7)) & 0xff);
      out |= (pick & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << (8 * i);
    }
    return out;
  });
}

template <class T>
Execute extract(Decoder& d, Type type) {
  using U = std::make_unsigned_t<T>;
  const auto x = d.read<T>(1, type);
  const auto start = d.read<std::uint32_t>(2, Type::u32), length = d.read<std::uint32_t>(3, Type::u32);
  return [=, out = d.write<T>(0)](Warp& warp, Lanes mask) {
    constexpr std::uint32_t bits = 8 * sizeof(T);
    T xs[kWarp], result[kWarp];
    std::uint32_t ss[kWarp], ls[kWarp];
    const T* a = x(warp, xs);
    const std::uint32_t *s = start(warp, ss), *l = length(warp, ls);
    for (int i = 0; i < kWarp; ++i) {
      const std::uint32_t at = s[i] & 0xff, n = l[i] & 0xff;
      const bool sign = std::is_signed_v<T> && n && (U(a[i]) >> std::min(at + n - 1, bits - 1) & 1);
      const U field = at < bits ? U(a[i]) >> at : U(0);
      const U kept = n >= bits ? ~U(0) : static_cast<U>((U(1) << n) - 1);
      const U inside = at + n > bits ? (at < bits ? static_cast<U>(~U(0) >> at) & kept : U(0)) : kept;
      result[i] = static_cast<T>((field & inside) | (sign ? static_cast<U>(~inside) : U(0)));
      if (n == 0) result[i] = 0;
    }
    out(warp, result, mask);
  };
}

Execute decode_extract(Decoder& d) {
  const Type type = d.type();
  if (type == Type::u32) return extract<std::uint32_t>(d, type);
  if (type == Type::s32) return extract<std::int32_t>(d, type);
  if (type == Type::u64) return extract<std::uint64_t>(d, type);
  if (type == Type::s64) return extract<std::int64_t>(d, type);
  d.refuse("not known: this type");
}

template <class T>
Execute insert(Decoder& d, Type type) {
  const auto x = d.read<T>(1, type), y = d.read<T>(2, type);
  const auto start = d.read<std::uint32_t>(3, Type::u32), length = d.read<std::uint32_t>(4, Type::u32);
  return [=, out = d.write<T>(0)](Warp& warp, Lanes mask) {
    T xs[kWarp], ys[kWarp], result[kWarp];
    std::uint32_t ss[kWarp], ls[kWarp];
    const T *a = x(warp, xs), *b = y(warp, ys);
    const std::uint32_t *s = start(warp, ss), *l = length(warp, ls);
    for (int i = 0; i < kWarp; ++i) {
      const std::uint32_t at = s[i] & 0xff, n = l[i] & 0xff;
      const T ones = n >= 8 * sizeof(T) ? ~T(0) : (T(1) << n) - 1;
      const T field = at < 8 * sizeof(T) ? ones << at : T(0);
      result[i] = (b[i] & ~field) | (at < 8 * sizeof(T) ? (a[i] << at) & field : T(0));
    }
    out(warp, result, mask);
  };
}

Execute decode_insert(Decoder& d) {
  const Type type = d.type();
  return width(type) == 4 ? insert<std::uint32_t>(d, type) : insert<std::uint64_t>(d, type);
}

template <class T>
Execute count_bits(Decoder& d, Type type, const std::string& what) {
  if (what == "popc") return unary<T, std::uint32_t>(d, type, [](T x) { return std::uint32_t(std::popcount(x)); });
  if (what == "clz") return unary<T, std::uint32_t>(d, type, [](T x) { return std::uint32_t(std::countl_zero(x)); });
  return unary<T>(d, type, [](T x) {
    T out = 0;
    for (std::size_t i = 0; i < 8 * sizeof(T); ++i) out |= (x >> i & 1) << (8 * sizeof(T) - 1 - i);
    return out;
  });
}

Execute decode_find(Decoder& d) {
  const bool shift_amount = d.take("shiftamt");
  const Type type = d.type();
  const int bits = 8 * width(type);
  const bool sign = is_signed(type);
  const auto find = [=](auto x) -> std::uint32_t {
    using U = std::make_unsigned_t<decltype(x)>;
    const U u = sign && (U(x) >> (bits - 1)) ? static_cast<U>(~U(x)) : U(x);
    if (u == 0) return ~0u;
    const auto at = std::uint32_t(bits - 1 - std::countl_zero(u));
    return shift_amount ? bits - 1 - at : at;
  };
  return bits == 32 ? unary<std::uint32_t, std::uint32_t>(d, type, find)
                    : unary<std::uint64_t, std::uint32_t>(d, type, find);
}

/// {a, b} from one register, or one register from {a, b}.
Execute repack(Decoder& d, Type type, bool unpack) {
  const auto parts = d.vector(unpack ? 0 : 1);
  const int whole = width(type), part = whole / static_cast<int>(parts.size());
  std::vector<Slot> slots;
  for (const auto& name : parts)
    slots.push_back(unpack ? d.target(name)
                           : d.source(name, part == 2   ? Type::b16
                                            : part == 4 ? Type::b32
                                                        : Type::b64));
  const Slot one = unpack ? d.source(d.text(1), type) : d.target(d.text(0));
  if (part < 2 || one.width != whole) d.refuse("not known: this packing");
  for (const Slot slot : slots)
    if (slot.width != part && slot.width != 0) d.refuse("a packed part has another width");
  return [=](Warp& warp, Lanes mask) {
    std::byte* file = warp.file.data();
    each_lane(mask, [&](int i) {
      for (std::size_t k = 0; k < slots.size(); ++k) {
        std::byte* lane = file + slots[k].offset + i * part;
        std::byte* piece = file + one.offset + i * whole + k * part;
        if (slots[k].width) std::memcpy(unpack ? lane : piece, unpack ? piece : lane, part);
      }
    });
  };
}

Execute decode_mov(Decoder& d) {
  const Type type = d.type();
  if (d.is_vector(0)) return repack(d, type, true);
  if (d.is_vector(1)) return repack(d, type, false);
  const auto same = [](auto x) { return x; };
  if (type == Type::pred) return unary<std::uint8_t>(d, type, same);
  if (width(type) == 2) return unary<std::uint16_t>(d, type, same);
  if (width(type) == 4) return unary<std::uint32_t>(d, type, same);
  return unary<std::uint64_t>(d, type, same);
}

}  // namespace

Execute decode_bits(Decoder& d) {
  const std::string& base = d.opcode();
  if (base == "and") return bitwise(d, [](auto a, auto b) { return static_cast<decltype(a)>(a & b); });
  if (base == "or") return bitwise(d, [](auto a, auto b) { return static_cast<decltype(a)>(a | b); });
  if (base == "xor") return bitwise(d, [](auto a, auto b) { return static_cast<decltype(a)>(a ^ b); });
  if (base == "not") return decode_not(d);
  if (base == "shl" || base == "shr") return decode_shift(d);
  if (base == "shf") return decode_funnel_shift(d);
  if (base == "lop3") return decode_lop3(d);
  if (base == "prmt") return decode_permute(d);
  if (base == "bfe") return decode_extract(d);
  if (base == "bfi") return decode_insert(d);
  if (base == "bfind") return decode_find(d);
  if (base == "mov") return decode_mov(d);
  if (base == "popc" || base == "clz" || base == "brev") {
    const Type type = d.type();
    return width(type) == 4 ? count_bits<std::uint32_t>(d, type, base) : count_bits<std::uint64_t>(d, type, base);
  }
  return {};
}

}  // namespace ptx

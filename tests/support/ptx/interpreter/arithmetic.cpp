// add, sub, mul, mad, fma, div, rem, min, max, abs, neg; the carries of multi-word integers.

#include <algorithm>
#include <cfenv>
#include <cfloat>
#include <limits>

#include "decode.hpp"

namespace ptx {
namespace {

/// Another rounding than to nearest. Volatile, so that the operation stays between the two changes of the mode.
template <class T, class Op, class... Args>
T rounded_by(int mode, Op op, Args... x) {
  std::fesetround(mode);
  volatile T result = [op](volatile Args... y) { return op(static_cast<T>(y)...); }(x...);
  std::fesetround(FE_TONEAREST);
  return result;
}

int take_rounding(Decoder& d) {
  const auto name = d.maybe_one_of({"rn", "rz", "rm", "rp"}).value_or("rn");
  return name == "rz" ? FE_TOWARDZERO : name == "rm" ? FE_DOWNWARD : name == "rp" ? FE_UPWARD : FE_TONEAREST;
}

/// .ftz and .sat of single precision.
struct FloatMode {
  bool flush = false, saturate = false;

  static FloatMode take(Decoder& d) { return {d.take("ftz"), d.take("sat")}; }
  float in(float x) const { return flush && std::fabs(x) < FLT_MIN ? std::copysign(0.f, x) : x; }
  float out(float x) const {
    if (saturate) x = x > 0.f ? std::fmin(x, 1.f) : 0.f;
    return in(x);
  }
};

template <class H, class Op, class... Args>
H in_float(Op op, Args... x) {
  return H(static_cast<float>(op(static_cast<float>(x)...)));
}

template <class H, class Op, class... Args>
Packed<H> in_floats(Op op, Args... x) {
  return {in_float<H>(op, x.low...), in_float<H>(op, x.high...)};
}

/// Half formats: in single precision, rounded at the end.
template <class Op>
Execute half_unary(Decoder& d, Type type, Op op) {
  if (type == Type::f16) return unary<Half>(d, type, [op](Half a) { return in_float<Half>(op, a); });
  if (type == Type::bf16) return unary<Bfloat>(d, type, [op](Bfloat a) { return in_float<Bfloat>(op, a); });
  if (type == Type::f16x2) return unary<Packed<Half>>(d, type, [op](Packed<Half> a) { return in_floats<Half>(op, a); });
  if (type == Type::bf16x2)
    return unary<Packed<Bfloat>>(d, type, [op](Packed<Bfloat> a) { return in_floats<Bfloat>(op, a); });
  d.refuse("not known: this type");
}

template <class Op>
Execute half_binary(Decoder& d, Type type, Op op) {
  if (type == Type::f16) return binary<Half>(d, type, [op](Half a, Half b) { return in_float<Half>(op, a, b); });
  if (type == Type::bf16)
    return binary<Bfloat>(d, type, [op](Bfloat a, Bfloat b) { return in_float<Bfloat>(op, a, b); });
  if (type == Type::f16x2) {
    using H = Packed<Half>;
    return binary<H>(d, type, [op](H a, H b) { return in_floats<Half>(op, a, b); });
  }
  if (type == Type::bf16x2) {
    using H = Packed<Bfloat>;
    return binary<H>(d, type, [op](H a, H b) { return in_floats<Bfloat>(op, a, b); });
  }
  d.refuse("not known: this type");
}

template <class Op>
Execute float_binary(Decoder& d, Type type, Op op, int rounding = FE_TONEAREST) {
  const auto mode = FloatMode::take(d);
  const bool nearest = rounding == FE_TONEAREST;
  if (type == Type::f32 && nearest)
    return binary<float>(d, type, [=](float a, float b) { return mode.out(op(mode.in(a), mode.in(b))); });
  if (type == Type::f32)
    return binary<float>(
        d, type, [=](float a, float b) { return mode.out(rounded_by<float>(rounding, op, mode.in(a), mode.in(b))); });
  if (mode.saturate) d.refuse("not known: .sat of this type");
  if (type == Type::f64 && nearest) return binary<double>(d, type, op);
  if (type == Type::f64)
    return binary<double>(d, type, [=](double a, double b) { return rounded_by<double>(rounding, op, a, b); });
  if (!nearest) d.refuse("not known: this rounding of this type");
  return half_binary(d, type, op);
}

/// Two's complement: signed and unsigned alike.
template <class Op>
Execute wrapping_binary(Decoder& d, Type type, Op op) {
  if (d.take("sat")) d.refuse("not known: .sat of integers");
  if (type == Type::f16x2 || width(type) == 1) d.refuse("not known: this type");
  if (width(type) == 2) return binary<std::uint16_t>(d, type, op);
  if (width(type) == 4) return binary<std::uint32_t>(d, type, op);
  return binary<std::uint64_t>(d, type, op);
}

template <class Op>
Execute integer_binary(Decoder& d, Type type, Op op) {
  switch (type) {
    case Type::u16:
      return binary<std::uint16_t>(d, type, op);
    case Type::s16:
      return binary<std::int16_t>(d, type, op);
    case Type::u32:
      return binary<std::uint32_t>(d, type, op);
    case Type::s32:
      return binary<std::int32_t>(d, type, op);
    case Type::u64:
      return binary<std::uint64_t>(d, type, op);
    case Type::s64:
      return binary<std::int64_t>(d, type, op);
    default:
      d.refuse("not known: this type");
  }
}

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(a + b);
  }
};
struct Subtract {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(a - b);
  }
};
struct Multiply {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(std::conditional_t<sizeof(T) == 2, std::uint32_t, T>(a) * b);
  }
};
struct Divide {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>)
      return a / b;
    else if (b == 0)
      return static_cast<T>(-1);
    else if (std::is_signed_v<T> && b == static_cast<T>(-1))
      return static_cast<T>(0 - a);
    else
      return static_cast<T>(a / b);
  }
};
struct Remainder {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) return a;
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
    return static_cast<T>(a % b);
  }
};
template <bool largest>
struct Extreme {
  bool nan_wins = false;
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>) {
      if (a != a) return nan_wins ? a : b;
      if (b != b) return nan_wins ? b : a;
      if (a == b) return std::signbit(a) == largest ? b : a;
    }
    return (largest ? a < b : b < a) ? b : a;
  }
};

template <class T>
using Twice = std::conditional_t<
    sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, std::int32_t, std::uint32_t>,
    std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>,
                       std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;

template <class T>
T high_product(T a, T b) {
  return static_cast<T>((static_cast<Twice<T>>(a) * static_cast<Twice<T>>(b)) >> (8 * sizeof(T)));
}

Type twice(Type type) {
  switch (type) {
    case Type::u16:
      return Type::u32;
    case Type::s16:
      return Type::s32;
    case Type::u32:
      return Type::u64;
    default:
      return Type::s64;
  }
}

/// mul and mad of integers: the low half, the high half, or all of the product.
template <class T>
Execute multiply(Decoder& d, Type type, const std::string& part, bool add) {
  if (part == "wide") {
    if constexpr (sizeof(T) == 8) {
      d.refuse("not known: .wide of this type");
    } else {
      using W = Twice<T>;
      if (!add)
        return binary<T, W>(d, type, [](T a, T b) { return static_cast<W>(static_cast<W>(a) * static_cast<W>(b)); });
      return ternary<T, W>(
          d, type, [](T a, T b, W c) { return static_cast<W>(static_cast<W>(a) * static_cast<W>(b) + c); },
          twice(type));
    }
  }
  if (part == "hi") {
    if (!add) return binary<T>(d, type, high_product<T>);
    return ternary<T>(d, type, [](T a, T b, T c) { return static_cast<T>(high_product(a, b) + c); });
  }
  if (!add) return binary<T>(d, type, Multiply{});
  return ternary<T>(d, type, [](T a, T b, T c) { return static_cast<T>(Multiply{}(a, b) + c); });
}

Execute integer_multiply(Decoder& d, Type type, bool add) {
  const auto part = d.one_of({"lo", "hi", "wide"});
  if (d.take("sat")) d.refuse("not known: .sat of integers");
  switch (type) {
    case Type::u16:
      return multiply<std::uint16_t>(d, type, part, add);
    case Type::s16:
      return multiply<std::int16_t>(d, type, part, add);
    case Type::u32:
      return multiply<std::uint32_t>(d, type, part, add);
    case Type::s32:
      return multiply<std::int32_t>(d, type, part, add);
    case Type::u64:
      return multiply<std::uint64_t>(d, type, part, add);
    case Type::s64:
      return multiply<std::int64_t>(d, type, part, add);
    default:
      d.refuse("not known: this type");
  }
}

struct Fuse {
  template <class T>
  T operator()(T a, T b, T c) const {
    return std::fma(a, b, c);
  }
};

Execute fused_multiply_add(Decoder& d, Type type, int rounding) {
  const auto mode = FloatMode::take(d);
  const bool nearest = rounding == FE_TONEAREST;
  if (type == Type::f32 && nearest)
    return ternary<float>(
        d, type, [mode](float a, float b, float c) { return mode.out(Fuse{}(mode.in(a), mode.in(b), mode.in(c))); });
  if (type == Type::f32)
    return ternary<float>(d, type, [=](float a, float b, float c) {
      return mode.out(rounded_by<float>(rounding, Fuse{}, mode.in(a), mode.in(b), mode.in(c)));
    });
  if (mode.saturate || d.take("relu")) d.refuse("not known: .sat or .relu of this type");
  if (type == Type::f64 && nearest) return ternary<double>(d, type, Fuse{});
  if (type == Type::f64)
    return ternary<double>(d, type,
                           [=](double a, double b, double c) { return rounded_by<double>(rounding, Fuse{}, a, b, c); });
  if (!nearest) d.refuse("not known: this rounding of this type");
  const auto op = [](double a, double b, double c) { return a * b + c; };
  if (type == Type::f16)
    return ternary<Half>(d, type, [op](Half a, Half b, Half c) { return in_float<Half>(op, a, b, c); });
  if (type == Type::bf16)
    return ternary<Bfloat>(d, type, [op](Bfloat a, Bfloat b, Bfloat c) { return in_float<Bfloat>(op, a, b, c); });
  if (type == Type::f16x2) {
    using H = Packed<Half>;
    return ternary<H>(d, type, [op](H a, H b, H c) { return in_floats<Half>(op, a, b, c); });
  }
  if (type == Type::bf16x2) {
    using H = Packed<Bfloat>;
    return ternary<H>(d, type, [op](H a, H b, H c) { return in_floats<Bfloat>(op, a, b, c); });
  }
  d.refuse("not known: this type");
}

/// add.cc, addc, sub.cc, subc, mad.cc, madc: the carry lives in the warp.
template <class T>
Execute with_carry(Decoder& d, Type type, const std::string& base, bool carry_in, bool carry_out) {
  const bool high = base == "mad" && d.one_of({"lo", "hi"}) == "hi";
  const bool mad = base == "mad", subtract = base == "sub";
  const auto x = d.read<T>(1, type), y = d.read<T>(2, type), z = d.read<T>(mad ? 3 : 2, type);
  return [=, out = d.write<T>(0)](Warp& warp, Lanes mask) {
    T xs[kWarp], ys[kWarp], zs[kWarp], result[kWarp];
    const T *a = x(warp, xs), *b = y(warp, ys), *c = z(warp, zs);
    for (int i = 0; i < kWarp; ++i) {
      const unsigned __int128 in = carry_in ? warp.carry[i] : 0;
      const T product = mad ? (high ? high_product(a[i], b[i]) : static_cast<T>(a[i] * b[i])) : a[i];
      const unsigned __int128 sum = subtract ? static_cast<unsigned __int128>(a[i]) - b[i] - in
                                             : static_cast<unsigned __int128>(product) + c[i] + in;
      result[i] = static_cast<T>(sum);
      if (carry_out && (mask >> i & 1)) warp.carry[i] = (sum >> (8 * sizeof(T))) & 1;
    }
    out(warp, result, mask);
  };
}

}  // namespace

Execute decode_arithmetic(Decoder& d) {
  std::string base = d.opcode();
  const bool carry_in = base == "addc" || base == "subc" || base == "madc";
  if (carry_in) base.pop_back();
  static constexpr std::string_view kFamily[] = {"add", "sub", "mul", "mad", "fma", "div",
                                                 "rem", "min", "max", "abs", "neg"};
  if (std::find(std::begin(kFamily), std::end(kFamily), base) == std::end(kFamily)) return {};

  const bool carry_out = d.take("cc");
  const Type type = d.type();
  if (carry_in || carry_out)
    return width(type) == 8 ? with_carry<std::uint64_t>(d, type, base, carry_in, carry_out)
                            : with_carry<std::uint32_t>(d, type, base, carry_in, carry_out);
  if (is_float(type)) {
    if (base == "div" && type == Type::f32 && d.maybe_one_of({"approx", "full"}))
      return float_binary(d, type, Divide{});
    const int rounding = take_rounding(d);
    if (base == "add") return float_binary(d, type, Add{}, rounding);
    if (base == "sub") return float_binary(d, type, Subtract{}, rounding);
    if (base == "mul") return float_binary(d, type, Multiply{}, rounding);
    if (base == "div") return float_binary(d, type, Divide{}, rounding);
    if (base == "max") return float_binary(d, type, Extreme<true>{d.take("NaN")});
    if (base == "min") return float_binary(d, type, Extreme<false>{d.take("NaN")});
    if (base == "fma" || base == "mad") return fused_multiply_add(d, type, rounding);
    if (base == "rem") d.refuse("not known: rem of floats");
    const bool negate = base == "neg";
    const auto op = [negate](auto x) { return negate ? -x : std::fabs(x); };
    const auto mode = FloatMode::take(d);
    if (type == Type::f32) return unary<float>(d, type, [=](float x) { return mode.out(op(x)); });
    if (type == Type::f64) return unary<double>(d, type, op);
    return half_unary(d, type, op);
  }
  if (base == "add") return wrapping_binary(d, type, Add{});
  if (base == "sub") return wrapping_binary(d, type, Subtract{});
  if (base == "mul" || base == "mad") return integer_multiply(d, type, base == "mad");
  if (base == "div") return integer_binary(d, type, Divide{});
  if (base == "rem") return integer_binary(d, type, Remainder{});
  if (base == "max") return integer_binary(d, type, Extreme<true>{});
  if (base == "min") return integer_binary(d, type, Extreme<false>{});
  if (base == "fma") d.refuse("not known: fma of integers");
  const bool negate = base == "neg";
  const auto op = [negate](auto x) { return static_cast<decltype(x)>(negate || x < 0 ? 0 - x : x); };
  if (type == Type::s16) return unary<std::int16_t>(d, type, op);
  if (type == Type::s32) return unary<std::int32_t>(d, type, op);
  if (type == Type::s64) return unary<std::int64_t>(d, type, op);
  d.refuse("not known: this type");
}

}  // namespace ptx

// cvt and cvta.

#include <limits>

#include "decode.hpp"

namespace ptx {
namespace {

/// Any source without loss: an integer or a float.
struct Wide {
  __int128 integer;
  double real;
};

using Load = std::function<void(Warp&, Wide*)>;
using Store = std::function<void(Warp&, const Wide*, Lanes)>;

template <class T>
Load load_of(Decoder& d, Type type) {
  return [x = d.read<T>(1, type)](Warp& warp, Wide* out) {
    T scratch[kWarp];
    const T* a = x(warp, scratch);
    for (int i = 0; i < kWarp; ++i) {
      if constexpr (std::is_integral_v<T>)
        out[i].integer = a[i];
      else if constexpr (std::is_floating_point_v<T>)
        out[i].real = a[i];
      else
        out[i].real = static_cast<float>(a[i]);
    }
  };
}

Load load(Decoder& d, Type type) {
  switch (type) {
    case Type::u8:
      return load_of<std::uint8_t>(d, type);
    case Type::s8:
      return load_of<std::int8_t>(d, type);
    case Type::u16:
      return load_of<std::uint16_t>(d, type);
    case Type::s16:
      return load_of<std::int16_t>(d, type);
    case Type::u32:
      return load_of<std::uint32_t>(d, type);
    case Type::s32:
      return load_of<std::int32_t>(d, type);
    case Type::u64:
      return load_of<std::uint64_t>(d, type);
    case Type::s64:
      return load_of<std::int64_t>(d, type);
    case Type::f16:
      return load_of<Half>(d, type);
    case Type::bf16:
      return load_of<Bfloat>(d, type);
    case Type::f32:
      return load_of<float>(d, type);
    case Type::f64:
      return load_of<double>(d, type);
    default:
      d.refuse("not known: cvt from this type");
  }
}

double rounded(double x, char how) {
  switch (how) {
    case 'i':
      return std::nearbyint(x);
    case 'z':
      return std::trunc(x);
    case 'm':
      return std::floor(x);
    case 'p':
      return std::ceil(x);
    default:
      return x;
  }
}

struct Options {
  char integral;  // of rni, rzi, rmi, rpi: i, z, m, p; else blank
  bool from_float, saturate, flush;
};

template <class T>
Store store_integer(Decoder& d, Options o) {
  return [o, out = d.write<T>(0)](Warp& warp, const Wide* in, Lanes mask) {
    T result[kWarp];
    constexpr auto low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
    for (int i = 0; i < kWarp; ++i) {
      if (o.from_float) {
        const double x = rounded(in[i].real, o.integral);
        result[i] = std::isnan(x)                    ? T(0)
                    : x <= static_cast<double>(low)  ? low
                    : x >= static_cast<double>(high) ? high
                                                     : static_cast<T>(x);
      } else if (o.saturate) {
        result[i] = in[i].integer < low ? low : in[i].integer > high ? high : static_cast<T>(in[i].integer);
      } else {
        result[i] = static_cast<T>(in[i].integer);
      }
    }
    out(warp, result, mask);
  };
}

template <class T>
Store store_float(Decoder& d, Options o) {
  return [o, out = d.write<T>(0)](Warp& warp, const Wide* in, Lanes mask) {
    T result[kWarp];
    using F = std::conditional_t<std::is_same_v<T, double>, double, float>;
    for (int i = 0; i < kWarp; ++i) {
      F x = o.from_float ? static_cast<F>(rounded(in[i].real, o.integral)) : static_cast<F>(in[i].integer);
      if (o.saturate) x = x > 0 ? std::fmin(x, F(1)) : F(0);
      if (o.flush && std::fabs(x) < std::numeric_limits<float>::min()) x = std::copysign(F(0), x);
      result[i] = T(x);
    }
    out(warp, result, mask);
  };
}

Store store(Decoder& d, Type type, Options o) {
  switch (type) {
    case Type::u8:
      return store_integer<std::uint8_t>(d, o);
    case Type::s8:
      return store_integer<std::int8_t>(d, o);
    case Type::u16:
      return store_integer<std::uint16_t>(d, o);
    case Type::s16:
      return store_integer<std::int16_t>(d, o);
    case Type::u32:
      return store_integer<std::uint32_t>(d, o);
    case Type::s32:
      return store_integer<std::int32_t>(d, o);
    case Type::u64:
      return store_integer<std::uint64_t>(d, o);
    case Type::s64:
      return store_integer<std::int64_t>(d, o);
    case Type::f16:
      return store_float<Half>(d, o);
    case Type::bf16:
      return store_float<Bfloat>(d, o);
    case Type::f32:
      return store_float<float>(d, o);
    case Type::f64:
      return store_float<double>(d, o);
    default:
      d.refuse("not known: cvt to this type");
  }
}

template <class H>
Execute pack_halves(Decoder& d) {
  return [high = d.read<float>(1, Type::f32), low = d.read<float>(2, Type::f32), out = d.write<Packed<H>>(0)](
             Warp& warp, Lanes mask) {
    float hs[kWarp], ls[kWarp];
    Packed<H> result[kWarp];
    const float *h = high(warp, hs), *l = low(warp, ls);
    for (int i = 0; i < kWarp; ++i) result[i] = {H(l[i]), H(h[i])};
    out(warp, result, mask);
  };
}

Execute decode_cvt(Decoder& d) {
  const auto rounding = d.maybe_one_of({"rn", "rna", "rni", "rzi", "rmi", "rpi", "rz", "rm", "rp"});
  const bool flush = d.take("ftz"), saturate = d.take("sat");
  const Type to = d.type(), from = d.type();
  const std::string how = rounding.value_or("");
  if (to == Type::f16x2 || to == Type::bf16x2) {
    if (how != "rn" || saturate || from != Type::f32) d.refuse("not known: this packed cvt");
    return to == Type::f16x2 ? pack_halves<Half>(d) : pack_halves<Bfloat>(d);
  }
  if (to == Type::tf32) {
    if (how == "rna") return unary<float, std::uint32_t>(d, from, rounded_tf32);
    if (how == "rn") return unary<float, std::uint32_t>(d, from, even_tf32);
    d.refuse("not known: this rounding to tf32");
  }
  const bool integral = how.size() == 3 && how != "rna";
  if (!how.empty() && how != "rn" && !integral) d.refuse("not known: cvt with ." + how);
  if (is_float(from) && !is_float(to) && !integral) d.refuse("cvt from a float to an integer without a rounding");
  const Options options{integral ? (how == "rni" ? 'i' : how[1]) : ' ', is_float(from), saturate, flush};
  return [read = load(d, from), write = store(d, to, options)](Warp& warp, Lanes mask) {
    Wide values[kWarp];
    read(warp, values);
    write(warp, values, mask);
  };
}

Execute decode_cvta(Decoder& d) {
  const bool to = d.take("to");
  const auto space = d.one_of({"global", "shared", "shared::cta", "local", "const", "param"});
  const Type type = d.type();
  if (space == "param") d.refuse("not known: cvta of .param");
  const std::uint64_t window = space[0] == 's' ? kSharedWindow : space == "local" ? kLocalWindow : 0;
  const std::uint64_t base = window << kWindowBits;
  return unary<std::uint64_t>(d, type, [=](std::uint64_t x) { return to ? x - base : x + base; });
}

}  // namespace

Execute decode_convert(Decoder& d) {
  if (d.opcode() == "cvt") return decode_cvt(d);
  if (d.opcode() == "cvta") return decode_cvta(d);
  return {};
}

}  // namespace ptx

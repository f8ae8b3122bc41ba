// Functions of one float. The hardware's approximations are not modelled: these are right to the last place.

#include <cfloat>

#include "decode.hpp"

namespace ptx {
namespace {

using Function = double (*)(double);

Function function_named(const std::string& name) {
  if (name == "ex2") return [](double x) { return std::exp2(x); };
  if (name == "lg2") return [](double x) { return std::log2(x); };
  if (name == "rcp") return [](double x) { return 1 / x; };
  if (name == "sqrt") return [](double x) { return std::sqrt(x); };
  if (name == "rsqrt") return [](double x) { return 1 / std::sqrt(x); };
  if (name == "sin") return [](double x) { return std::sin(x); };
  if (name == "cos") return [](double x) { return std::cos(x); };
  if (name == "tanh") return [](double x) { return std::tanh(x); };
  return nullptr;
}

float flushed(float x) { return std::fabs(x) < FLT_MIN ? std::copysign(0.f, x) : x; }

/// Only the lanes that are asked for: these are slow.
template <class T, class Op>
Execute of_lanes(Decoder& d, Type type, Op op) {
  return [x = d.read<T>(1, type), out = d.write<T>(0), op](Warp& warp, Lanes mask) {
    T xs[kWarp], result[kWarp];
    const T* a = x(warp, xs);
    each_lane(mask, [&](int i) { result[i] = op(a[i]); });
    out(warp, result, mask);
  };
}

Execute decode_testp(Decoder& d) {
  const auto kind = d.one_of({"finite", "infinite", "number", "notanumber", "normal", "subnormal"});
  const Type type = d.type();
  const auto test = [kind](auto x) -> std::uint8_t {
    if (kind == "finite") return std::isfinite(x);
    if (kind == "infinite") return std::isinf(x);
    if (kind == "number") return !std::isnan(x);
    if (kind == "notanumber") return std::isnan(x);
    return kind == "normal" ? std::isnormal(x) : std::fpclassify(x) == FP_SUBNORMAL;
  };
  return type == Type::f32 ? unary<float, std::uint8_t>(d, type, test) : unary<double, std::uint8_t>(d, type, test);
}

Execute decode_copysign(Decoder& d) {
  const Type type = d.type();
  if (type == Type::f32) return binary<float>(d, type, [](float sign, float x) { return std::copysign(x, sign); });
  return binary<double>(d, type, [](double sign, double x) { return std::copysign(x, sign); });
}

}  // namespace

Execute decode_functions(Decoder& d) {
  if (d.opcode() == "testp") return decode_testp(d);
  if (d.opcode() == "copysign") return decode_copysign(d);
  const Function f = function_named(d.opcode());
  if (!f) return {};
  d.one_of({"approx", "rn"});
  const bool flush = d.take("ftz");
  const Type type = d.type();
  if (type == Type::f64) return of_lanes<double>(d, type, f);
  if (type == Type::f32)
    return of_lanes<float>(d, type, [f, flush](float x) {
      const auto y = static_cast<float>(f(flush ? flushed(x) : x));
      return flush ? flushed(y) : y;
    });
  const auto half = [f](auto x) { return decltype(x)(static_cast<float>(f(static_cast<float>(x)))); };
  const auto pair = [half](auto x) { return decltype(x){half(x.low), half(x.high)}; };
  if (type == Type::f16) return of_lanes<Half>(d, type, half);
  if (type == Type::bf16) return of_lanes<Bfloat>(d, type, half);
  if (type == Type::f16x2) return of_lanes<Packed<Half>>(d, type, pair);
  if (type == Type::bf16x2) return of_lanes<Packed<Bfloat>>(d, type, pair);
  d.refuse("not known: this type");
}

}  // namespace ptx

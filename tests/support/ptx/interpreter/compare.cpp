// setp, set, selp, slct.

#include "decode.hpp"

namespace ptx {
namespace {

enum class Relation { eq, ne, lt, le, gt, ge, num, nan };

struct Comparison {
  Relation relation;
  bool unordered;  // true also where a side is NaN

  template <class T>
  std::uint8_t operator()(T a, T b) const {
    if (std::is_floating_point_v<T>) {
      const bool nan = a != a || b != b;
      if (relation == Relation::num) return !nan;
      if (relation == Relation::nan) return nan;
      if (nan) return unordered;
    }
    switch (relation) {
      case Relation::eq:
        return a == b;
      case Relation::ne:
        return a != b;
      case Relation::lt:
        return a < b;
      case Relation::le:
        return a <= b;
      case Relation::gt:
        return a > b;
      default:
        return a >= b;
    }
  }
};

Comparison take_comparison(Decoder& d) {
  static const std::map<std::string, Comparison> kAll = {
      {"eq", {Relation::eq, false}}, {"ne", {Relation::ne, false}},   {"lt", {Relation::lt, false}},
      {"le", {Relation::le, false}}, {"gt", {Relation::gt, false}},   {"ge", {Relation::ge, false}},
      {"lo", {Relation::lt, false}}, {"ls", {Relation::le, false}},   {"hi", {Relation::gt, false}},
      {"hs", {Relation::ge, false}}, {"equ", {Relation::eq, true}},   {"neu", {Relation::ne, true}},
      {"ltu", {Relation::lt, true}}, {"leu", {Relation::le, true}},   {"gtu", {Relation::gt, true}},
      {"geu", {Relation::ge, true}}, {"num", {Relation::num, false}}, {"nan", {Relation::nan, true}}};
  for (const auto& [name, comparison] : kAll)
    if (d.take(name)) return comparison;
  d.refuse("not known: this comparison");
}

using Verdict = std::function<Lanes(Warp&)>;

template <class T>
Verdict verdict(Decoder& d, Type type, Comparison comparison) {
  return [comparison, x = d.read<T>(1, type), y = d.read<T>(2, type)](Warp& warp) {
    T xs[kWarp], ys[kWarp];
    std::uint8_t out[kWarp];
    const T *a = x(warp, xs), *b = y(warp, ys);
    for (int i = 0; i < kWarp; ++i) {
      if constexpr (std::is_arithmetic_v<T>)
        out[i] = comparison(a[i], b[i]);
      else
        out[i] = comparison(static_cast<float>(a[i]), static_cast<float>(b[i]));
    }
    return predicate_mask(out);
  };
}

Verdict verdict_of(Decoder& d, Type type, Comparison comparison) {
  switch (type) {
    case Type::b16:
    case Type::u16:
      return verdict<std::uint16_t>(d, type, comparison);
    case Type::s16:
      return verdict<std::int16_t>(d, type, comparison);
    case Type::b32:
    case Type::u32:
      return verdict<std::uint32_t>(d, type, comparison);
    case Type::s32:
      return verdict<std::int32_t>(d, type, comparison);
    case Type::b64:
    case Type::u64:
      return verdict<std::uint64_t>(d, type, comparison);
    case Type::s64:
      return verdict<std::int64_t>(d, type, comparison);
    case Type::f32:
      return verdict<float>(d, type, comparison);
    case Type::f64:
      return verdict<double>(d, type, comparison);
    case Type::f16:
      return verdict<Half>(d, type, comparison);
    case Type::bf16:
      return verdict<Bfloat>(d, type, comparison);
    default:
      d.refuse("not known: comparison of this type");
  }
}

void put(Warp& warp, const Write<std::uint8_t>& to, Lanes value, Lanes mask) {
  std::uint8_t lanes[kWarp];
  for (int i = 0; i < kWarp; ++i) lanes[i] = value >> i & 1;
  to(warp, lanes, mask);
}

Execute decode_setp(Decoder& d) {
  const auto comparison = take_comparison(d);
  const auto join = d.maybe_one_of({"and", "or", "xor"});
  d.take("ftz");
  const Type type = d.type();
  const auto targets = d.pair(0);
  const auto first = d.write<std::uint8_t>(targets[0]);
  const auto second = targets.size() > 1 ? d.write<std::uint8_t>(targets[1]) : Write<std::uint8_t>{};
  const auto other = join ? d.predicate(3) : Read<std::uint8_t>{};
  const char how = join ? (*join)[0] : ' ';
  return [=, compare = verdict_of(d, type, comparison)](Warp& warp, Lanes mask) {
    Lanes yes = compare(warp), no = ~yes;
    if (how != ' ') {
      std::uint8_t scratch[kWarp];
      const Lanes with = predicate_mask(other(warp, scratch));
      yes = how == 'a' ? yes & with : how == 'o' ? yes | with : yes ^ with;
      no = how == 'a' ? no & with : how == 'o' ? no | with : no ^ with;
    }
    put(warp, first, yes, mask);
    if (second.slot.width) put(warp, second, no, mask);
  };
}

Execute decode_set(Decoder& d) {
  const auto comparison = take_comparison(d);
  d.take("ftz");
  const Type result = d.type(), type = d.type();
  const std::uint32_t one = result == Type::f32 ? 0x3f800000u : ~0u;
  if (width(result) != 4 || result == Type::f16x2 || result == Type::bf16x2) d.refuse("not known: set of this type");
  return [=, compare = verdict_of(d, type, comparison), out = d.write<std::uint32_t>(0)](Warp& warp, Lanes mask) {
    const Lanes yes = compare(warp);
    std::uint32_t lanes[kWarp];
    for (int i = 0; i < kWarp; ++i) lanes[i] = yes >> i & 1 ? one : 0;
    out(warp, lanes, mask);
  };
}

template <class T, class C>
Execute select(Decoder& d, Type type, Type condition_type, bool sign) {
  return [=, x = d.read<T>(1, type), y = d.read<T>(2, type), c = d.read<C>(3, condition_type), out = d.write<T>(0)](
             Warp& warp, Lanes mask) {
    T xs[kWarp], ys[kWarp], result[kWarp];
    C cs[kWarp];
    const T *a = x(warp, xs), *b = y(warp, ys);
    const C* condition = c(warp, cs);
    for (int i = 0; i < kWarp; ++i) result[i] = (sign ? condition[i] >= 0 : condition[i] != 0) ? a[i] : b[i];
    out(warp, result, mask);
  };
}

template <class C>
Execute select_of(Decoder& d, Type type, Type condition, bool sign) {
  if (width(type) == 2) return select<std::uint16_t, C>(d, type, condition, sign);
  if (width(type) == 4) return select<std::uint32_t, C>(d, type, condition, sign);
  if (width(type) == 8) return select<std::uint64_t, C>(d, type, condition, sign);
  d.refuse("not known: select of this type");
}

}  // namespace

Execute decode_compare(Decoder& d) {
  if (d.opcode() == "setp") return decode_setp(d);
  if (d.opcode() == "set") return decode_set(d);
  if (d.opcode() == "selp") return select_of<std::uint8_t>(d, d.type(), Type::pred, false);
  if (d.opcode() == "slct") {
    d.take("ftz");
    const Type type = d.type(), condition = d.type();
    if (condition == Type::s32) return select_of<std::int32_t>(d, type, condition, true);
    return select_of<float>(d, type, condition, true);
  }
  return {};
}

}  // namespace ptx

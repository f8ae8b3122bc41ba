// What the lanes of one warp do together: shfl, vote, match, redux, activemask, elect, bar.warp.sync.

#include "decode.hpp"
#include "memory.hpp"

namespace ptx {
namespace {

/// The lanes named by the instruction must all be there; the scheduler waits for them.
void take_members(Decoder& d, std::size_t operand) {
  d.out.kind = Instruction::collective;
  d.out.members = d.source(d.text(operand), Type::u32);
}

Execute decode_shuffle(Decoder& d) {
  if (!d.take("sync")) d.refuse("not known: shfl without .sync");
  const char mode = d.one_of({"up", "down", "bfly", "idx"})[0];
  const Type type = d.type();
  if (width(type) != 4) d.refuse("not known: shfl of this type");
  const auto targets = d.pair(0);
  const auto out = d.write<std::uint32_t>(targets[0]);
  const auto valid = targets.size() > 1 ? d.write<std::uint8_t>(targets[1]) : Write<std::uint8_t>{};
  const auto x = d.read<std::uint32_t>(1, type), by = d.read<std::uint32_t>(2, Type::u32),
             clamp = d.read<std::uint32_t>(3, Type::u32);
  take_members(d, 4);
  return [=](Warp& warp, Lanes mask) {
    std::uint32_t xs[kWarp], bs[kWarp], cs[kWarp], result[kWarp] = {};
    std::uint8_t ok[kWarp] = {};
    const std::uint32_t *a = x(warp, xs), *b = by(warp, bs), *c = clamp(warp, cs);
    each_lane(mask, [&](int lane) {
      const int segment = c[lane] >> 8 & 31, limit = c[lane] & 31;
      const int first = lane & segment, last = first | (limit & ~segment), step = b[lane] & 31;
      int from = mode == 'u'   ? lane - step
                 : mode == 'd' ? lane + step
                 : mode == 'b' ? lane ^ step
                               : first | (step & ~segment);
      ok[lane] = mode == 'u' ? from >= last : from <= last;
      if (!ok[lane]) from = lane;
      if (!(mask >> from & 1))
        throw Fault("lane " + std::to_string(lane) + " reads lane " + std::to_string(from) + ", which takes no part");
      result[lane] = a[from];
    });
    out(warp, result, mask);
    if (valid.slot.width) valid(warp, ok, mask);
  };
}

Execute decode_vote(Decoder& d) {
  if (!d.take("sync")) d.refuse("not known: vote without .sync");
  const auto mode = d.one_of({"all", "any", "uni", "ballot"});
  d.type();
  const auto x = d.predicate(1);
  const bool ballot = mode == "ballot";
  const auto word = ballot ? d.write<std::uint32_t>(0) : Write<std::uint32_t>{};
  const auto bit = ballot ? Write<std::uint8_t>{} : d.write<std::uint8_t>(0);
  take_members(d, 2);
  return [=](Warp& warp, Lanes mask) {
    std::uint8_t scratch[kWarp], bits[kWarp];
    std::uint32_t words[kWarp];
    const Lanes yes = predicate_mask(x(warp, scratch)) & mask;
    const bool verdict = mode == "all" ? yes == mask : mode == "any" ? yes != 0 : yes == 0 || yes == mask;
    std::fill(std::begin(words), std::end(words), yes);
    std::fill(std::begin(bits), std::end(bits), verdict);
    if (ballot)
      word(warp, words, mask);
    else
      bit(warp, bits, mask);
  };
}

template <class T>
Execute match(Decoder& d, Type type) {
  const bool all = d.one_of({"any", "all"}) == "all";
  const auto targets = d.pair(0);
  const auto out = d.write<std::uint32_t>(targets[0]);
  const auto verdict = targets.size() > 1 ? d.write<std::uint8_t>(targets[1]) : Write<std::uint8_t>{};
  const auto x = d.read<T>(1, type);
  take_members(d, 2);
  return [=](Warp& warp, Lanes mask) {
    T xs[kWarp];
    const T* a = x(warp, xs);
    std::uint32_t words[kWarp] = {};
    std::uint8_t bits[kWarp] = {};
    each_lane(mask, [&](int lane) {
      each_lane(mask, [&](int other) { words[lane] |= Lanes{a[lane] == a[other]} << other; });
      bits[lane] = words[lane] == mask;
      if (all && !bits[lane]) words[lane] = 0;
    });
    out(warp, words, mask);
    if (verdict.slot.width) verdict(warp, bits, mask);
  };
}

Execute decode_match(Decoder& d) {
  if (!d.take("sync")) d.refuse("not known: match without .sync");
  const Type type = d.type();
  return width(type) == 4 ? match<std::uint32_t>(d, type) : match<std::uint64_t>(d, type);
}

template <class T>
Execute reduce(Decoder& d, Type type) {
  const auto mode = d.one_of({"add", "min", "max", "and", "or", "xor"});
  const auto x = d.read<T>(1, type);
  const auto out = d.write<T>(0);
  take_members(d, 2);
  return [=](Warp& warp, Lanes mask) {
    T xs[kWarp], result[kWarp];
    const T* a = x(warp, xs);
    T sum = a[std::countr_zero(mask)];
    each_lane(mask & (mask - 1), [&](int lane) {
      const T y = a[lane];
      sum = mode == "add"   ? sum + y
            : mode == "min" ? std::min(sum, y)
            : mode == "max" ? std::max(sum, y)
            : mode == "and" ? sum & y
            : mode == "or"  ? sum | y
                            : sum ^ y;
    });
    std::fill(std::begin(result), std::end(result), sum);
    out(warp, result, mask);
  };
}

Execute decode_reduce(Decoder& d) {
  if (!d.take("sync")) d.refuse("not known: redux without .sync");
  const Type type = d.type();
  if (type == Type::s32) return reduce<std::int32_t>(d, type);
  if (type == Type::u32 || type == Type::b32) return reduce<std::uint32_t>(d, type);
  d.refuse("not known: redux of this type");
}

Execute decode_activemask(Decoder& d) {
  d.type();
  return [out = d.write<std::uint32_t>(0)](Warp& warp, Lanes mask) {
    std::uint32_t words[kWarp];
    std::fill(std::begin(words), std::end(words), mask);
    out(warp, words, mask);
  };
}

Execute decode_elect(Decoder& d) {
  if (!d.take("sync")) d.refuse("not known: elect without .sync");
  const auto targets = d.pair(0);
  if (targets.size() != 2) d.refuse("elect needs a predicate");
  const auto leader = d.write<std::uint32_t>(targets[0]);
  const auto verdict = d.write<std::uint8_t>(targets[1]);
  take_members(d, 1);
  return [=](Warp& warp, Lanes mask) {
    std::uint32_t words[kWarp];
    std::uint8_t bits[kWarp] = {};
    const int first = std::countr_zero(mask);
    std::fill(std::begin(words), std::end(words), first);
    bits[first] = 1;
    if (leader.slot.width) leader(warp, words, mask);
    verdict(warp, bits, mask);
  };
}

}  // namespace

Execute decode_collective(Decoder& d) {
  const std::string& base = d.opcode();
  if (base == "shfl") return decode_shuffle(d);
  if (base == "vote") return decode_vote(d);
  if (base == "match") return decode_match(d);
  if (base == "redux") return decode_reduce(d);
  if (base == "activemask") return decode_activemask(d);
  if (base == "elect") return decode_elect(d);
  if ((base == "bar" || base == "barrier") && d.take("warp")) {
    if (!d.take("sync")) d.refuse("not known: this bar.warp");
    take_members(d, 0);
    return [](Warp& warp, Lanes mask) { warp.block->launch.order.meet_lanes(warp.index, mask); };
  }
  return {};
}

}  // namespace ptx

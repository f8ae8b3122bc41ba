// ld, st, atom, red; fences.

#include <algorithm>

#include "decode.hpp"
#include "memory.hpp"

namespace ptx {
namespace {

enum class Space { parameter, shared, global, local, generic };

Space take_space(Decoder& d) {
  const auto name = d.maybe_one_of({"param", "param::entry", "shared", "shared::cta", "global", "local", "const"});
  if (!name) return Space::generic;
  switch ((*name)[0]) {
    case 'p':
      return Space::parameter;
    case 's':
      return Space::shared;
    case 'l':
      return Space::local;
    default:
      return Space::global;
  }
}

/// What generic addresses point to, and the address within.
Space resolved(Space space, std::uint64_t& address) {
  if (space != Space::generic) return space;
  const std::uint64_t window = address >> kWindowBits;
  if (window == kSharedWindow || window == kLocalWindow) {
    address -= window << kWindowBits;
    return window == kSharedWindow ? Space::shared : Space::local;
  }
  return Space::global;
}

std::byte* local(Warp& warp, int lane, std::uint64_t at, int bytes) {
  const std::uint64_t size = warp.local.size() / kWarp;
  if (at + bytes > size || at % bytes)
    throw Fault("out of bounds or misaligned: " + std::to_string(bytes) + " bytes at " + std::to_string(at) +
                " of local memory, which has " + std::to_string(size));
  return warp.local.data() + lane * size + at;
}

/// Hints that change nothing that is visible here. True: the access is an atomic one.
bool take_hints(Decoder& d) {
  bool atomic = false;
  for (const auto* name : {"volatile", "relaxed", "acquire", "release", "acq_rel"}) atomic |= d.take(name);
  static constexpr const char* kHints[] = {"weak",
                                           "nc",
                                           "ca",
                                           "cg",
                                           "cs",
                                           "lu",
                                           "cv",
                                           "wb",
                                           "wt",
                                           "cta",
                                           "cluster",
                                           "gpu",
                                           "sys",
                                           "L1::evict_normal",
                                           "L1::evict_unchanged",
                                           "L1::evict_first",
                                           "L1::evict_last",
                                           "L1::no_allocate",
                                           "L2::evict_first",
                                           "L2::evict_last",
                                           "L2::evict_normal",
                                           "L2::64B",
                                           "L2::128B",
                                           "L2::256B"};
  for (const auto* name : kHints) d.take(name);
  if (d.take("L2::cache_hint")) d.text(d.count() - 1);  // the policy
  return atomic;
}

/// A register and how many of a memory element's bytes it takes.
struct Pieces {
  std::vector<Slot> slots;
  int bytes;
  bool sign;

  int total() const { return bytes * static_cast<int>(slots.size()); }

  void load(Warp& warp, int lane, const std::byte* from) const {
    for (std::size_t k = 0; k < slots.size(); ++k) {
      std::uint64_t value = 0;
      std::memcpy(&value, from + k * bytes, bytes);
      if (sign && bytes < 8 && value >> (8 * bytes - 1)) value |= ~std::uint64_t{0} << (8 * bytes);
      if (slots[k].width)
        std::memcpy(warp.file.data() + slots[k].offset + lane * slots[k].width, &value, slots[k].width);
    }
  }
  void store(const Warp& warp, int lane, std::byte* to) const {
    for (std::size_t k = 0; k < slots.size(); ++k)
      std::memcpy(to + k * bytes, warp.file.data() + slots[k].offset + lane * slots[k].width, bytes);
  }
};

Pieces take_pieces(Decoder& d, std::size_t operand, bool target) {
  const auto vector = d.maybe_one_of({"v2", "v4", "v8"});
  const Type type = d.type();
  const auto names = d.vector(operand);
  if (type == Type::pred || names.size() != (vector ? (*vector)[1] - '0' : 1u)) d.refuse("not known: this vector");
  Pieces out{{}, width(type), is_signed(type)};
  for (const auto& name : names) {
    out.slots.push_back(target ? d.target(name) : d.source(name, type));
    if (out.slots.back().width && out.slots.back().width < out.bytes) d.refuse("register " + name + " is too narrow");
  }
  return out;
}

Execute decode_load(Decoder& d) {
  const Space space = take_space(d);
  const bool atomic = take_hints(d);
  const Pieces to = take_pieces(d, 0, true);
  const Address from = d.address(1);
  const int bytes = to.total();
  if (space == Space::parameter)
    return [=](Warp& warp, Lanes mask) {
      const auto& parameters = warp.block->launch.parameters;
      each_lane(mask, [&](int lane) {
        const std::uint64_t at = from.of(warp, lane);
        if (at + bytes > parameters.size()) throw Fault("out of bounds of the parameters");
        to.load(warp, lane, parameters.data() + at);
      });
    };
  return [=](Warp& warp, Lanes mask) {
    Block& block = *warp.block;
    each_lane(mask, [&](int lane) {
      std::uint64_t address = from.of(warp, lane);
      const Space found = resolved(space, address);
      to.load(warp, lane,
              found == Space::shared  ? block.shared.load(warp, lane, address, bytes, atomic)
              : found == Space::local ? local(warp, lane, address, bytes)
                                      : block.launch.global.load(warp, lane, address, bytes, atomic));
    });
  };
}

Execute decode_store(Decoder& d) {
  const Space space = take_space(d);
  if (space == Space::parameter) d.refuse("not known: a store to parameters");
  if (take_hints(d)) d.refuse("not known: a volatile or releasing store");
  const Address to = d.address(0);
  const Pieces from = take_pieces(d, 1, false);
  const int bytes = from.total();
  return [=](Warp& warp, Lanes mask) {
    Block& block = *warp.block;
    each_lane(mask, [&](int lane) {
      std::byte value[64];
      from.store(warp, lane, value);
      std::uint64_t address = to.of(warp, lane);
      switch (resolved(space, address)) {
        case Space::shared:
          return block.shared.store(warp, lane, address, bytes, value);
        case Space::local:
          std::memcpy(local(warp, lane, address, bytes), value, bytes);
          return;
        default:
          return block.launch.global.store(warp, lane, address, bytes, value);
      }
    });
  };
}

enum class Operation { add, min, max, and_, or_, xor_, exch, cas, inc, dec };

template <class T>
T updated(Operation operation, T old, T value, T other) {
  if constexpr (std::is_arithmetic_v<T>) {
    switch (operation) {
      case Operation::add:
        return static_cast<T>(old + value);
      case Operation::min:
        return std::min(old, value);
      case Operation::max:
        return std::max(old, value);
      case Operation::exch:
        return value;
      case Operation::cas:
        return old == value ? other : old;
      default:
        break;
    }
    if constexpr (std::is_integral_v<T>) {
      switch (operation) {
        case Operation::and_:
          return old & value;
        case Operation::or_:
          return old | value;
        case Operation::xor_:
          return old ^ value;
        case Operation::inc:
          return old >= value ? T(0) : static_cast<T>(old + 1);
        default:
          return old == 0 || old > value ? value : static_cast<T>(old - 1);
      }
    }
    return old;
  } else {
    return T(static_cast<float>(old) + static_cast<float>(value));
  }
}

template <class T>
Execute atomic_of(Decoder& d, Type type, Operation operation, Space space, bool release, bool acquire) {
  const bool returns = d.opcode() == "atom";
  const Address to = d.address(returns ? 1 : 0);
  const auto value = d.read<T>(returns ? 2 : 1, type);
  const auto other = operation == Operation::cas ? d.read<T>(3, type) : value;
  const auto out = returns && d.text(0) != "_" ? d.write<T>(0) : Write<T>{};
  return [=](Warp& warp, Lanes mask) {
    T vs[kWarp], os[kWarp], result[kWarp];
    const T *v = value(warp, vs), *o = other(warp, os);
    Block& block = *warp.block;
    each_lane(mask, [&](int lane) {
      std::uint64_t address = to.of(warp, lane);
      const bool shared = resolved(space, address) == Space::shared;
      std::byte* at = shared ? block.shared.modify(warp, lane, address, sizeof(T))
                             : block.launch.global.modify(warp, lane, address, sizeof(T));
      if (!shared) block.launch.global.blocks.atomic(address, release, acquire);
      T old;
      std::memcpy(&old, at, sizeof(T));
      result[lane] = old;
      const T fresh = updated(operation, old, v[lane], o[lane]);
      std::memcpy(at, &fresh, sizeof(T));
    });
    if (out.slot.width) out(warp, result, mask);
  };
}

Execute decode_atomic(Decoder& d) {
  const Space space = take_space(d);
  if (space == Space::local || space == Space::parameter) d.refuse("not known: an atomic operation in this space");
  const bool acq_rel = d.take("acq_rel"), release = d.take("release") || acq_rel;
  d.take("acquire");
  take_hints(d);
  d.take("noftz");
  static const std::map<std::string, Operation> kAll = {
      {"add", Operation::add}, {"min", Operation::min},  {"max", Operation::max},   {"and", Operation::and_},
      {"or", Operation::or_},  {"xor", Operation::xor_}, {"exch", Operation::exch}, {"cas", Operation::cas},
      {"inc", Operation::inc}, {"dec", Operation::dec}};
  const auto operation = kAll.at(d.one_of({"add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"}));
  const Type type = d.type();
  const bool bitwise = operation >= Operation::and_ && operation != Operation::exch && operation != Operation::cas;
  if (is_float(type) && (bitwise || (operation != Operation::add && operation != Operation::exch)))
    d.refuse("not known: this operation of floats");
  const bool acquire = d.opcode() == "atom";
  switch (type) {
    case Type::b32:
    case Type::u32:
      return atomic_of<std::uint32_t>(d, type, operation, space, release, acquire);
    case Type::s32:
      return atomic_of<std::int32_t>(d, type, operation, space, release, acquire);
    case Type::b64:
    case Type::u64:
      return atomic_of<std::uint64_t>(d, type, operation, space, release, acquire);
    case Type::s64:
      return atomic_of<std::int64_t>(d, type, operation, space, release, acquire);
    case Type::f32:
      return atomic_of<float>(d, type, operation, space, release, acquire);
    case Type::f64:
      return atomic_of<double>(d, type, operation, space, release, acquire);
    case Type::f16:
      return atomic_of<Half>(d, type, operation, space, release, acquire);
    case Type::bf16:
      return atomic_of<Bfloat>(d, type, operation, space, release, acquire);
    default:
      d.refuse("not known: an atomic operation of this type");
  }
}

Execute decode_fence(Decoder& d) {
  const bool wide = d.take("gl") || d.take("gpu") || d.take("sys");
  for (const auto* name :
       {"cta", "cluster", "sc", "acq_rel", "proxy", "async", "alias", "async::shared", "shared::cta"})
    d.take(name);
  return [wide](Warp& warp, Lanes) {
    if (wide) warp.block->launch.global.blocks.fence();
  };
}

}  // namespace

Execute decode_access(Decoder& d) {
  const std::string& base = d.opcode();
  if (base == "ld" || base == "ldu") return decode_load(d);
  if (base == "st") return decode_store(d);
  if (base == "atom" || base == "red") return decode_atomic(d);
  if (base == "membar" || base == "fence") return decode_fence(d);
  return {};
}

}  // namespace ptx

// From a statement to an Execute: operands to slots, modifiers taken one by one so that none is passed over.
#pragma once

#include <initializer_list>
#include <optional>
#include <string_view>

#include "lanes.hpp"
#include "program.hpp"

namespace ptx {

/// [base + offset]: the base is a register, a symbol's address or a literal.
struct Address {
  Slot base;
  std::int64_t offset;

  std::uint64_t of(Warp& warp, int lane) const {
    const std::uint64_t start =
        base.width == 8 ? warp.at<std::uint64_t>(base)[lane] : warp.at<std::uint32_t>(base)[lane];
    return base.width == 8 ? start + offset : static_cast<std::uint32_t>(start + offset);
  }
};

struct Symbol {
  std::string space;
  std::uint64_t address;
};

/// Names and slots of the entry being decoded.
class Names {
 public:
  explicit Names(Program& program) : program_(program) {}

  Slot allocate(int bytes);
  void registers(const Registers& declared);
  /// The slot of a register that is declared or special, or nothing.
  std::optional<Slot> find(const std::string& name);
  /// A slot that holds the same bits in every lane.
  Slot constant(std::uint64_t bits, int bytes);

  std::map<std::string, Symbol> symbols;
  std::unordered_map<std::string, std::uint32_t> labels;
  std::unordered_map<std::string, std::vector<std::string>> branch_targets;

 private:
  Program& program_;
  std::unordered_map<std::string, Slot> slots_;
  std::map<std::pair<std::uint64_t, int>, Slot> constants_;
};

class Decoder {
 public:
  Decoder(Program& program, Names& names, const Statement& statement, Instruction& out)
      : program(program),
        out(out),
        names_(names),
        statement_(statement),
        parts_(statement.opcode.begin() + 1, statement.opcode.end()) {}

  const std::string& opcode() const { return statement_.opcode[0]; }
  [[noreturn]] void refuse(const std::string& why) const;

  // Modifiers: each is taken from the opcode where it stands; finish() refuses what nobody
  // took, and operands that nobody read.
  bool take(std::string_view name);
  /// The one of `names` that is there; refuses if none is.
  std::string one_of(std::initializer_list<std::string_view> names);
  std::optional<std::string> maybe_one_of(std::initializer_list<std::string_view> names);
  /// The next type.
  Type type();
  /// mMnNkK.
  std::array<int, 3> shape();
  void finish() const;
  /// Passes over all modifiers, of an instruction that is only a hint.
  void take_all() {
    parts_.clear();
    used_ = ~std::uint64_t{0};
  }

  // Operands.
  std::size_t count() const { return statement_.operands.size(); }
  const std::string& text(std::size_t i) const;
  bool has(std::size_t i) const { return i < count(); }
  bool is_vector(std::size_t i) const { return text(i)[0] == '{'; }
  /// The parts of {a, b}, or the operand alone.
  std::vector<std::string> vector(std::size_t i) const;
  /// The parts of d|p.
  std::vector<std::string> pair(std::size_t i) const;
  Address address(std::size_t i) const;
  std::int64_t integer(std::size_t i) const;
  std::uint32_t label(std::size_t i) const;
  std::vector<std::uint32_t> branch_targets(std::size_t i) const;

  /// A register, literal, symbol or special register, read as `type`.
  Slot source(const std::string& operand, Type type) const;
  Slot target(const std::string& operand) const;

  template <class T>
  Read<T> read(const std::string& operand, Type type) const {
    const bool negated = operand[0] == '!';
    Read<T> out{source(negated ? operand.substr(1) : operand, type), negated};
    if (out.slot.width < sizeof(T)) refuse("operand " + operand + " is narrower than its type");
    return out;
  }
  template <class T>
  Read<T> read(std::size_t i, Type type) const {
    return read<T>(text(i), type);
  }
  Read<std::uint8_t> predicate(std::size_t i) const { return read<std::uint8_t>(i, Type::pred); }

  template <class T>
  Write<T> write(const std::string& operand) const {
    Write<T> out{target(operand)};
    const bool fits =
        out.slot.width == sizeof(T) || (std::is_integral_v<T> && out.slot.width > sizeof(T) && out.slot.width > 1);
    if (out.slot.width && !fits) refuse("register " + operand + " does not fit the result");
    return out;
  }
  template <class T>
  Write<T> write(std::size_t i) const {
    return write<T>(text(i));
  }

  Program& program;
  Instruction& out;

 private:
  Names& names_;
  const Statement& statement_;
  mutable std::uint64_t used_ = 0;  // a bit for each operand that was read
  std::vector<std::string> parts_;
};

// One function for a family of instructions: the Execute of the decoder's instruction, or null if it is not of the
// family.
Execute decode_arithmetic(Decoder& d);
Execute decode_functions(Decoder& d);
Execute decode_bits(Decoder& d);
Execute decode_compare(Decoder& d);
Execute decode_convert(Decoder& d);
Execute decode_access(Decoder& d);
Execute decode_collective(Decoder& d);
Execute decode_copies(Decoder& d);
Execute decode_mma(Decoder& d);
Execute decode_wmma(Decoder& d);
Execute decode_wgmma(Decoder& d);
Execute decode_control(Decoder& d);

// Instructions that act on every lane by itself.

template <class T, class R = T, class Op>
Execute unary(Decoder& d, Type type, Op op) {
  return [x = d.read<T>(1, type), out = d.write<R>(0), op](Warp& warp, Lanes mask) {
    T xs[kWarp];
    R result[kWarp];
    const T* a = x(warp, xs);
    for (int i = 0; i < kWarp; ++i) result[i] = op(a[i]);
    out(warp, result, mask);
  };
}

template <class T, class R = T, class S = T, class Op>
Execute binary(Decoder& d, Type type, Op op, Type second = Type::none) {
  if (second == Type::none) second = type;
  return [x = d.read<T>(1, type), y = d.read<S>(2, second), out = d.write<R>(0), op](Warp& warp, Lanes mask) {
    T xs[kWarp];
    S ys[kWarp];
    R result[kWarp];
    const T* a = x(warp, xs);
    const S* b = y(warp, ys);
    for (int i = 0; i < kWarp; ++i) result[i] = op(a[i], b[i]);
    out(warp, result, mask);
  };
}

template <class T, class R = T, class Op>
Execute ternary(Decoder& d, Type type, Op op, Type third = Type::none) {
  using S = R;
  if (third == Type::none) third = type;
  return [x = d.read<T>(1, type), y = d.read<T>(2, type), z = d.read<S>(3, third), out = d.write<R>(0), op](
             Warp& warp, Lanes mask) {
    T xs[kWarp], ys[kWarp];
    S zs[kWarp];
    R result[kWarp];
    const T *a = x(warp, xs), *b = y(warp, ys);
    const S* c = z(warp, zs);
    for (int i = 0; i < kWarp; ++i) result[i] = op(a[i], b[i], c[i]);
    out(warp, result, mask);
  };
}

}  // namespace ptx

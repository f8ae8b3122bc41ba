#include "decode.hpp"

#include <algorithm>
#include <array>

namespace ptx {

Slot Names::allocate(int bytes) {
  const Slot slot{static_cast<std::uint32_t>(program_.file.size()), static_cast<std::uint8_t>(bytes)};
  program_.file.resize(program_.file.size() + static_cast<std::size_t>(bytes) * kWarp,
                       bytes == 1 ? std::byte{0} : std::byte{0xff});
  return slot;
}

void Names::registers(const Registers& declared) {
  const int bytes = std::max(declared.type == Type::pred ? 1 : 2, width(declared.type));
  if (declared.count < 0) slots_[declared.name] = allocate(bytes);
  for (int i = 0; i < declared.count; ++i) slots_[declared.name + std::to_string(i)] = allocate(bytes);
}

std::optional<Slot> Names::find(const std::string& name) {
  if (const auto found = slots_.find(name); found != slots_.end()) return found->second;
  if (name[0] != '%') return {};
  static constexpr std::string_view kSpecial[] = {"%tid.x",          "%tid.y",       "%tid.z",
                                                  "%ntid.x",         "%ntid.y",      "%ntid.z",
                                                  "%ctaid.x",        "%ctaid.y",     "%ctaid.z",
                                                  "%nctaid.x",       "%nctaid.y",    "%nctaid.z",
                                                  "%laneid",         "%warpid",      "%nwarpid",
                                                  "%lanemask_eq",    "%lanemask_lt", "%lanemask_le",
                                                  "%lanemask_gt",    "%lanemask_ge", "%dynamic_smem_size",
                                                  "%total_smem_size"};
  if (std::find(std::begin(kSpecial), std::end(kSpecial), name) == std::end(kSpecial)) return {};
  auto [found, fresh] = program_.specials.try_emplace(name);
  if (fresh) found->second = allocate(4);
  return found->second;
}

Slot Names::constant(std::uint64_t bits, int bytes) {
  auto [found, fresh] = constants_.try_emplace({bits, bytes});
  if (fresh) {
    found->second = allocate(bytes);
    for (int i = 0; i < kWarp; ++i) std::memcpy(program_.file.data() + found->second.offset + i * bytes, &bits, bytes);
  }
  return found->second;
}

void Decoder::refuse(const std::string& why) const { throw Fault(why + " | in: " + statement_.text); }

bool Decoder::take(std::string_view name) {
  const auto found = std::find(parts_.begin(), parts_.end(), name);
  if (found == parts_.end()) return false;
  parts_.erase(found);
  return true;
}

std::optional<std::string> Decoder::maybe_one_of(std::initializer_list<std::string_view> names) {
  for (const auto name : names)
    if (take(name)) return std::string(name);
  return {};
}

std::string Decoder::one_of(std::initializer_list<std::string_view> names) {
  if (auto found = maybe_one_of(names)) return *found;
  std::string list;
  for (const auto name : names) list += " ." + std::string(name);
  refuse("not known: none of" + list + " is there");
}

Type Decoder::type() {
  for (auto i = parts_.begin(); i != parts_.end(); ++i)
    if (const Type found = type_named(*i); found != Type::none) {
      parts_.erase(i);
      return found;
    }
  refuse("the type is missing or not known");
}

std::array<int, 3> Decoder::shape() {
  for (auto i = parts_.begin(); i != parts_.end(); ++i) {
    std::array<int, 3> out{};
    int used = 0;
    if (std::sscanf(i->c_str(), "m%dn%dk%d%n", &out[0], &out[1], &out[2], &used) == 3 && used == int(i->size())) {
      parts_.erase(i);
      return out;
    }
  }
  refuse("the shape is missing");
}

void Decoder::finish() const {
  if (!parts_.empty()) refuse("not known: modifier ." + parts_[0]);
  for (std::size_t i = 0; i < count(); ++i)
    if (!(used_ >> i & 1)) refuse("not known: operand " + statement_.operands[i]);
}

const std::string& Decoder::text(std::size_t i) const {
  if (i >= count()) refuse("operand " + std::to_string(i) + " is missing");
  used_ |= std::uint64_t{1} << i;
  return statement_.operands[i];
}

std::vector<std::string> Decoder::vector(std::size_t i) const {
  const std::string& operand = text(i);
  if (operand[0] != '{') return {operand};
  return split_operands(operand.substr(1, operand.size() - 2));
}

std::vector<std::string> Decoder::pair(std::size_t i) const {
  std::string operand = text(i);
  operand.erase(std::remove(operand.begin(), operand.end(), ' '), operand.end());
  const auto bar = operand.find('|');
  if (bar == std::string::npos) return {operand};
  return {operand.substr(0, bar), operand.substr(bar + 1)};
}

Address Decoder::address(std::size_t i) const {
  std::string operand = text(i);
  if (operand[0] != '[') refuse("an address was expected at operand " + std::to_string(i));
  operand = operand.substr(1, operand.size() - 2);
  operand.erase(std::remove(operand.begin(), operand.end(), ' '), operand.end());
  const auto plus = operand.find_first_of("+-", 1);
  const std::int64_t offset =
      plus == std::string::npos ? 0 : std::stoll(operand.substr(plus + (operand[plus] == '+')), nullptr, 0);
  return {source(operand.substr(0, plus), Type::u64), offset};
}

std::int64_t Decoder::integer(std::size_t i) const {
  std::size_t used = 0;
  std::int64_t out = 0;
  try {
    out = std::stoll(text(i), &used, 0);
  } catch (const std::logic_error&) {
    used = 0;
  }
  if (used != text(i).size()) refuse("an integer literal was expected, not " + text(i));
  return out;
}

std::uint32_t Decoder::label(std::size_t i) const {
  const auto found = names_.labels.find(text(i));
  if (found == names_.labels.end()) refuse("no label " + text(i));
  return found->second;
}

std::vector<std::uint32_t> Decoder::branch_targets(std::size_t i) const {
  const auto found = names_.branch_targets.find(text(i));
  if (found == names_.branch_targets.end()) refuse("no list of branch targets " + text(i));
  std::vector<std::uint32_t> out;
  for (const auto& name : found->second) {
    const auto target = names_.labels.find(name);
    if (target == names_.labels.end()) refuse("no label " + name);
    out.push_back(target->second);
  }
  return out;
}

Slot Decoder::source(const std::string& operand, Type type) const {
  if (const auto slot = names_.find(operand)) {
    if ((slot->width == 1) != (type == Type::pred)) refuse("operand " + operand + " is not of the instruction's type");
    return *slot;
  }
  if (const auto symbol = names_.symbols.find(operand); symbol != names_.symbols.end())
    return names_.constant(symbol->second.address, std::max(4, width(type)));
  const char first = operand[0], second = operand.size() > 1 ? operand[1] : ' ';
  try {
    if (first == '0' && (second == 'f' || second == 'F')) {
      const auto bits = static_cast<std::uint32_t>(std::stoul(operand.substr(2), nullptr, 16));
      if (type == Type::f64)
        return names_.constant(std::bit_cast<std::uint64_t>(double(std::bit_cast<float>(bits))), 8);
      return names_.constant(bits, 4);
    }
    if (first == '0' && (second == 'd' || second == 'D')) {
      const std::uint64_t bits = std::stoull(operand.substr(2), nullptr, 16);
      if (type == Type::f32)
        return names_.constant(std::bit_cast<std::uint32_t>(float(std::bit_cast<double>(bits))), 4);
      return names_.constant(bits, 8);
    }
    if (operand == "WARP_SZ") return names_.constant(kWarp, width(type));
    std::size_t used = 0;
    if (operand.find('.') != std::string::npos) {
      const double value = std::stod(operand, &used);
      if (used != operand.size() || !is_float(type)) refuse("operand " + operand + " is not known");
      if (type == Type::f64) return names_.constant(std::bit_cast<std::uint64_t>(value), 8);
      return names_.constant(std::bit_cast<std::uint32_t>(static_cast<float>(value)), 4);
    }
    const bool negative = first == '-';
    std::uint64_t bits = std::stoull(operand.substr(negative), &used, 0);
    used += negative;
    if (used < operand.size() && operand[used] == 'U') ++used;
    if (used != operand.size()) refuse("operand " + operand + " is not known");
    if (negative) bits = -bits;
    if (type == Type::f32 && bits) refuse("an integer literal stands for a float: " + operand);
    if (type == Type::pred) return names_.constant(bits != 0, 1);
    const int bytes = std::max(2, width(type));
    return names_.constant(bytes == 8 ? bits : bits & ((std::uint64_t{1} << (8 * bytes)) - 1), bytes);
  } catch (const std::logic_error&) {
    refuse("operand " + operand + " is not known");
  }
}

Slot Decoder::target(const std::string& operand) const {
  if (operand == "_") return {};
  const auto slot = names_.find(operand);
  if (!slot) refuse("register " + operand + " is not declared");
  return *slot;
}

namespace {

void place_variables(const std::vector<Variable>& variables, Program& program, Names& names) {
  for (const bool dynamic : {false, true})
    for (const auto& variable : variables) {
      if ((variable.elements == 0) != dynamic) continue;
      std::uint64_t address = 0;
      const auto aligned = [&](std::uint32_t at) {
        return (at + variable.align - 1) / variable.align * variable.align;
      };
      if (variable.space == "shared") {
        if (dynamic) program.shared_bytes = (program.shared_bytes + 15) / 16 * 16;
        address = program.shared_bytes = aligned(program.shared_bytes);
        program.shared_bytes += variable.bytes();
      } else if (variable.space == "local") {
        address = program.local_bytes = aligned(program.local_bytes);
        program.local_bytes += variable.bytes();
      } else if (variable.space == "global" || variable.space == "const") {
        address = (kFirstBuffer + program.module_buffers.size()) << kWindowBits;
        std::vector<std::byte> bytes(variable.bytes());
        for (std::size_t i = 0; i < variable.initial.size(); ++i) {
          const std::string& word = variable.initial[i];
          std::uint64_t bits = word[1] == 'f' || word[1] == 'F' || word[1] == 'd' || word[1] == 'D'
                                   ? std::stoull(word.substr(2), nullptr, 16)
                                   : static_cast<std::uint64_t>(std::stoll(word, nullptr, 0));
          std::memcpy(bytes.data() + i * width(variable.type), &bits, width(variable.type));
        }
        program.module_buffers.push_back(std::move(bytes));
      } else {
        throw Fault("variable " + variable.name + " lies in an unknown space");
      }
      names.symbols[variable.name] = {variable.space, address};
    }
}

void place_parameters(const Entry& entry, Program& program, Names& names) {
  for (const auto& parameter : entry.parameters) {
    const auto align = static_cast<std::uint32_t>(parameter.align);
    const std::uint32_t offset = (program.parameter_bytes + align - 1) / align * align;
    const auto bytes = static_cast<std::uint32_t>(parameter.bytes());
    program.parameters.push_back({parameter.name, parameter.type, parameter.array, offset, bytes});
    program.parameter_bytes = offset + bytes;
    names.symbols[parameter.name] = {"param", offset};
  }
}

/// The narrowest access to shared or global memory that the entry has: decides how fine races are looked for.
int narrowest_access(const Entry& entry) {
  int out = 4;
  for (const auto& statement : entry.statements) {
    static constexpr std::string_view kAccess[] = {"ld", "ldu", "st", "atom", "red", "wmma"};
    const auto& opcode = statement.opcode;
    if (std::find(std::begin(kAccess), std::end(kAccess), opcode[0]) == std::end(kAccess)) continue;
    if (opcode.size() > 1 && (opcode[1] == "param" || opcode[1] == "local")) continue;
    for (const auto& part : opcode)
      if (const Type type = type_named(part); type != Type::none) out = std::min(out, width(type));
  }
  return out;
}

Execute decode_one(Decoder& d) {
  for (const auto family :
       {decode_arithmetic, decode_functions, decode_bits, decode_compare, decode_convert, decode_access,
        decode_collective, decode_copies, decode_mma, decode_wmma, decode_wgmma, decode_control})
    if (Execute run = family(d)) {
      d.finish();
      return run;
    }
  d.refuse("not known: instruction " + d.opcode());
}

}  // namespace

Program decode(const ModuleText& module, const Entry& entry) {
  Program program;
  program.name = entry.name;
  program.threads = entry.threads;
  Names names(program);
  names.labels = entry.labels;
  names.branch_targets = entry.branch_targets;
  for (const auto& declared : entry.registers) names.registers(declared);
  std::vector<Variable> variables = module.variables;
  variables.insert(variables.end(), entry.variables.begin(), entry.variables.end());
  place_variables(variables, program, names);
  place_parameters(entry, program, names);
  program.granule = narrowest_access(entry);
  for (const auto& statement : entry.statements) {
    Instruction out;
    out.text = statement.text;
    for (const auto& part : statement.opcode) out.opcode += (out.opcode.empty() ? "" : ".") + part;
    Decoder d(program, names, statement, out);
    try {
      out.run = decode_one(d);
      if (!statement.predicate.empty()) {
        out.predicated = true;
        out.negated = statement.negated;
        out.predicate = d.source(statement.predicate, Type::pred);
      }
    } catch (const Fault& fault) {
      out.kind = Instruction::plain;
      out.predicated = false;
      out.refusal = fault.what();
      out.run = [message = out.refusal](Warp&, Lanes) { throw Fault(message); };
    }
    program.instructions.push_back(std::move(out));
  }
  // Falling off the end leaves the kernel.
  Instruction end;
  end.kind = Instruction::leave;
  end.text = end.opcode = "exit";
  program.instructions.push_back(std::move(end));
  return program;
}

}  // namespace ptx

// PTX text as statements: comments and debug lines dropped, scopes of register names resolved, nothing interpreted.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "types.hpp"

namespace ptx {

/// A variable of the module or of a body, or a parameter of an entry.
struct Variable {
  std::string space, name;  // space: shared, global, const, local or param
  Type type = Type::none;
  std::int64_t elements = 1;  // 0: the size is given at launch
  int align = 1;
  bool array = false;
  std::vector<std::string> initial;

  std::int64_t bytes() const { return elements * width(type); }
};

/// A register declaration: name, or name0 … name(count − 1).
struct Registers {
  Type type;
  std::string name;
  int count;  // −1: the name alone
};

struct Statement {
  std::string text;
  std::string predicate;  // empty: always
  bool negated = false;
  std::vector<std::string> opcode;    // split at the dots
  std::vector<std::string> operands;  // split at the commas outside of brackets
  int line = 0;
};

struct Entry {
  std::string name;
  std::uint32_t threads = 0;  // of a block, where the entry demands a number
  std::vector<Variable> parameters, variables;
  std::vector<Registers> registers;
  std::vector<Statement> statements;
  std::unordered_map<std::string, std::uint32_t> labels;
  std::unordered_map<std::string, std::vector<std::string>> branch_targets;  // by the name of the list
};

struct ModuleText {
  std::vector<Variable> variables;
  std::vector<Entry> entries;
};

/// Throws Fault at what it cannot read.
ModuleText read_module(const std::string& text);

/// Splits at the commas outside of brackets.
std::vector<std::string> split_operands(const std::string& text);

}  // namespace ptx

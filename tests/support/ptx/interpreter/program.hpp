// A decoded entry: where its registers lie, and its instructions as callables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "text.hpp"

namespace ptx {

struct Warp;
using Lanes = std::uint32_t;  // a bit for each lane of a warp
constexpr int kWarp = 32;
constexpr Lanes kAllLanes = ~Lanes{0};

/// Carries out one instruction for the given lanes.
using Execute = std::function<void(Warp&, Lanes)>;

/// Where 32 lanes of one register lie in a warp's register file. Literals, symbols and special registers have one too.
struct Slot {
  std::uint32_t offset = 0;
  std::uint8_t width = 0;  // bytes a lane; 1: a predicate
};

/// bar.sync and its relatives.
struct BarrierCall {
  enum Kind { sync, arrive, count, all, any } kind = sync;
  Slot id, threads;  // threads.width == 0: all of the block
  Slot result, predicate;
  bool negated = false;
};

struct Instruction {
  enum Kind { plain, branch, indexed_branch, leave, barrier, collective } kind = plain;
  Execute run;
  bool predicated = false, negated = false;
  Slot predicate;
  std::uint32_t target = 0;            // of a branch
  std::vector<std::uint32_t> targets;  // of an indexed branch, and
  Slot index;                          // which of them
  Slot members;                        // of a collective: the lanes that it names; width 0: the whole warp
  BarrierCall barrier_call;
  std::string text, opcode;
  std::string refusal;  // why it is not known; thrown when it is reached
};

/// The windows of generic addresses: bits 36 and up.
constexpr int kWindowBits = 36;
constexpr std::uint64_t kSharedWindow = 1, kLocalWindow = 2, kFirstBuffer = 8;

struct Parameter {
  std::string name;
  Type type;
  bool array;
  std::uint32_t offset, bytes;
};

struct Program {
  std::string name;
  std::uint32_t threads = 0;  // of a block, where the entry demands a number
  std::vector<Parameter> parameters;
  std::uint32_t parameter_bytes = 0;
  std::vector<Instruction> instructions;
  std::vector<std::byte> file;           // a warp's register file as it starts
  std::map<std::string, Slot> specials;  // %tid.x …, those that are read
  std::uint32_t shared_bytes = 0;        // of declared variables; what a launch gives comes after them
  std::uint32_t local_bytes = 0;
  std::vector<std::vector<std::byte>> module_buffers;  // .global and .const variables
  int granule = 4;  // bytes: the narrowest access, so that every access touches whole granules
};

/// Decodes one entry of a module. An instruction that is not known is kept and throws when it is reached.
Program decode(const ModuleText& module, const Entry& entry);

}  // namespace ptx

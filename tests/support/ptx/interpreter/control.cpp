// Branches, exits, block barriers, and the instructions that change nothing that is visible here.

#include <algorithm>

#include "decode.hpp"

namespace ptx {
namespace {

const Execute kNothing = [](Warp&, Lanes) {};

Execute decode_barrier(Decoder& d) {
  d.take("cta");
  d.take("aligned");
  BarrierCall call;
  const auto kind = d.one_of({"sync", "arrive", "red"});
  if (kind == "arrive") call.kind = BarrierCall::arrive;
  std::size_t at = 0;
  if (kind == "red") {
    const auto how = d.one_of({"popc", "and", "or"});
    call.kind = how == "popc" ? BarrierCall::count : how == "and" ? BarrierCall::all : BarrierCall::any;
    d.type();
    call.result = d.target(d.text(at++));
    const auto predicate = d.predicate(d.count() - 1);
    call.predicate = predicate.slot;
    call.negated = predicate.negated;
  }
  call.id = d.source(d.text(at), Type::u32);
  const std::size_t operands = d.count() - at - (kind == "red");
  if (operands == 2)
    call.threads = d.source(d.text(at + 1), Type::u32);
  else if (kind == "arrive")
    d.refuse("bar.arrive needs the number of threads");
  d.out.kind = Instruction::barrier;
  d.out.barrier_call = call;
  return kNothing;
}

}  // namespace

Execute decode_control(Decoder& d) {
  const std::string& base = d.opcode();
  if (base == "bra") {
    d.take("uni");
    d.out.kind = Instruction::branch;
    d.out.target = d.label(0);
    return kNothing;
  }
  if (base == "brx") {
    d.one_of({"idx"});
    d.take("uni");
    d.out.kind = Instruction::indexed_branch;
    d.out.index = d.source(d.text(0), Type::u32);
    d.out.targets = d.branch_targets(1);
    return kNothing;
  }
  if (base == "ret" || base == "exit") {
    d.take("uni");
    d.out.kind = Instruction::leave;
    return kNothing;
  }
  if (base == "bar" || base == "barrier") return decode_barrier(d);
  if (base == "trap") return [](Warp&, Lanes) { throw Fault("trap"); };
  static constexpr std::string_view kHints[] = {"prefetch",       "prefetchu",  "nanosleep",
                                                "createpolicy",   "discard",    "applypriority",
                                                "griddepcontrol", "setmaxnreg", "pmevent"};
  if (std::find(std::begin(kHints), std::end(kHints), base) != std::end(kHints)) {
    d.take_all();
    return kNothing;
  }
  return {};
}

}  // namespace ptx

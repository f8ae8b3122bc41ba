#include "scheduler.hpp"

#include <algorithm>
#include <limits>

namespace ptx {
namespace {

constexpr std::uint32_t kNever = std::numeric_limits<std::uint32_t>::max();

Lanes ready(const Warp& warp) { return warp.alive & ~warp.at_barrier & ~warp.at_collective; }

/// The lanes that go next, those with the lowest pc, and where the next ones wait.
struct Group {
  std::uint32_t pc = kNever, next = kNever;
  Lanes lanes = 0;

  explicit Group(const Warp& warp) {
    const Lanes all = ready(warp);
    each_lane(all, [&](int lane) {
      const std::uint32_t at = warp.pc[lane];
      if (at < pc) {
        next = pc;
        pc = at;
        lanes = 0;
      } else if (at > pc && at < next) {
        next = at;
      }
      if (at == pc) lanes |= Lanes{1} << lane;
    });
  }
};

void go(Warp& warp, Lanes lanes, std::uint32_t pc) {
  each_lane(lanes, [&](int lane) { warp.pc[lane] = pc; });
}

/// Lanes that wait at a collective with the same pc join those that arrive.
Lanes waiting_at(const Warp& warp, std::uint32_t pc) {
  Lanes out = 0;
  each_lane(warp.at_collective, [&](int lane) { out |= Lanes{warp.pc[lane] == pc} << lane; });
  return out;
}

}  // namespace

void Scheduler::run() {
  for (auto& warp : block_.warps) warp.priority = random_();
  for (;;) {
    // By priority: a uniformly random choice would keep the warps level and hide races.
    Warp* next = nullptr;
    bool any_alive = false;
    for (auto& warp : block_.warps) {
      any_alive |= warp.alive != 0;
      if (ready(warp) && (!next || warp.priority > next->priority)) next = &warp;
    }
    if (!any_alive) return;
    if (!next) report_deadlock();
    slice(*next, random_() % 2 ? std::numeric_limits<std::uint64_t>::max() : 1 + random_() % 200);
    next->priority = random_();
  }
}

void Scheduler::slice(Warp& warp, std::uint64_t steps) {
  try {
    advance(warp, steps);
  } catch (const Fault& fault) {
    const std::string& text = block_.launch.program.instructions[warp.current].text;
    const std::string what = fault.what();
    throw Fault(what + (what.find(text) == std::string::npos ? " | at: " + text : "") + " | warp " +
                std::to_string(warp.index));
  }
}

void Scheduler::advance(Warp& warp, std::uint64_t steps) {
  const auto& code = block_.launch.program.instructions;
  auto& executed = block_.launch.executed;
  while (steps > 0) {
    const Group group(warp);
    if (!group.lanes) return;
    std::uint32_t pc = group.pc;
    const Lanes mask = group.lanes;
    for (bool together = true; together && steps > 0; --steps) {
      if (left_-- == 0) throw Fault("a block did not finish within the limit of instructions");
      const Instruction& instruction = code[pc];
      Lanes lanes = mask;
      if (instruction.predicated) {
        const Lanes yes = predicate_mask(warp.at<std::uint8_t>(instruction.predicate));
        lanes &= instruction.negated ? ~yes : yes;
      }
      warp.current = pc;
      executed[pc] += lanes != 0;
      switch (instruction.kind) {
        case Instruction::plain:
          if (lanes) instruction.run(warp, lanes);
          ++pc;
          together = pc < group.next;
          break;
        case Instruction::branch:
          if (lanes == mask) {
            pc = instruction.target;
            together = group.next == kNever;
          } else if (lanes == 0) {
            ++pc;
            together = pc < group.next;
          } else {
            go(warp, mask & ~lanes, pc + 1);
            go(warp, lanes, instruction.target);
            together = false;
            continue;
          }
          break;
        case Instruction::indexed_branch:
          go(warp, mask & ~lanes, pc + 1);
          for (Lanes left = lanes; left;) {
            const auto* const index = warp.at<std::uint32_t>(instruction.index);
            const std::uint32_t chosen = index[std::countr_zero(left)];
            if (chosen >= instruction.targets.size()) throw Fault("an index beyond the list of branch targets");
            Lanes alike = 0;
            for (int lane = 0; lane < kWarp; ++lane) alike |= Lanes{index[lane] == chosen} << lane;
            go(warp, left & alike, instruction.targets[chosen]);
            left &= ~alike;
          }
          together = false;
          continue;
        case Instruction::leave:
          warp.alive &= ~lanes;
          warp.at_collective = 0;
          go(warp, mask & ~lanes, pc + 1);
          if (lanes) complete_all_alive();
          together = false;
          continue;
        case Instruction::barrier:
          go(warp, mask, pc + 1);
          if (lanes) arrive(warp, lanes, instruction);
          together = false;
          continue;
        case Instruction::collective: {
          if (lanes) {
            const Lanes there = lanes | waiting_at(warp, pc);
            const Lanes named = warp.at<std::uint32_t>(instruction.members)[std::countr_zero(lanes)];
            if (lanes & ~named) throw Fault("a lane that takes part is not in the member mask");
            const Lanes needed = named & warp.alive;
            if (needed & ~there) {
              warp.at_collective |= lanes;
              executed[pc] -= 1;
              go(warp, lanes, pc);
              go(warp, mask & ~lanes, pc + 1);
              together = false;
              continue;
            }
            instruction.run(warp, needed);
            if (needed != lanes) {
              warp.at_collective &= ~needed;
              go(warp, mask | needed, pc + 1);
              together = false;
              continue;
            }
          }
          ++pc;
          together = pc < group.next;
          break;
        }
      }
      if (!together || steps == 1) go(warp, mask, pc);
    }
  }
}

std::uint32_t Scheduler::alive() const {
  std::uint32_t out = 0;
  for (const auto& warp : block_.warps) out += std::popcount(warp.alive);
  return out;
}

void Scheduler::arrive(Warp& warp, Lanes lanes, const Instruction& instruction) {
  const BarrierCall& call = instruction.barrier_call;
  const int first = std::countr_zero(lanes);
  const std::uint32_t id = warp.at<std::uint32_t>(call.id)[first];
  if (id >= 16) throw Fault("barrier " + std::to_string(id) + " of 16");
  Barrier& barrier = barriers_[id];
  const std::uint32_t expected = call.threads.width ? warp.at<std::uint32_t>(call.threads)[first] : 0;
  if (expected % kWarp) throw Fault("a barrier of " + std::to_string(expected) + " threads, not whole warps");
  if (barrier.arrived && barrier.expected != expected)
    throw Fault("barrier " + std::to_string(id) + " expects " + std::to_string(barrier.expected) + " threads and " +
                std::to_string(expected) + " threads");
  barrier.expected = expected;
  barrier.arrived += std::popcount(lanes);
  if (call.kind == BarrierCall::arrive) {
    barrier.passed |= 1u << warp.index;
  } else {
    barrier.waiting.push_back({&warp, lanes, warp.current});
    warp.at_barrier |= lanes;
  }
  if (call.predicate.width) {
    const Lanes yes = predicate_mask(warp.at<std::uint8_t>(call.predicate));
    barrier.true_lanes += std::popcount(lanes & (call.negated ? ~yes : yes));
  }
  if (barrier.arrived >= (expected ? expected : alive())) complete(barrier);
}

void Scheduler::complete(Barrier& barrier) {
  Launch& launch = block_.launch;
  std::uint32_t warps = 0;
  const std::uint32_t pc = barrier.waiting.empty() ? 0 : barrier.waiting[0].pc;
  for (const auto& one : barrier.waiting) {
    warps |= 1u << one.warp->index;
    bool divergent = barrier.expected == 0 && one.pc != pc;
    for (const auto& other : barrier.waiting) divergent |= other.warp == one.warp && other.pc != one.pc;
    if (divergent) ++launch.races[{"divergent barrier", one.pc, pc}];
  }
  if (barrier.expected == 0 || (barrier.passed == 0 && barrier.expected >= alive()))
    launch.order.meet_block();
  else
    launch.order.meet_warps(warps, barrier.passed);
  for (const auto& one : barrier.waiting) {
    one.warp->at_barrier &= ~one.lanes;
    const BarrierCall& call = launch.program.instructions[one.pc].barrier_call;
    const std::uint32_t value = call.kind == BarrierCall::count ? barrier.true_lanes
                                : call.kind == BarrierCall::all ? barrier.true_lanes == barrier.arrived
                                                                : barrier.true_lanes > 0;
    each_lane(call.result.width ? one.lanes : 0, [&](int lane) {
      if (call.result.width == 1)
        one.warp->at<std::uint8_t>(call.result)[lane] = static_cast<std::uint8_t>(value);
      else
        one.warp->at<std::uint32_t>(call.result)[lane] = value;
    });
  }
  barrier = {};
}

void Scheduler::complete_all_alive() {
  for (auto& barrier : barriers_)
    if (barrier.arrived && barrier.expected == 0 && barrier.arrived >= alive()) complete(barrier);
}

void Scheduler::report_deadlock() const {
  std::string out = "deadlock:";
  for (const auto& warp : block_.warps) {
    if (!warp.alive) continue;
    const int lane = std::countr_zero(warp.alive);
    const bool barrier = warp.at_barrier >> lane & 1;
    const std::uint32_t pc = warp.pc[lane] - barrier;
    out += " warp " + std::to_string(warp.index) + " waits at `" + block_.launch.program.instructions[pc].text + "`;";
  }
  throw Fault(out);
}

}  // namespace ptx

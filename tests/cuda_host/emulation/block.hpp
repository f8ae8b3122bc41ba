// One block: its threads as fibers, which of them runs next, barriers, and what happens when nobody can go on.
//
// The warp of the highest random priority runs until none of its lanes can, and the priorities change now and then. A
// uniformly random lane would keep the warps level with each other and miss what goes wrong when one runs ahead.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "errors.hpp"
#include "fiber.hpp"
#include "pending_copies.hpp"
#include "sanitizers.hpp"
#include "settings.hpp"
#include "types.hpp"

namespace cuda_host {

inline constexpr unsigned kWarpLanes = 32;

/// Why lanes of a warp wait for each other: when all in `mask` are there, `exchange` runs once on what they brought.
struct Meeting {
  const char* name;
  std::uint32_t mask;
  void* deposit;
  void (*exchange)(void* const* deposits);  // of the 32 lanes; null where a lane takes no part
  bool orders_memory;

  bool same(const Meeting& other) const {
    return name == other.name && mask == other.mask && exchange == other.exchange;
  }
};

struct Thread {
  enum class State { kReady, kAtBlockBarrier, kMeeting, kReturned };

  uint3 index{};
  unsigned number = 0;  // x fastest; its warp and lane follow from it
  State state = State::kReady;
  const Meeting* meeting = nullptr;
  PendingCopies copies;
  Fiber fiber;

  unsigned warp() const { return number / kWarpLanes; }
  unsigned lane() const { return number % kWarpLanes; }
  std::uint32_t bit() const { return 1u << lane(); }
};

struct Warp {
  std::uint32_t existing = 0;  // a block's last warp may be short
  std::uint32_t meeting = 0;
  std::array<std::uint8_t, kWarpLanes> ready{};
  unsigned num_ready = 0;
};

class Block {
 public:
  Block(dim3 size, void (*body)(void*), void* context) : body_(body), context_(context), size_(size) {}

  /// Runs all threads to their end. False: failure() tells why.
  bool run(uint3 index, Random& random);

  const std::string& failure() const { return failure_; }
  uint3 index() const { return index_; }
  dim3 size() const { return size_; }

  /// __syncthreads of the running thread: waits for all threads of the block. One that has returned never comes; the
  /// device may let the others pass, a kernel that counts on it is an error here.
  void synchronize();

  /// The running thread waits for the other lanes of `mine`. The last to come does the exchange and goes on.
  void meet(const Meeting& mine);

  /// In the running thread: the kernel. A thread that has not begun when the block is cancelled does not begin.
  void run_body();
  void fail(const std::string& message);
  void retire();

 private:
  void start();
  void cancel();
  void make_ready(Thread& thread);
  void release_barrier();
  bool complete(Warp& warp, const Meeting& mine);
  void suspend(Thread& self, Thread::State state);
  Thread* next(Random& random);
  std::string deadlock() const;

  void (*body_)(void*);
  void* context_;
  dim3 size_;
  uint3 index_{};
  unsigned num_threads_ = 0, alive_ = 0, at_barrier_ = 0;
  bool cancelled_ = false;
  std::string failure_;
  std::vector<Warp> warps_;
  std::vector<unsigned> priority_;  // warps, the first goes first
  // What ThreadSanitizer is told at barriers: new for every block, so that no block is ordered after another.
  std::vector<std::uint64_t> arrival_, release_;

  // Kept from block to block and launch to launch for their stacks.
  inline static std::deque<Thread> threads_;
};

inline Block* block = nullptr;     // of the thread that runs
inline Thread* current = nullptr;  // the thread that runs

/// All of a launch happens before what the host does next.
inline std::uint64_t launch_end;

/// The bottom of every fiber's stack.
inline void run_thread() {
  Fiber::entered();
  try {
    block->run_body();
  } catch (const Fault& fault) {
    block->fail(fault.message);
  } catch (const Cancelled&) {
  }
  block->retire();
  publish(&launch_end);
  current->fiber.leave(true);
}

inline void Block::run_body() {
  void (*body)(void*);
  void* context;
  {
    const Unwatched bookkeeping;
    if (cancelled_) return;
    body = body_;
    context = context_;
  }
  body(context);
}

inline void Block::start() {
  const Unwatched bookkeeping;
  num_threads_ = alive_ = size_.x * size_.y * size_.z;
  at_barrier_ = 0;
  cancelled_ = false;
  warps_.assign((num_threads_ + kWarpLanes - 1) / kWarpLanes, Warp{});
  priority_.clear();
  for (unsigned w = 0; w < warps_.size(); ++w) priority_.push_back(w);
  arrival_ = std::vector<std::uint64_t>(num_threads_);
  release_ = std::vector<std::uint64_t>(num_threads_);
  while (threads_.size() < num_threads_) threads_.emplace_back();
  for (unsigned i = 0; i < num_threads_; ++i) {
    Thread& thread = threads_[i];
    thread.number = i;
    thread.index = {i % size_.x, i / size_.x % size_.y, i / (size_.x * size_.y)};
    thread.meeting = nullptr;
    thread.copies.clear();
    thread.fiber.start(run_thread);
    warps_[thread.warp()].existing |= thread.bit();
    make_ready(thread);
  }
}

inline bool Block::run(uint3 index, Random& random) {
  index_ = index;
  start();
  {
    const Unwatched bookkeeping;
    block = this;
    random.shuffle(priority_);
    while (alive_ && failure_.empty()) {
      current = next(random);
      if (!current) {
        failure_ = deadlock();
        break;
      }
      current->fiber.resume();
      if (current->fiber.overflowed()) failure_ = text("thread %u used more than its stack", current->number);
    }
    if (alive_) cancel();
    block = nullptr;
    current = nullptr;
  }
  for (unsigned i = 0; i < num_threads_; ++i) threads_[i].fiber.finish();
  return failure_.empty();
}

/// Resumes every thread that has not returned, to throw from where it waits.
inline void Block::cancel() {
  cancelled_ = true;
  for (unsigned i = 0; i < num_threads_; ++i) {
    current = &threads_[i];
    if (current->state != Thread::State::kReturned) current->fiber.resume();
  }
}

inline Thread* Block::next(Random& random) {
  if (random.below(settings.reshuffle_one_in) == 0) random.shuffle(priority_);
  for (const unsigned w : priority_) {
    Warp& warp = warps_[w];
    if (!warp.num_ready) continue;
    std::uint8_t& chosen = warp.ready[random.below(warp.num_ready)];
    Thread& thread = threads_[w * kWarpLanes + chosen];
    chosen = warp.ready[--warp.num_ready];
    return &thread;
  }
  return nullptr;
}

inline void Block::make_ready(Thread& thread) {
  Warp& warp = warps_[thread.warp()];
  thread.state = Thread::State::kReady;
  warp.ready[warp.num_ready++] = static_cast<std::uint8_t>(thread.lane());
}

inline void Block::suspend(Thread& self, Thread::State state) {
  if (!cancelled_) {
    self.state = state;
    self.fiber.leave(false);
  }
  if (cancelled_) throw Cancelled{};
}

inline void Block::synchronize() {
  const Unwatched bookkeeping;
  Thread& self = *current;
  publish(&arrival_[self.number]);
  self.state = Thread::State::kAtBlockBarrier;
  if (++at_barrier_ == num_threads_) release_barrier();
  suspend(self, self.state);
  observe(&release_[self.number]);
}

inline void Block::release_barrier() {
  at_barrier_ = 0;
  for (unsigned i = 0; i < num_threads_; ++i) observe(&arrival_[i]);
  for (unsigned i = 0; i < num_threads_; ++i) {
    publish(&release_[i]);
    make_ready(threads_[i]);
  }
}

inline void Block::meet(const Meeting& mine) {
  const Unwatched bookkeeping;
  Thread& self = *current;
  Warp& warp = warps_[self.warp()];
  if (!(mine.mask & self.bit()))
    throw Fault{text("%s: lane %u is not in its own mask %08x", mine.name, self.lane(), mine.mask)};
  if (mine.orders_memory) publish(&arrival_[self.number]);
  self.meeting = &mine;
  warp.meeting |= self.bit();
  if (!complete(warp, mine)) suspend(self, Thread::State::kMeeting);
  if (mine.orders_memory) observe(&release_[self.number]);
}

/// Whether all lanes of `mine` have come to the same place; then it is done and the others may go on.
inline bool Block::complete(Warp& warp, const Meeting& mine) {
  // A full mask in a short warp names lanes that do not exist.
  const std::uint32_t lanes = mine.mask & warp.existing;
  if ((warp.meeting & lanes) != lanes) return false;
  Thread* const self = current;
  const unsigned first = self->warp() * kWarpLanes;
  std::array<void*, kWarpLanes> deposits{};
  for (std::uint32_t rest = lanes; rest; rest &= rest - 1) {
    const unsigned lane = std::countr_zero(rest);
    const Meeting& theirs = *threads_[first + lane].meeting;
    if (!theirs.same(mine)) return false;
    deposits[lane] = theirs.deposit;
  }
  if (mine.exchange) mine.exchange(deposits.data());
  warp.meeting &= ~lanes;
  for (std::uint32_t rest = lanes; mine.orders_memory && rest; rest &= rest - 1)
    observe(&arrival_[first + std::countr_zero(rest)]);
  for (std::uint32_t rest = lanes; rest; rest &= rest - 1) {
    Thread& thread = threads_[first + std::countr_zero(rest)];
    if (mine.orders_memory) publish(&release_[thread.number]);
    if (&thread != self) make_ready(thread);
  }
  return true;
}

inline void Block::fail(const std::string& message) {
  const Unwatched bookkeeping;
  if (failure_.empty()) failure_ = text("thread %u: %s", current->number, message.c_str());
}

inline void Block::retire() {
  const Unwatched bookkeeping;
  current->state = Thread::State::kReturned;
  --alive_;
}

inline std::string Block::deadlock() const {
  std::string message = "deadlock:";
  for (unsigned w = 0; w < warps_.size(); ++w) {
    std::vector<std::pair<const char*, std::uint32_t>> groups;
    for (unsigned i = w * kWarpLanes; i < num_threads_ && i < (w + 1) * kWarpLanes; ++i) {
      const Thread& thread = threads_[i];
      const char* place = "have returned";
      if (thread.state == Thread::State::kAtBlockBarrier) place = "wait at __syncthreads";
      if (thread.state == Thread::State::kMeeting) place = thread.meeting->name;
      auto group = groups.begin();
      while (group != groups.end() && group->first != place) ++group;
      if (group == groups.end()) group = groups.insert(group, {place, 0});
      group->second |= thread.bit();
    }
    for (const auto& [place, lanes] : groups) message += text(" [warp %u lanes %08x: %s]", w, lanes, place);
  }
  return message;
}

inline uint3 thread_index() {
  const Unwatched bookkeeping;
  return current->index;
}

inline uint3 block_index() {
  const Unwatched bookkeeping;
  return block->index();
}

inline dim3 block_size() {
  const Unwatched bookkeeping;
  return block->size();
}

inline unsigned lane_index() {
  const Unwatched bookkeeping;
  return current->lane();
}

}  // namespace cuda_host

inline void __syncthreads() { cuda_host::block->synchronize(); }

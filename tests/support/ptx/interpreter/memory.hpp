// Memory as a launch sees it: buffers with their own bounds, one block's shared memory, each with its shadow.
#pragma once

#include <memory>
#include <unordered_map>

#include "lanes.hpp"
#include "order.hpp"

namespace ptx {

/// Bytes that one buffer's loads and stores have moved. Distinct: each byte once a launch, or once a block.
struct Traffic {
  std::uint64_t loaded = 0, stored = 0, distinct_loaded = 0, distinct_stored = 0;
  std::uint64_t block_loaded = 0, block_stored = 0;            // distinct, of the current block
  std::uint64_t most_block_loaded = 0, most_block_stored = 0;  // the largest of them
};

/// A buffer of global memory; owns nothing.
struct Buffer {
  Buffer(std::byte* data, std::size_t bytes, std::string name, int granule)
      : data(data),
        bytes(bytes),
        name(std::move(name)),
        shadow(bytes, granule),
        blocks((bytes >> shadow.granule_shift()) + 1) {}

  /// What blocks did to a granule; numbers of blocks count from one.
  struct Blocks {
    std::uint32_t loaded = 0, stored = 0;  // by which block last
    std::uint32_t store_pc = 0, load_pc = 0;
    bool several = false;  // more than one block has loaded it
    bool atomic = false;   // the last store was
  };

  std::byte* data;
  std::size_t bytes;
  std::string name;
  Shadow shadow;
  std::vector<Blocks> blocks;
  Traffic traffic;
};

/// Which earlier blocks the running one comes after: it took part in an atomic operation on an address that they had
/// released by a fence and an atomic operation of their own.
class BlockOrder {
 public:
  void start(std::uint32_t block);
  void fence() { fenced_ = true; }
  void atomic(std::uint64_t address, bool release, bool acquire);
  bool before(std::uint32_t other) const { return other == current_ || after_[other]; }
  bool all_before() const;
  std::uint32_t current() const { return current_; }

 private:
  std::uint32_t current_ = 0;
  bool fenced_ = false;
  std::vector<bool> after_{false};
  std::unordered_map<std::uint64_t, std::vector<bool>> released_;
};

class GlobalMemory {
 public:
  explicit GlobalMemory(int granule) : granule_(granule) {}

  /// The address of the buffer's first byte.
  std::uint64_t add(std::byte* data, std::size_t bytes, std::string name);
  void start_block();

  const std::byte* load(Warp& warp, int lane, std::uint64_t address, int bytes, bool atomic);
  void store(Warp& warp, int lane, std::uint64_t address, int bytes, const std::byte* value);
  /// The bytes of an atomic operation, to be changed by the caller.
  std::byte* modify(Warp& warp, int lane, std::uint64_t address, int bytes);

  const std::vector<std::unique_ptr<Buffer>>& buffers() const { return buffers_; }
  BlockOrder blocks;

 private:
  Buffer& resolve(std::uint64_t address, int bytes, std::size_t& at);
  void count_load(Buffer& buffer, Races& races, std::size_t at, int bytes, std::uint32_t pc, bool atomic);
  template <class Changed>
  void count_store(Buffer& buffer, Races& races, std::size_t at, int bytes, std::uint32_t pc, bool atomic,
                   Changed changed);

  int granule_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

class SharedMemory {
 public:
  SharedMemory(std::size_t bytes, int granule) : data_(bytes), shadow_(bytes, granule) {}

  void start_block() { std::fill(data_.begin(), data_.end(), std::byte{0xff}); }

  const std::byte* load(Warp& warp, int lane, std::uint64_t at, int bytes, bool atomic = false);
  void store(Warp& warp, int lane, std::uint64_t at, int bytes, const std::byte* value);
  std::byte* modify(Warp& warp, int lane, std::uint64_t at, int bytes);
  /// A cp.async is issued: its destination is poison until it is delivered.
  void expect(Warp& warp, int lane, std::uint64_t at, int bytes);
  void deliver(Warp& warp, int lane, const Copy& copy);
  /// A copy that nobody has waited for.
  void forget(const Copy& copy) { shadow_.set_in_flight(copy.offset, copy.bytes, false); }
  /// Records a read that began at an earlier instruction.
  void note_read(Warp& warp, int lane, std::uint64_t at, int bytes, std::uint32_t pc);
  std::size_t bytes() const { return data_.size(); }

 private:
  void check(std::uint64_t at, int bytes) const;

  std::vector<std::byte> data_;
  Shadow shadow_;
};

/// What a launch has while it runs.
struct Launch {
  Program& program;
  GlobalMemory& global;
  std::vector<std::byte> parameters;
  Order order;
  Races races;
  std::vector<std::uint64_t> executed;  // warp instructions, by pc
};

/// A block while it runs.
struct Block {
  Launch& launch;
  SharedMemory& shared;
  std::vector<Warp> warps;
  std::array<std::uint32_t, 3> index;
};

}  // namespace ptx

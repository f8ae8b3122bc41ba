#include "memory.hpp"

#include <algorithm>
#include <string>

namespace ptx {
namespace {

void check_alignment(std::uint64_t address, int bytes) {
  if (address % bytes)
    throw Fault("misaligned: " + std::to_string(bytes) + " bytes at an address that is " +
                std::to_string(address % bytes) + " past a multiple of them");
}

bool differs(const std::byte* memory, const std::byte* value, std::size_t at, std::size_t granule_at, int bytes,
             int granule) {
  const auto from = std::max(at, granule_at), to = std::min(at + bytes, granule_at + granule);
  return std::memcmp(memory + from, value + (from - at), to - from) != 0;
}

}  // namespace

void BlockOrder::start(std::uint32_t block) {
  current_ = block;
  fenced_ = false;
  after_.assign(block + 1, false);
  after_[0] = true;
}

void BlockOrder::atomic(std::uint64_t address, bool release, bool acquire) {
  auto& set = released_[address];
  if (acquire)
    for (std::size_t i = 0; i < set.size(); ++i)
      if (set[i]) after_[i] = true;
  if (release || fenced_) {
    set.resize(std::max<std::size_t>(set.size(), current_ + 1));
    for (std::size_t i = 0; i < current_; ++i)
      if (after_[i]) set[i] = true;
    set[current_] = true;
  }
}

bool BlockOrder::all_before() const { return std::find(after_.begin(), after_.end() - 1, false) == after_.end() - 1; }

std::uint64_t GlobalMemory::add(std::byte* data, std::size_t bytes, std::string name) {
  buffers_.push_back(std::make_unique<Buffer>(data, bytes, std::move(name), granule_));
  return (kFirstBuffer + buffers_.size() - 1) << kWindowBits;
}

void GlobalMemory::start_block() {
  for (auto& buffer : buffers_) buffer->traffic.block_loaded = buffer->traffic.block_stored = 0;
}

Buffer& GlobalMemory::resolve(std::uint64_t address, int bytes, std::size_t& at) {
  // An address a little before a buffer lies at the end of the window before it.
  const std::uint64_t half = std::uint64_t{1} << (kWindowBits - 1);
  const std::uint64_t window = (address + half) >> kWindowBits;
  if (window < kFirstBuffer || window - kFirstBuffer >= buffers_.size())
    throw Fault("out of bounds: address " + std::to_string(address) + " lies in no buffer");
  Buffer& buffer = *buffers_[window - kFirstBuffer];
  const auto offset = static_cast<std::int64_t>(address - (window << kWindowBits));
  if (offset < 0 || offset + bytes > static_cast<std::int64_t>(buffer.bytes))
    throw Fault("out of bounds: " + std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + " of " +
                buffer.name + ", which has " + std::to_string(buffer.bytes));
  check_alignment(address, bytes);
  at = static_cast<std::size_t>(offset);
  return buffer;
}

void GlobalMemory::count_load(Buffer& buffer, Races& races, std::size_t at, int bytes, std::uint32_t pc, bool atomic) {
  Traffic& traffic = buffer.traffic;
  traffic.loaded += bytes;
  const int shift = buffer.shadow.granule_shift(), unit = std::min(granule_, bytes);
  for (std::size_t i = at >> shift; i <= (at + bytes - 1) >> shift; ++i) {
    auto& cell = buffer.blocks[i];
    if (cell.stored && !blocks.before(cell.stored) && !(atomic && cell.atomic))
      ++races[{"read of what another block wrote in " + buffer.name, pc, cell.store_pc}];
    if (cell.loaded != blocks.current()) {
      traffic.block_loaded += unit;
      if (cell.loaded == 0)
        traffic.distinct_loaded += unit;
      else
        cell.several = true;
      cell.loaded = blocks.current();
      cell.load_pc = pc;
    }
  }
  traffic.most_block_loaded = std::max(traffic.most_block_loaded, traffic.block_loaded);
}

template <class Changed>
void GlobalMemory::count_store(Buffer& buffer, Races& races, std::size_t at, int bytes, std::uint32_t pc, bool atomic,
                               Changed changed) {
  Traffic& traffic = buffer.traffic;
  traffic.stored += bytes;
  const int shift = buffer.shadow.granule_shift(), unit = std::min(granule_, bytes);
  for (std::size_t i = at >> shift; i <= (at + bytes - 1) >> shift; ++i) {
    auto& cell = buffer.blocks[i];
    if (changed(i << shift)) {
      if (cell.stored && !blocks.before(cell.stored) && !(atomic && cell.atomic))
        ++races[{"write to what another block wrote in " + buffer.name, pc, cell.store_pc}];
      const bool read_before = cell.several ? blocks.all_before() : cell.loaded == 0 || blocks.before(cell.loaded);
      if (!atomic && !read_before) ++races[{"write to what another block reads in " + buffer.name, pc, cell.load_pc}];
    }
    if (cell.stored != blocks.current()) {
      traffic.block_stored += unit;
      if (cell.stored == 0) traffic.distinct_stored += unit;
      cell.stored = blocks.current();
    }
    cell.store_pc = pc;
    cell.atomic = atomic;
  }
  traffic.most_block_stored = std::max(traffic.most_block_stored, traffic.block_stored);
}

const std::byte* GlobalMemory::load(Warp& warp, int lane, std::uint64_t address, int bytes, bool atomic) {
  std::size_t at;
  Buffer& buffer = resolve(address, bytes, at);
  Launch& launch = warp.block->launch;
  buffer.shadow.read(launch.order, launch.races, {warp.thread(lane), warp.current, atomic}, at, bytes);
  count_load(buffer, launch.races, at, bytes, warp.current, atomic);
  return buffer.data + at;
}

void GlobalMemory::store(Warp& warp, int lane, std::uint64_t address, int bytes, const std::byte* value) {
  std::size_t at;
  Buffer& buffer = resolve(address, bytes, at);
  Launch& launch = warp.block->launch;
  const auto changed = [&](std::size_t i) { return differs(buffer.data, value, at, i, bytes, granule_); };
  buffer.shadow.write(launch.order, launch.races, {warp.thread(lane), warp.current}, at, bytes, changed);
  count_store(buffer, launch.races, at, bytes, warp.current, false, changed);
  std::memcpy(buffer.data + at, value, bytes);
}

std::byte* GlobalMemory::modify(Warp& warp, int lane, std::uint64_t address, int bytes) {
  std::size_t at;
  Buffer& buffer = resolve(address, bytes, at);
  Launch& launch = warp.block->launch;
  const auto always = [](std::size_t) { return true; };
  count_load(buffer, launch.races, at, bytes, warp.current, true);
  buffer.shadow.write(launch.order, launch.races, {warp.thread(lane), warp.current, true}, at, bytes, always);
  count_store(buffer, launch.races, at, bytes, warp.current, true, always);
  return buffer.data + at;
}

void SharedMemory::check(std::uint64_t at, int bytes) const {
  if (at + bytes > data_.size() || at + bytes < at)
    throw Fault("out of bounds: " + std::to_string(bytes) + " bytes at " + std::to_string(at) +
                " of shared memory, which has " + std::to_string(data_.size()));
  check_alignment(at, bytes);
}

const std::byte* SharedMemory::load(Warp& warp, int lane, std::uint64_t at, int bytes, bool atomic) {
  check(at, bytes);
  Launch& launch = warp.block->launch;
  shadow_.read(launch.order, launch.races, {warp.thread(lane), warp.current, atomic}, at, bytes);
  return data_.data() + at;
}

void SharedMemory::store(Warp& warp, int lane, std::uint64_t at, int bytes, const std::byte* value) {
  check(at, bytes);
  Launch& launch = warp.block->launch;
  const int granule = 1 << shadow_.granule_shift();
  shadow_.write(launch.order, launch.races, {warp.thread(lane), warp.current}, at, bytes,
                [&](std::size_t i) { return differs(data_.data(), value, at, i, bytes, granule); });
  std::memcpy(data_.data() + at, value, bytes);
}

std::byte* SharedMemory::modify(Warp& warp, int lane, std::uint64_t at, int bytes) {
  check(at, bytes);
  Launch& launch = warp.block->launch;
  shadow_.write(launch.order, launch.races, {warp.thread(lane), warp.current, true}, at, bytes,
                [](std::size_t) { return true; });
  return data_.data() + at;
}

void SharedMemory::expect(Warp& warp, int lane, std::uint64_t at, int bytes) {
  check(at, bytes);
  Launch& launch = warp.block->launch;
  shadow_.write(launch.order, launch.races, {warp.thread(lane), warp.current}, at, bytes,
                [](std::size_t) { return true; });
  shadow_.set_in_flight(at, bytes, true);
  std::memset(data_.data() + at, 0xff, bytes);
}

void SharedMemory::deliver(Warp& warp, int lane, const Copy& copy) {
  Launch& launch = warp.block->launch;
  shadow_.set_in_flight(copy.offset, copy.bytes, false);
  shadow_.write(launch.order, launch.races, {warp.thread(lane), copy.pc}, copy.offset, copy.bytes,
                [](std::size_t) { return true; });
  std::memcpy(data_.data() + copy.offset, copy.data, copy.bytes);
}

void SharedMemory::note_read(Warp& warp, int lane, std::uint64_t at, int bytes, std::uint32_t pc) {
  Launch& launch = warp.block->launch;
  shadow_.read(launch.order, launch.races, {warp.thread(lane), pc}, at, bytes);
}

}  // namespace ptx

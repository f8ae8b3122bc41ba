// cp.async: groups of copies that a thread commits and waits for. What is not waited for stays poison.

#include "decode.hpp"
#include "memory.hpp"

namespace ptx {
namespace {

/// All but the last `kept` committed groups; with `open`, also the copies of no group yet.
void deliver(Warp& warp, Lanes mask, std::size_t kept, bool open) {
  SharedMemory& shared = warp.block->shared;
  each_lane(mask, [&](int lane) {
    CopyQueue& queue = warp.copies[lane];
    while (queue.committed.size() > kept) {
      for (const Copy& copy : queue.committed.front()) shared.deliver(warp, lane, copy);
      queue.committed.erase(queue.committed.begin());
    }
    if (open) {
      for (const Copy& copy : queue.open) shared.deliver(warp, lane, copy);
      queue.open.clear();
    }
  });
}

Execute decode_issue(Decoder& d) {
  d.one_of({"ca", "cg"});
  if (!d.take("shared") && !d.take("shared::cta")) d.refuse("not known: this cp.async");
  if (!d.take("global")) d.refuse("not known: this cp.async");
  const bool hint = d.take("L2::cache_hint");
  if (hint) d.text(d.count() - 1);
  for (const auto* name : {"L2::64B", "L2::128B", "L2::256B"}) d.take(name);
  const Address to = d.address(0), from = d.address(1);
  const int bytes = static_cast<int>(d.integer(2));
  if (bytes != 4 && bytes != 8 && bytes != 16) d.refuse("cp.async of neither 4, 8 nor 16 bytes");
  const bool sized = d.count() > 3u + hint;
  const auto size = sized ? d.read<std::uint32_t>(3, Type::u32) : Read<std::uint32_t>{};
  return [=](Warp& warp, Lanes mask) {
    std::uint32_t scratch[kWarp];
    const std::uint32_t* read = sized ? size(warp, scratch) : nullptr;
    Block& block = *warp.block;
    each_lane(mask, [&](int lane) {
      Copy copy{static_cast<std::uint32_t>(to.of(warp, lane)), warp.current, static_cast<std::uint8_t>(bytes), {}};
      const std::uint64_t address = from.of(warp, lane);
      const int wanted = sized ? static_cast<int>(read[lane]) : bytes;
      if (wanted < 0 || wanted > bytes)
        throw Fault("cp.async reads " + std::to_string(wanted) + " of " + std::to_string(bytes));
      if (address % bytes) throw Fault("misaligned: the source of a cp.async of " + std::to_string(bytes) + " bytes");
      const int granule = block.launch.program.granule;
      if (wanted % granule) throw Fault("cp.async reads a part of an element: " + std::to_string(wanted) + " bytes");
      for (int i = 0; i < wanted;) {
        const int piece = wanted - i == bytes ? bytes : granule;
        std::memcpy(copy.data + i, block.launch.global.load(warp, lane, address + i, piece, false), piece);
        i += piece;
      }
      block.shared.expect(warp, lane, copy.offset, bytes);
      warp.copies[lane].open.push_back(copy);
    });
  };
}

}  // namespace

Execute decode_copies(Decoder& d) {
  if (d.opcode() != "cp") return {};
  if (!d.take("async")) d.refuse("not known: this cp");
  if (d.take("commit_group"))
    return [](Warp& warp, Lanes mask) {
      each_lane(mask, [&](int lane) {
        CopyQueue& queue = warp.copies[lane];
        queue.committed.push_back(std::move(queue.open));
        queue.open.clear();
      });
    };
  if (d.take("wait_group"))
    return
        [kept = static_cast<std::size_t>(d.integer(0))](Warp& warp, Lanes mask) { deliver(warp, mask, kept, false); };
  if (d.take("wait_all")) return [](Warp& warp, Lanes mask) { deliver(warp, mask, 0, true); };
  return decode_issue(d);
}

}  // namespace ptx

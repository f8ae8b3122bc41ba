// The interface to Python: text in, JSON out.

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <sstream>
#include <utility>

#include "scheduler.hpp"

namespace ptx {
namespace {

struct Module {
  std::vector<Program> programs;
};

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + '"';
}

char* copied(const std::string& text) {
  char* out = new char[text.size() + 1];
  std::memcpy(out, text.c_str(), text.size() + 1);
  return out;
}

std::string described(const Module& module) {
  std::ostringstream out;
  out << '[';
  for (const Program& program : module.programs) {
    if (&program != module.programs.data()) out << ',';
    out << "{\"name\":" << quoted(program.name) << ",\"shared\":" << program.shared_bytes << ",\"parameters\":[";
    for (const auto& parameter : program.parameters)
      out << (&parameter == program.parameters.data() ? "" : ",") << "{\"name\":" << quoted(parameter.name)
          << ",\"type\":" << quoted(type_name(parameter.type)) << ",\"array\":" << (parameter.array ? "true" : "false")
          << ",\"offset\":" << parameter.offset << ",\"bytes\":" << parameter.bytes << '}';
    out << "],\"instructions\":[";
    for (const auto& instruction : program.instructions)
      out << (&instruction == program.instructions.data() ? "" : ",") << '[' << quoted(instruction.opcode) << ','
          << quoted(instruction.text) << ',' << quoted(instruction.refusal) << ']';
    out << "]}";
  }
  out << ']';
  return out.str();
}

std::uint32_t special(const std::string& name, const Block& block, const std::uint32_t* shape,
                      const std::uint32_t* grid, int thread, std::uint32_t dynamic) {
  const int axis = name.back() - 'x', lane = thread % kWarp;
  const std::uint32_t position[] = {thread % shape[0], thread / shape[0] % shape[1], thread / shape[0] / shape[1]};
  if (name.starts_with("%tid")) return position[axis];
  if (name.starts_with("%ntid")) return shape[axis];
  if (name.starts_with("%ctaid")) return block.index[axis];
  if (name.starts_with("%nctaid")) return grid[axis];
  if (name == "%laneid") return lane;
  if (name == "%warpid") return thread / kWarp;
  if (name == "%nwarpid") return static_cast<std::uint32_t>(block.warps.size());
  if (name == "%dynamic_smem_size") return dynamic;
  if (name == "%total_smem_size") return static_cast<std::uint32_t>(block.shared.bytes());
  const Lanes self = Lanes{1} << lane;
  if (name == "%lanemask_eq") return self;
  if (name == "%lanemask_lt") return self - 1;
  if (name == "%lanemask_le") return self | (self - 1);
  if (name == "%lanemask_gt") return ~(self | (self - 1));
  return ~(self - 1);
}

void start_warps(Block& block, const std::uint32_t* shape, const std::uint32_t* grid, std::uint32_t dynamic) {
  const Program& program = block.launch.program;
  const int threads = static_cast<int>(shape[0] * shape[1] * shape[2]);
  for (std::size_t w = 0; w < block.warps.size(); ++w) {
    Warp& warp = block.warps[w];
    warp = Warp{};
    warp.block = &block;
    warp.index = static_cast<int>(w);
    warp.file = program.file;
    warp.local.assign(static_cast<std::size_t>(program.local_bytes) * kWarp, std::byte{0xff});
    for (int lane = 0; lane < kWarp; ++lane) {
      const int thread = warp.thread(lane);
      if (thread < threads) warp.alive |= Lanes{1} << lane;
      for (const auto& [name, slot] : program.specials)
        warp.at<std::uint32_t>(slot)[lane] = special(name, block, shape, grid, thread, dynamic);
    }
  }
}

void run_block(Block& block, Random& random, std::uint64_t limit) {
  try {
    Scheduler(block, random, limit).run();
  } catch (const Fault& fault) {
    std::string where = " | block (" + std::to_string(block.index[0]) + ", " + std::to_string(block.index[1]) + ", " +
                        std::to_string(block.index[2]) + ")";
    throw Fault(fault.what() + where);
  }
  for (auto& warp : block.warps) {
    for (const auto* group :
         {&warp.matrices.open, warp.matrices.committed.empty() ? nullptr : &warp.matrices.committed.back()})
      if (group && !group->empty()) {
        const std::uint32_t pc = group->back().reads.back().pc;
        ++block.launch.races[{"wgmma that is never waited for", pc, pc}];
      }
    for (auto& queue : warp.copies) {
      for (const auto& group : queue.committed)
        for (const auto& copy : group) block.shared.forget(copy);
      for (const auto& copy : queue.open) block.shared.forget(copy);
    }
  }
}

struct Request {
  const char* entry;
  std::uint32_t grid[3], block[3];
  std::uint32_t shared;
  std::uint64_t seed, limit;
  std::int32_t buffer_count;
  void* const* buffers;
  const std::uint64_t* buffer_bytes;
  const std::uint8_t* parameters;  // as they lie in parameter space
  std::uint64_t parameter_bytes;
  const std::int32_t* parameter_buffers;  // for each parameter: the buffer whose address it takes, or −1
};

std::string run(Module& module, const Request& request) {
  const auto found = std::find_if(module.programs.begin(), module.programs.end(),
                                  [&](const Program& program) { return program.name == request.entry; });
  if (found == module.programs.end()) throw Fault(std::string("no entry ") + request.entry);
  Program& program = *found;
  const std::uint32_t threads = request.block[0] * request.block[1] * request.block[2];
  if (threads == 0 || threads > kWarp * kMaxWarps) throw Fault("a block of " + std::to_string(threads) + " threads");

  if (program.threads && threads != program.threads)
    throw Fault("a block of " + std::to_string(threads) + " threads where the kernel demands " +
                std::to_string(program.threads));

  GlobalMemory global(program.granule);
  auto module_buffers = program.module_buffers;
  for (auto& bytes : module_buffers) global.add(bytes.data(), bytes.size(), "a variable of the module");
  std::vector<std::uint64_t> addresses;
  for (int i = 0; i < request.buffer_count; ++i)
    addresses.push_back(global.add(static_cast<std::byte*>(request.buffers[i]), request.buffer_bytes[i],
                                   "buffer " + std::to_string(i)));
  const auto* bytes = reinterpret_cast<const std::byte*>(request.parameters);
  Launch launch{program, global, {bytes, bytes + request.parameter_bytes}, {}, {}, {}};
  launch.executed.resize(program.instructions.size());
  for (std::size_t i = 0; i < program.parameters.size(); ++i)
    if (const int buffer = request.parameter_buffers[i]; buffer >= 0)
      std::memcpy(launch.parameters.data() + program.parameters[i].offset, &addresses[buffer], 8);

  SharedMemory shared(program.shared_bytes + request.shared, program.granule);
  Random random(request.seed);
  std::vector<std::uint32_t> order(request.grid[0] * request.grid[1] * request.grid[2]);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  std::string error;
  Block block{launch, shared, std::vector<Warp>((threads + kWarp - 1) / kWarp), {}};
  for (std::uint32_t count = 0; count < order.size() && error.empty(); ++count) {
    const std::uint32_t at = order[count];
    block.index = {at % request.grid[0], at / request.grid[0] % request.grid[1],
                   at / request.grid[0] / request.grid[1]};
    launch.order.start(static_cast<int>(block.warps.size()));
    global.blocks.start(count + 1);
    global.start_block();
    shared.start_block();
    start_warps(block, request.block, request.grid, request.shared);
    try {
      run_block(block, random, request.limit);
    } catch (const Fault& fault) {
      error = fault.what();
    }
  }

  std::ostringstream out;
  out << "{\"error\":" << quoted(error) << ",\"races\":[";
  const char* comma = "";
  for (const auto& [race, times] : launch.races) {
    out << std::exchange(comma, ",") << '[' << quoted(race.kind) << ',' << race.pc << ',' << race.other << ',' << times
        << ']';
  }
  out << "],\"executed\":[";
  comma = "";
  for (const auto count : launch.executed) out << std::exchange(comma, ",") << count;
  out << "],\"traffic\":[";
  comma = "";
  for (std::size_t i = module_buffers.size(); i < global.buffers().size(); ++i) {
    const Traffic& t = global.buffers()[i]->traffic;
    out << std::exchange(comma, ",") << '[' << t.loaded << ',' << t.stored << ',' << t.distinct_loaded << ','
        << t.distinct_stored << ',' << t.most_block_loaded << ',' << t.most_block_stored << ']';
  }
  out << "]}";
  return out.str();
}

}  // namespace
}  // namespace ptx

extern "C" {

/// A module, or null and a message. The text that comes back is freed with ptx_free.
void* ptx_parse(const char* text, char** message) {
  try {
    auto module = std::make_unique<ptx::Module>();
    const auto read = ptx::read_module(text);
    for (const auto& entry : read.entries) module->programs.push_back(ptx::decode(read, entry));
    *message = ptx::copied(ptx::described(*module));
    return module.release();
  } catch (const std::exception& error) {
    *message = ptx::copied(error.what());
    return nullptr;
  }
}

/// A JSON report, or null and a message.
char* ptx_launch(void* module, const ptx::Request* request, char** message) {
  try {
    return ptx::copied(ptx::run(*static_cast<ptx::Module*>(module), *request));
  } catch (const std::exception& error) {
    *message = ptx::copied(error.what());
    return nullptr;
  }
}

void ptx_free(char* text) { delete[] text; }
void ptx_release(void* module) { delete static_cast<ptx::Module*>(module); }
}

// wgmma: each warp of four multiplies its 16 rows of A, in registers or shared memory, with B in shared memory.
// The results reach the registers at the wait; until then they are NaN, and shared memory must not change.

#include <algorithm>

#include "matrix.hpp"
#include "memory.hpp"

namespace ptx {
namespace {

/// A matrix descriptor: where the 8-row cores of a matrix lie in shared memory.
struct Layout {
  std::uint64_t start, leading, stride;
  int span;     // bytes of a row of the swizzled atom: 16 (none), 32, 64, 128
  int pattern;  // bits of the address that the swizzle takes part in

  explicit Layout(std::uint64_t descriptor)
      : start((descriptor & 0x3fff) << 4),
        leading((descriptor >> 16 & 0x3fff) << 4),
        stride((descriptor >> 32 & 0x3fff) << 4) {
    static constexpr int kSpan[] = {16, 128, 64, 32}, kBits[] = {0, 3, 2, 1};
    span = kSpan[descriptor >> 62];
    pattern = (1 << kBits[descriptor >> 62]) - 1;
    if (descriptor >> 49 & 7) throw Fault("not known: a matrix descriptor with a base offset");
  }

  /// `along`: bytes in the contiguous direction, a multiple of 16; `across`: index in the other one.
  std::uint64_t of(std::uint64_t along, std::uint64_t across) const {
    const std::uint64_t at = start + along % span + across % 8 * span + across / 8 * stride + along / span * leading;
    return at ^ ((at >> 7 & pattern) << 4);
  }
};

/// Reads `rows` × K elements, K-major or (transposed) row-major, in pieces of 16 bytes.
class Operand {
 public:
  Operand(Type type, int k, bool transposed) : type_(type), k_(k), transposed_(transposed) {}

  template <class Put>
  void read(Warp& warp, std::uint64_t descriptor, int first, int rows, MatrixResult& result, Put put) const {
    const Layout layout(descriptor);
    const int bytes = type_ == Type::tf32 ? 4 : 2, piece = 16 / bytes;
    const int outer = transposed_ ? k_ : rows, inner = transposed_ ? rows : k_;
    for (int across = 0; across < outer; ++across)
      for (int along = 0; along < inner; along += piece) {
        const int origin = transposed_ ? 0 : first, shift = transposed_ ? first : 0;
        const std::uint64_t at = layout.of((along + shift) * bytes, across + origin);
        const std::byte* from = warp.block->shared.load(warp, 0, at, 16);
        result.reads.push_back({static_cast<std::uint32_t>(at), 16, warp.current});
        for (int i = 0; i < piece; ++i) {
          const double x = element(type_, from + i * bytes);
          if (transposed_)
            put(along + i, across, x);
          else
            put(across, along + i, x);
        }
      }
  }

 private:
  Type type_;
  int k_;
  bool transposed_;
};

struct Multiply {
  Type type;
  int n, k;
  std::vector<Slot> to, a;
  Slot a_descriptor, b_descriptor;
  Read<std::uint8_t> accumulate;
  double sign;
  Operand a_operand, b_operand;

  void operator()(Warp& warp, Lanes mask) const {
    need_whole_warp(mask);
    MatrixResult result;
    std::vector<double> am(16 * k), bm(k * n), cm(16 * n, 0.0);
    if (a.empty()) {
      a_operand.read(warp, warp.at<std::uint64_t>(a_descriptor)[0], 16 * (warp.index % 4), 16, result,
                     [&](int row, int l, double x) { am[row * k + l] = sign * x; });
    } else {
      const FragmentA layout{type == Type::tf32 ? 1 : 2};
      for (int lane = 0; lane < kWarp; ++lane)
        for (std::size_t i = 0; i < a.size(); ++i)
          for (int part = 0; part < layout.e; ++part)
            am[layout.row(lane, i) * k + layout.column(lane, i, part)] =
                sign * element(type, warp.at<std::byte>(a[i]) + 4 * lane + 4 / layout.e * part);
    }
    b_operand.read(warp, warp.at<std::uint64_t>(b_descriptor)[0], 0, n, result,
                   [&](int column, int l, double x) { bm[l * n + column] = x; });
    multiply_add(16, n, k, am.data(), bm.data(), cm.data());

    std::uint8_t scratch[kWarp];
    const bool add = accumulate(warp, scratch)[0];
    const MatrixResult* before = latest(warp.matrices, to[0].offset);
    result.values.resize(to.size() * kWarp);
    for (std::size_t i = 0; i < to.size(); ++i) {
      result.offsets.push_back(to[i].offset);
      for (int lane = 0; lane < kWarp; ++lane) {
        const int row = (lane >> 2) + 8 * (i >> 1 & 1), column = 8 * (i >> 2) + 2 * (lane & 3) + (i & 1);
        const float old = before ? before->values[i * kWarp + lane] : warp.at<float>(to[i])[lane];
        result.values[i * kWarp + lane] = static_cast<float>(cm[row * n + column] + (add ? old : 0.0));
      }
    }
    for (const Slot slot : to) std::memset(warp.at<std::byte>(slot), 0xff, 4 * kWarp);
    warp.matrices.open.push_back(std::move(result));
  }

  /// The last result in flight that goes to a register.
  static const MatrixResult* latest(const MatrixQueue& queue, std::uint32_t offset) {
    const MatrixResult* out = nullptr;
    const auto look = [&](const std::vector<MatrixResult>& group) {
      for (const auto& result : group)
        if (result.offsets[0] == offset) out = &result;
    };
    for (const auto& group : queue.committed) look(group);
    look(queue.open);
    return out;
  }
};

Execute decode_multiply(Decoder& d) {
  const auto [m, n, k] = d.shape();
  const Type to = d.type(), a = d.type(), b = d.type();
  const bool tf32 = a == Type::tf32 && k == 8, half = (a == Type::bf16 || a == Type::f16) && k == 16;
  if (m != 64 || n % 8 || to != Type::f32 || a != b || !(tf32 || half)) d.refuse("not known: wgmma of this shape");
  const bool in_registers = d.is_vector(1);
  bool transpose_a = false, transpose_b = false;
  std::size_t next = 6;
  if (half) {
    if (!in_registers) transpose_a = d.integer(next++) != 0;
    transpose_b = d.integer(next++) != 0;
  }
  if (d.has(next)) d.refuse("not known: so many operands");
  const auto scale_a = d.integer(4), scale_b = d.integer(5);
  Multiply out{a,
               n,
               k,
               {},
               {},
               {},
               d.source(d.text(2), Type::u64),
               d.predicate(3),
               double(scale_a * scale_b),
               Operand(a, k, transpose_a),
               Operand(a, k, transpose_b)};
  for (const auto& name : d.vector(0)) out.to.push_back(d.target(name));
  if (out.to.size() != static_cast<std::size_t>(n) / 2) d.refuse("the registers do not fit the shape");
  if (in_registers) {
    for (const auto& name : d.vector(1)) out.a.push_back(d.source(name, Type::f32));
    if (out.a.size() != 4) d.refuse("operand A takes four registers");
  } else {
    out.a_descriptor = d.source(d.text(1), Type::u64);
  }
  for (const auto* list : {&out.to, &out.a})
    for (const Slot slot : *list)
      if (slot.width != 4) d.refuse("a matrix register must have 32 bits");
  return out;
}

/// The oldest groups, all but `kept`, reach their registers.
void wait(Warp& warp, std::size_t kept) {
  MatrixQueue& queue = warp.matrices;
  while (queue.committed.size() > kept) {
    const std::vector<MatrixResult> group = std::move(queue.committed.front());
    queue.committed.erase(queue.committed.begin());
    for (const auto& result : group) {
      for (const auto& range : result.reads) warp.block->shared.note_read(warp, 0, range.offset, range.bytes, range.pc);
      if (Multiply::latest(queue, result.offsets[0])) continue;
      for (std::size_t i = 0; i < result.offsets.size(); ++i)
        std::memcpy(warp.file.data() + result.offsets[i], result.values.data() + i * kWarp, sizeof(float) * kWarp);
    }
  }
}

}  // namespace

Execute decode_wgmma(Decoder& d) {
  if (d.opcode() != "wgmma") return {};
  const auto what = d.one_of({"mma_async", "fence", "commit_group", "wait_group"});
  if (!d.take("sync") || !d.take("aligned")) d.refuse("not known: wgmma without .sync.aligned");
  if (what == "mma_async") return decode_multiply(d);
  if (what == "fence") return [](Warp&, Lanes) {};
  if (what == "commit_group")
    return [](Warp& warp, Lanes) {
      warp.matrices.committed.push_back(std::move(warp.matrices.open));
      warp.matrices.open.clear();
    };
  return [kept = static_cast<std::size_t>(d.integer(0))](Warp& warp, Lanes) { wait(warp, kept); };
}

}  // namespace ptx

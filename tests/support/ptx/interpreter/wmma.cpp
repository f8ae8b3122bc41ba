// wmma: load, mma, store. PTX leaves the layout of its fragments open; here element e of lane l is element
// l·(elements a lane) + e of the matrix row by row, and fragments that hold a matrix twice repeat it.

#include <algorithm>

#include "matrix.hpp"
#include "memory.hpp"

namespace ptx {
namespace {

struct Fragment {
  Type type;
  int rows, columns;
  std::vector<Slot> slots;

  int bytes() const { return type == Type::tf32 ? 4 : width(type); }
  /// Distinct elements a lane.
  int elements() const { return rows * columns / kWarp; }
  std::byte* at(Warp& warp, int lane, int e) const {
    const int per_register = std::max(1, 4 / bytes()), wide = std::max(4, bytes());
    return warp.at<std::byte>(slots[e / per_register]) + lane * wide + e % per_register * bytes();
  }
  int held() const { return static_cast<int>(slots.size()) * std::max(1, 4 / bytes()); }
};

Fragment take_fragment(Decoder& d, std::size_t operand, Type type, int rows, int columns, bool target) {
  Fragment out{type, rows, columns, {}};
  for (const auto& name : d.vector(operand)) {
    out.slots.push_back(target ? d.target(name) : d.source(name, width(type) == 8 ? Type::f64 : Type::f32));
    if (out.slots.back().width != std::max(4, out.bytes()))
      d.refuse("fragment register " + name + " has another width");
  }
  if (rows * columns % kWarp || out.held() % out.elements()) d.refuse("not known: this fragment");
  return out;
}

std::array<int, 2> size_of(char matrix, const std::array<int, 3>& shape) {
  const auto [m, n, k] = shape;
  if (matrix == 'a') return {m, k};
  if (matrix == 'b') return {k, n};
  return {m, n};
}

Execute decode_transfer(Decoder& d, bool load) {
  const char matrix = load ? d.one_of({"a", "b", "c"})[0] : d.one_of({"d"})[0];
  const auto shape = d.shape();
  const bool column = d.one_of({"row", "col"}) == "col";
  const auto space = d.maybe_one_of({"shared", "shared::cta", "global"});
  const Type type = d.type();
  const auto [rows, columns] = size_of(matrix, shape);
  const Fragment fragment = take_fragment(d, load ? 0 : 1, type, rows, columns, load);
  const Address address = d.address(load ? 1 : 0);
  const bool strided = d.has(2);
  const auto stride = strided ? d.read<std::uint32_t>(2, Type::u32) : Read<std::uint32_t>{};
  const int dense = column ? rows : columns;
  return [=](Warp& warp, Lanes mask) {
    need_whole_warp(mask);
    std::uint32_t scratch[kWarp];
    const std::uint64_t step = strided ? stride(warp, scratch)[0] : dense;
    std::uint64_t start = address.of(warp, 0);
    bool shared = space && (*space)[0] == 's';
    if (!space && start >> kWindowBits == kSharedWindow) {
      shared = true;
      start -= kSharedWindow << kWindowBits;
    }
    const int bytes = fragment.bytes();
    Block& block = *warp.block;
    for (int lane = 0; lane < kWarp; ++lane)
      for (int e = 0; e < fragment.elements(); ++e) {
        const int flat = lane * fragment.elements() + e, row = flat / columns, col = flat % columns;
        const std::uint64_t at = start + bytes * (column ? col * step + row : row * step + col);
        if (load) {
          const std::byte* from = shared ? block.shared.load(warp, lane, at, bytes)
                                         : block.launch.global.load(warp, lane, at, bytes, false);
          for (int copy = e; copy < fragment.held(); copy += fragment.elements())
            std::memcpy(fragment.at(warp, lane, copy), from, bytes);
        } else if (shared) {
          block.shared.store(warp, lane, at, bytes, fragment.at(warp, lane, e));
        } else {
          block.launch.global.store(warp, lane, at, bytes, fragment.at(warp, lane, e));
        }
      }
  };
}

std::vector<double> gathered(Warp& warp, const Fragment& fragment) {
  std::vector<double> out(fragment.rows * fragment.columns);
  for (int lane = 0; lane < kWarp; ++lane)
    for (int e = 0; e < fragment.elements(); ++e)
      out[lane * fragment.elements() + e] = element(fragment.type, fragment.at(warp, lane, e));
  return out;
}

Execute decode_multiply(Decoder& d) {
  d.one_of({"row", "col"});
  d.one_of({"row", "col"});
  const auto [m, n, k] = d.shape();
  std::vector<Type> types{d.type()};
  for (const auto* name : {"f16", "bf16", "tf32", "f32", "f64"})
    while (d.take(name)) types.push_back(type_named(name));
  // One type more: that of C, with operands of f16; three more: those of A and B before it.
  Type operands = Type::f16;
  for (const Type type : types)
    if (type == Type::bf16 || type == Type::tf32 || type == Type::f64) operands = type;
  const Type result = operands == Type::f64 ? Type::f64 : Type::f32;
  if (types[0] != result || (types.size() != 2 && types.size() != 4)) d.refuse("not known: these types");
  for (const Type type : types)
    if (type != operands && type != result) d.refuse("not known: these types");
  if (operands == Type::f16 && std::count(types.begin(), types.end(), Type::f32) != 2)
    d.refuse("not known: these types");
  const auto to = take_fragment(d, 0, result, m, n, true), a = take_fragment(d, 1, operands, m, k, false),
             b = take_fragment(d, 2, operands, k, n, false), c = take_fragment(d, 3, result, m, n, false);
  return [=, m = m, n = n, k = k](Warp& warp, Lanes mask) {
    need_whole_warp(mask);
    const auto am = gathered(warp, a), bm = gathered(warp, b);
    auto cm = gathered(warp, c);
    multiply_add(m, n, k, am.data(), bm.data(), cm.data());
    for (int lane = 0; lane < kWarp; ++lane)
      for (int e = 0; e < to.elements(); ++e) {
        const double value = cm[lane * to.elements() + e];
        const auto single = static_cast<float>(value);
        if (result == Type::f64)
          std::memcpy(to.at(warp, lane, e), &value, 8);
        else
          std::memcpy(to.at(warp, lane, e), &single, 4);
      }
  };
}

}  // namespace

Execute decode_wmma(Decoder& d) {
  if (d.opcode() != "wmma") return {};
  const auto what = d.one_of({"load", "store", "mma"});
  if (!d.take("sync") || !d.take("aligned")) d.refuse("not known: wmma without .sync.aligned");
  return what == "mma" ? decode_multiply(d) : decode_transfer(d, what == "load");
}

}  // namespace ptx

// The host's side of a call: its plan, and the launches that it takes.
#include "kernels.hpp"
#include "launch.hpp"
#include "reduce.cuh"

namespace ffrl::cuda {

namespace {

/// Blocks of a backward launch, each with a slot for its sums. A constant, lest gradients depend on the device.
constexpr int kMaxBackwardBlocks = 264;
/// Fewer tiles than this leave multiprocessors idle: smaller tiles are better.
constexpr std::int64_t kEnoughTiles = 132;
/// Rows that one split of a weight gradient's sum should have at least.
constexpr std::int64_t kSplitRows = 1024;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

const Kernels& kernels(Precision precision) {
  switch (precision) {
    case Precision::ieee:
      return kIeeeKernels;
    case Precision::tf32:
      return kTf32Kernels;
    case Precision::bf16:
      break;
  }
  return kBf16Kernels;
}

/// Bytes of shared memory that a block may have.
std::int64_t shared_limit() {
  int device = 0, bytes = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return bytes;
}

/// Whether everything of a tile of `rows` rows fits into shared memory, with as many images as may be.
bool fits(Plan& plan, int rows, std::int64_t limit) {
  plan.tile_rows = rows;
  for (const int images : {plan.visits, 1}) {
    plan.resident_networks = images;
    plan.shared_bytes = static_cast<int>(SharedMemory::floats(plan) * sizeof(float));
    if (plan.shared_bytes <= limit) return true;
  }
  return false;
}

void choose_tiles(const Problem& p, Plan& plan) {
  const std::int64_t limit = shared_limit();
  int chosen = 0;
  for (const int rows : {16, 32, 64}) {
    if (!fits(plan, rows, limit)) break;
    chosen = rows;
    if (ceil_div(p.rows, rows) <= kEnoughTiles) break;
  }
  plan.resident = chosen > 0;
  plan.buffers.streamed = !plan.resident;
  plan.tile_rows = plan.resident ? chosen : kStreamedRows;
  if (plan.resident) fits(plan, chosen, limit);
  if (!plan.resident) {
    plan.resident_networks = 0;
    plan.shared_bytes = static_cast<int>(SharedMemory::floats(plan) * sizeof(float));
  }
}

/// Whether the kernel that keeps activations in registers serves the problem, and with which plan.
bool chains(const Problem& p, bool backward, Plan& plan) {
  if (backward || p.gates || p.row_times || p.tangent || p.value_only) return false;
  const bool with_force = p.force.theta != nullptr;
  if (p.potential.depth > 1 || (with_force && p.force.depth > 1)) return false;
  const int width = with_force && p.force.width > p.potential.width ? p.force.width : p.potential.width;
  const int widest = kernels(p.precision).widest_chain;
  if (width > widest || (with_force && width > 128)) return false;
  plan.chained_width = width <= 64 ? 64 : width <= 128 ? 128 : widest;
  const std::int64_t limit = shared_limit();
  plan.tile_rows = 0;
  for (int warps = 1; warps <= 8; ++warps) {
    const PathSizes sizes = kernels(p.precision).path_sizes(p, plan.chained_width, warps);
    if (sizes.shared * std::int64_t(sizeof(float)) > limit) break;
    plan.shared_bytes = static_cast<int>(sizes.shared * sizeof(float));
    plan.image = sizes.image;
    plan.tile_rows = 16 * warps;
    if (ceil_div(p.rows, plan.tile_rows) <= kEnoughTiles) break;
  }
  if (!plan.tile_rows) plan.chained_width = 0;
  return plan.chained_width > 0;
}

/// Hands out workspace piece by piece; of a null one only the size is learnt.
class Workspace {
 public:
  explicit Workspace(float* from) : from_(from) {}
  float* take(std::int64_t floats) {
    const std::int64_t at = used_;
    used_ += ceil_div(floats, 4) * 4;  // of 16 bytes, as asynchronous copies need
    return from_ ? from_ + at : nullptr;
  }
  std::int64_t used() const { return used_; }

 private:
  float* from_;
  std::int64_t used_ = 0;
};

GradientSlots take_slots(const Problem& p, const Plan& plan, const Network& n, Workspace& workspace) {
  const GradientSizes sizes(n);
  GradientSlots slots;
  slots.matrices = workspace.take(std::int64_t(plan.matrix_slots) * plan.networks * sizes.matrices);
  slots.vectors = workspace.take(std::int64_t(plan.blocks) * plan.networks * sizes.vectors);
  if (!p.row_times) slots.times = workspace.take(std::int64_t(plan.blocks) * plan.networks * 2 * p.moments * n.width);
  return slots;
}

cudaError_t pack(const Problem& p, const Plan& plan, cudaStream_t stream) {
  const Kernels& k = kernels(p.precision);
  if (const cudaError_t error = k.pack(p.potential, p.selected, plan.networks, plan.packed_potential, stream))
    return error;
  return p.force.theta ? k.pack(p.force, p.selected, plan.networks, plan.packed_force, stream) : cudaSuccess;
}

/// launch(begin, end, first_tile) for all moments of all tiles. Resident weights are worth keeping through all moments
/// in one launch; streamed ones are read anew at each, so that a launch a moment costs nothing and lets the tiles share
/// them in the second-level cache.
template <class Launch>
cudaError_t each_launch(const Problem& p, const Plan& plan, Launch launch) {
  if (plan.resident) return launch(0, p.moments, 0);
  const std::int64_t all = ceil_div(p.rows, plan.tile_rows);
  for (int moment = 0; moment < p.moments; ++moment)
    for (std::int64_t first_tile = 0; first_tile < all; first_tile += plan.tiles)
      if (const cudaError_t error = launch(moment, moment + 1, first_tile)) return error;
  return cudaSuccess;
}

/// The sums over the rows of a launch of one family's weight matrices, from what the row kernel
/// has left in the row buffers.
cudaError_t sum_matrices(const Problem& p, const Plan& plan, const Network& n, const GradientSlots& slots,
                         int first_visit, bool derivatives, bool fresh, std::int64_t first_tile, cudaStream_t stream) {
  const TileBuffers& at = plan.buffers;
  const std::int64_t visit_size = at.count() * plan.buffer_size();
  const auto common = [&](int number) { return ConstMatrix{plan.rows + number * plan.buffer_size(), plan.pitch}; };
  const auto buffer = [&](int number) {
    return ConstMatrix{plan.rows + first_visit * visit_size + number * plan.buffer_size(), plan.pitch};
  };
  const std::int64_t stride = p.gates ? visit_size : 0;
  const auto sum = [&](MatrixGradient m) {
    m.visit_stride = stride;
    m.height = n.width;
    m.network_stride = GradientSizes(n).matrices;
    m.fresh = fresh;
    m.first_tile = first_tile;
    if (!derivatives) m.pairs.p2.data = m.pairs.q2.data = nullptr;
    return kernels(p.precision).matrix_gradient(p, plan, m, stream);
  };

  MatrixGradient in{};
  in.pairs = {buffer(at.d_q()), common(at.z()), buffer(at.v(0)), common(at.grad())};
  in.width = n.dim;
  in.to = slots.matrices;
  if (const cudaError_t error = sum(in)) return error;
  for (int l = 0; l < n.depth; ++l) {
    MatrixGradient hid{};
    hid.pairs = {buffer(at.d_p(l)), buffer(l > 0 ? at.c(l - 1) : at.s()),
                 buffer(l + 1 < n.depth ? at.v(l + 1) : at.hat()), buffer(at.d_v(l))};
    hid.q_stride = hid.q2_stride = stride;
    hid.width = n.width;
    hid.to = slots.matrices + std::int64_t(n.width) * n.dim + std::int64_t(l) * n.width * n.width;
    if (const cudaError_t error = sum(hid)) return error;
  }
  return cudaSuccess;
}

cudaError_t reduce(const Problem& p, const Plan& plan, const Network& n, const GradientSlots& slots, float* theta,
                   float* tau, float* dtau, cudaStream_t stream) {
  const auto blocks = [](std::int64_t size) {
    return static_cast<unsigned>(size < 1024 * kBankThreads ? ceil_div(size, kBankThreads) : 1024);
  };
  if (theta) {
    const dim3 grid(blocks(n.stride), static_cast<unsigned>(p.potentials));
    FFRL_LAUNCH(reduce_theta_kernel, grid, dim3(kBankThreads), 0, stream, p, plan, n, slots, theta);
  }
  if ((tau || dtau) && !p.row_times) {
    const dim3 grid(blocks(2 * std::int64_t(p.moments) * n.width), static_cast<unsigned>(n.conditioned));
    FFRL_LAUNCH(reduce_times_kernel, grid, dim3(kBankThreads), 0, stream, p, plan, n, slots, tau, dtau);
  }
  return cudaGetLastError();
}

}  // namespace

Plan make_plan(const Problem& p, bool backward, float* from) {
  Plan plan;
  const bool with_force = p.force.theta != nullptr;
  plan.networks = p.selected >= 0 ? 1 : p.potentials;
  plan.visits = (p.gates ? p.potentials : 1) * (with_force ? 2 : 1);
  Workspace workspace(from);
  if (chains(p, backward, plan)) {
    plan.blocks = static_cast<int>(ceil_div(p.rows, plan.tile_rows));
    plan.packed_potential = workspace.take(plan.networks * plan.image);
    if (with_force) plan.packed_force = workspace.take(plan.networks * plan.image);
    plan.workspace = workspace.used();
    return plan;
  }
  const PackedNetwork potential(p.potential), force(with_force ? p.force : p.potential);
  plan.image = potential.size() > force.size() ? potential.size() : force.size();
  int widest = 0;
  for (const int n : {p.potential.dim, p.potential.width, with_force ? p.force.width : 0})
    widest = n > widest ? n : widest;
  plan.pitch = pitch_of(widest);
  plan.buffers.depth = with_force && p.force.depth > p.potential.depth ? p.force.depth : p.potential.depth;
  plan.buffers.backward = backward;
  plan.buffers.tangent = p.tangent != nullptr;
  choose_tiles(p, plan);

  const std::int64_t all = ceil_div(p.rows, plan.tile_rows);
  plan.groups = p.order ? p.potentials : 1;
  plan.tiles = all;
  // Groups of one size fill the device together.
  if (!plan.resident && all > ceil_div(kEnoughTiles, plan.groups)) plan.tiles = ceil_div(kEnoughTiles, plan.groups);
  plan.blocks = static_cast<int>(backward && plan.tiles > kMaxBackwardBlocks ? kMaxBackwardBlocks : plan.tiles);
  const std::int64_t splits = ceil_div(plan.tiles * plan.tile_rows, kSplitRows);
  plan.matrix_slots = plan.resident ? plan.blocks : static_cast<int>(splits);

  plan.packed_potential = workspace.take(plan.networks * potential.size());
  if (with_force) plan.packed_force = workspace.take(plan.networks * force.size());
  if (!plan.resident) plan.rows = workspace.take(plan.visits * plan.buffers.count() * plan.buffer_size());
  if (backward) {
    plan.potential = take_slots(p, plan, p.potential, workspace);
    if (with_force) plan.force = take_slots(p, plan, p.force, workspace);
  }
  plan.workspace = workspace.used();
  return plan;
}

std::int64_t workspace_floats(const Problem& p, bool backward) {
  return p.rows > 0 ? make_plan(p, backward, nullptr).workspace : 0;
}

cudaError_t forward(const Problem& p, const Outputs& out, float* workspace, cudaStream_t stream) {
  if (p.rows == 0) return cudaSuccess;
  const Plan plan = make_plan(p, false, workspace);
  if (plan.chained_width) return kernels(p.precision).chained(p, plan, out, stream);
  if (const cudaError_t error = pack(p, plan, stream)) return error;
  return each_launch(p, plan, [&](int begin, int end, std::int64_t first_tile) {
    return kernels(p.precision).forward(p, plan, out, begin, end, first_tile, stream);
  });
}

cudaError_t backward(const Problem& given, const Saved& saved, const Cotangents& bar, const Gradients& to,
                     float* workspace, cudaStream_t stream) {
  Problem p = given;
  if (!bar.residual) p.force = {};
  Plan plan = make_plan(p, true, workspace);
  if (!to.theta) plan.potential.matrices = plan.potential.vectors = nullptr;
  if (!to.force_theta) plan.force.matrices = plan.force.vectors = nullptr;
  const Kernels& k = kernels(p.precision);
  if (p.rows > 0) {
    if (const cudaError_t error = pack(p, plan, stream)) return error;
    const auto launch = [&](int before, int after, std::int64_t first_tile) {
      const int begin = p.moments - after, end = p.moments - before;
      if (const cudaError_t error = k.backward(p, plan, saved, bar, to, begin, end, first_tile, stream)) return error;
      if (plan.resident) return cudaSuccess;
      const bool fresh = before == 0 && first_tile == 0;
      if (to.theta)
        if (const cudaError_t error =
                sum_matrices(p, plan, p.potential, plan.potential, 0, !p.value_only, fresh, first_tile, stream))
          return error;
      if (!p.force.theta || !to.force_theta) return cudaSuccess;
      return sum_matrices(p, plan, p.force, plan.force, plan.visits / 2, false, fresh, first_tile, stream);
    };
    if (const cudaError_t error = each_launch(p, plan, launch)) return error;
  }
  if (const cudaError_t error = reduce(p, plan, p.potential, plan.potential, to.theta, to.tau, to.dtau, stream))
    return error;
  if (p.force.theta) return reduce(p, plan, p.force, plan.force, to.force_theta, to.force_tau, nullptr, stream);
  // Without a cotangent of the residual the force has no part in anything.
  const std::int64_t times = given.row_times ? given.rows : given.moments;
  if (to.force_theta)
    if (const cudaError_t error =
            cudaMemsetAsync(to.force_theta, 0, sizeof(float) * given.potentials * given.force.stride, stream))
      return error;
  if (to.force_tau)
    return cudaMemsetAsync(to.force_tau, 0, sizeof(float) * given.force.conditioned * times * given.force.width,
                           stream);
  return cudaSuccess;
}

}  // namespace ffrl::cuda

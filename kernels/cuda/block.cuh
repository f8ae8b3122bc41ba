// A block at work on tile after tile: the networks that it holds, and their sums over what each row goes through.
#pragma once

#include "network_tile.cuh"

namespace ffrl::cuda {

template <class P, bool kResident>
class Block {
 public:
  using Net = NetworkTile<P, kResident>;

  __device__ __forceinline__ Block(const Problem& p, const Plan& plan, float* memory)
      : p_(p), plan_(plan), shared_(plan, memory), networks_per_row_(p.gates ? p.potentials : 1) {
    tile.rows = plan.tile_rows;
    tile.pitch = plan.pitch;
    tile.row = shared_.row;
    tile.values = shared_.values;
    tile.buffer_size = plan.buffer_size();
    tile.common = tile.visit = kResident ? shared_.rows : plan.rows;
    if (kResident && plan.resident_networks > 1)
      for (int visit = 0; visit < plan.visits; ++visit) load_image(visit, visit);
  }

  Tile tile;

  __device__ __forceinline__ int networks_per_row() const { return networks_per_row_; }
  __device__ __forceinline__ const TileBuffers& buffers() const { return plan_.buffers; }
  __device__ __forceinline__ Matrix z() const { return tile.buffer(plan_.buffers.z()); }
  __device__ __forceinline__ Matrix grad() const { return tile.buffer(plan_.buffers.grad()); }

  __device__ __forceinline__ void begin_tile(const Tiles& tiles, std::int64_t number) {
    if (!kResident)
      tile.common = plan_.rows + (blockIdx.y * plan_.tiles + number % plan_.tiles) * tile.rows * tile.pitch;
    set_rows(p_, tiles, number, tile);
  }

  /// Visits are the networks that a row goes through: potentials, then as many forces.
  __device__ __forceinline__ bool of_force(int visit) const { return visit >= networks_per_row_; }

  /// The number of a visit's network among those of its family in the plan.
  __device__ __forceinline__ int number(int visit) const {
    return p_.gates ? visit % networks_per_row_ : static_cast<int>(blockIdx.y);
  }

  __device__ __forceinline__ std::int64_t gate_at(int row, int visit, int moment) const {
    const int steps = p_.gates_by_step ? p_.moments / p_.substeps : 1;
    const std::int64_t step = p_.gates_by_step ? moment / p_.substeps : 0;
    return (std::int64_t(row) * steps + step) * p_.potentials + visit % networks_per_row_;
  }

  /// Sums over the networks of a row: kTotalValue, kTotalDt and grad(), with forces too kTotalForce. The potential of
  /// visit 0 comes last. after(net, visit) runs behind the phases of each potential.
  template <class After>
  __device__ __forceinline__ void evaluate(int moment, bool with_forces, After after) {
    each_row(tile,
             [&](int r) { tile.value(kTotalValue, r) = tile.value(kTotalDt, r) = tile.value(kTotalForce, r) = 0; });
    const int last = (with_forces ? plan_.visits : networks_per_row_) - 1;
    for (int visit = last; visit >= 0; --visit) {
      const Net net = network(visit, moment);
      net.values();
      if (!of_force(visit) && !p_.value_only) {
        net.reverse();
        const Matrix sum = grad();
        const bool first = visit == networks_per_row_ - 1;
        net.gradient([&](int r, int n, float x) {
          const float scaled = tile.value(kGate, r) * x;
          sum(r, n) = first ? scaled : sum(r, n) + scaled;
        });
      }
      each_row(tile, [&](int r) {
        const float gate = tile.value(kGate, r);
        tile.value(of_force(visit) ? kTotalForce : kTotalValue, r) += gate * tile.value(kValue, r);
        if (!of_force(visit) && !p_.value_only) tile.value(kTotalDt, r) += gate * tile.value(kDt, r);
      });
      if (!of_force(visit)) after(net, visit);
    }
  }

  /// The network of a visit at a moment, ready for its phases, with its gates among the tile's values.
  __device__ __forceinline__ Net network(int visit, int moment) {
    const Network& n = of_force(visit) ? p_.force : p_.potential;
    Net net{PackedNetwork(n), {}, {}, tile, plan_.buffers, shared_.networks};
    if constexpr (kResident) {
      if (plan_.resident_networks == 1 && held_ != visit) load_image(visit, 0);
      net.net.image = shared_.networks + (plan_.resident_networks > 1 ? visit : 0) * plan_.image;
    } else {
      net.net.image = image(visit);
      tile.visit = tile.common + visit * plan_.buffers.count() * tile.buffer_size;
    }
    const int conditioned = n.conditioned == 1 ? 0 : p_.selected >= 0 ? p_.selected : number(visit);
    net.tau = conditioning(n.tau, shared_.tau, n, conditioned, moment);
    net.dtau = conditioning(n.dtau, shared_.dtau, n, conditioned, moment);
    set_gates(visit, moment);  // behind its barrier all threads see the image and the conditioning too
    return net;
  }

 private:
  __device__ __forceinline__ void set_gates(int visit, int moment) {
    each_row(tile, [&](int r) {
      const int row = tile.row[r];
      tile.value(kGate, r) = row < 0 ? 0.f : p_.gates ? load_global(p_.gates + gate_at(row, visit, moment)) : 1.f;
    });
  }

  __device__ __forceinline__ const float* image(int visit) const {
    const Network& n = of_force(visit) ? p_.force : p_.potential;
    return (of_force(visit) ? plan_.packed_force : plan_.packed_potential) + number(visit) * PackedNetwork(n).size();
  }

  /// To be seen behind the next barrier.
  __device__ __forceinline__ void load_image(int visit, int place) {
    const int size = static_cast<int>(PackedNetwork(of_force(visit) ? p_.force : p_.potential).size());
    copy_async<kThreads>({shared_.networks + place * plan_.image, size}, image(visit), size, 1, size);
    cp_async_commit();
    cp_async_wait<0>();
    held_ = visit;
  }

  __device__ __forceinline__ Conditioning conditioning(const float* from, float* shared, const Network& n, int number,
                                                       int moment) {
    if (!from) return {};
    if (p_.row_times) return {nullptr, from + number * p_.rows * n.width, n.width};
    const float* const at = from + (std::int64_t(number) * p_.moments + moment) * n.width;
    for (int i = static_cast<int>(threadIdx.x); i < padded(n.width); i += kThreads)
      shared[i] = i < n.width ? load_global(at + i) : 0.f;
    return {shared, nullptr, n.width};
  }

  const Problem& p_;
  const Plan& plan_;
  SharedMemory shared_;
  int networks_per_row_;
  int held_ = -1;
};

}  // namespace ffrl::cuda

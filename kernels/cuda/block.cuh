// A block at work on tile after tile: the networks that it holds, and their sums over what each row goes through.
#pragma once

#include "network_tile.cuh"

namespace ffrl::cuda {

template <class P, bool kResident>
class Block {
 public:
  using Net = NetworkTile<P, kResident>;

  __device__ Block(const Problem& p, const Plan& plan, float* memory)
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

  __device__ int networks_per_row() const { return networks_per_row_; }
  __device__ const TileBuffers& buffers() const { return plan_.buffers; }
  __device__ Matrix z() const { return tile.buffer(plan_.buffers.z()); }
  __device__ Matrix grad() const { return tile.buffer(plan_.buffers.grad()); }

  __device__ void begin_tile(const Tiles& tiles, std::int64_t number) {
    if (!kResident) tile.common = plan_.rows + (tiles.before + number) * tile.rows * tile.pitch;
    set_rows(p_, tiles, number, tile);
  }

  /// The network of a visit, 0 … networks_per_row() − 1, at a moment, ready for its phases.
  __device__ Net potential(int visit, int moment) { return network(p_.potential, visit, visit, moment); }
  __device__ Net force(int visit, int moment) {
    return network(p_.force, visit, networks_per_row_ + visit, moment);
  }

  /// The number of a visit's network among those of the plan.
  __device__ int number(int visit) const { return p_.gates ? visit : static_cast<int>(blockIdx.y); }

  __device__ std::int64_t gate_at(int row, int visit, int moment) const {
    const int steps = p_.gates_by_step ? p_.moments / p_.substeps : 1;
    const std::int64_t step = p_.gates_by_step ? moment / p_.substeps : 0;
    return (std::int64_t(row) * steps + step) * p_.potentials + visit;
  }

  __device__ void set_gates(int visit, int moment) {
    each_row(tile, [&](int r) {
      const int row = tile.row[r];
      tile.value(kGate, r) = row < 0 ? 0.f : p_.gates ? load_global(p_.gates + gate_at(row, visit, moment)) : 1.f;
    });
  }

  /// Sums over the potentials of a row: kTotalValue, kTotalDt and grad(). after(net) runs behind the phases of each.
  template <class After>
  __device__ void evaluate_potentials(int moment, After after) {
    each_row(tile, [&](int r) { tile.value(kTotalValue, r) = tile.value(kTotalDt, r) = 0; });
    for (int visit = 0; visit < networks_per_row_; ++visit) {
      const Net net = potential(visit, moment);
      set_gates(visit, moment);
      net.values();
      if (!p_.value_only) {
        net.reverse();
        const Matrix sum = grad();
        net.gradient([&](int r, int n, float x) {
          const float scaled = tile.value(kGate, r) * x;
          sum(r, n) = visit == 0 ? scaled : sum(r, n) + scaled;
        });
      }
      each_row(tile, [&](int r) {
        tile.value(kTotalValue, r) += tile.value(kGate, r) * tile.value(kValue, r);
        if (!p_.value_only) tile.value(kTotalDt, r) += tile.value(kGate, r) * tile.value(kDt, r);
      });
      after(net, visit);
    }
  }

  /// Sums over the forces of a row: kTotalForce.
  __device__ void evaluate_forces(int moment) {
    each_row(tile, [&](int r) { tile.value(kTotalForce, r) = 0; });
    if (!p_.force.theta) return;
    for (int visit = 0; visit < networks_per_row_; ++visit) {
      const Net net = force(visit, moment);
      set_gates(visit, moment);
      net.values();
      each_row(tile, [&](int r) { tile.value(kTotalForce, r) += tile.value(kGate, r) * tile.value(kValue, r); });
    }
  }

 private:
  __device__ const float* image(int visit) const {
    const bool of_force = visit >= networks_per_row_;
    const Network& n = of_force ? p_.force : p_.potential;
    return (of_force ? plan_.packed_force : plan_.packed_potential) +
           number(of_force ? visit - networks_per_row_ : visit) * PackedNetwork(n).size();
  }

  __device__ void load_image(int visit, int place) {
    const Network& n = visit >= networks_per_row_ ? p_.force : p_.potential;
    const int size = static_cast<int>(PackedNetwork(n).size());
    copy_async<kThreads>({shared_.networks + place * plan_.image, size}, image(visit), size, 1, size);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    held_ = visit;
  }

  __device__ Net network(const Network& n, int network_visit, int visit, int moment) {
    Net net{PackedNetwork(n), {}, {}, tile, plan_.buffers, shared_.networks};
    if constexpr (kResident) {
      if (plan_.resident_networks == 1 && held_ != visit) load_image(visit, 0);
      net.net.image = shared_.networks + (plan_.resident_networks > 1 ? visit : 0) * plan_.image;
    } else {
      net.net.image = image(visit);
      tile.visit = tile.common + visit * plan_.buffers.count() * tile.buffer_size;
    }
    const int conditioned = n.conditioned == 1 ? 0 : p_.selected >= 0 ? p_.selected : number(network_visit);
    net.tau = conditioning(n.tau, shared_.tau, n, conditioned, moment);
    net.dtau = conditioning(n.dtau, shared_.dtau, n, conditioned, moment);
    return net;
  }

  __device__ Conditioning conditioning(const float* from, float* shared, const Network& n, int number, int moment) {
    if (!from) return {};
    if (p_.row_times) return {nullptr, from + number * p_.rows * n.width, n.width};
    const float* const at = from + (std::int64_t(number) * p_.moments + moment) * n.width;
    for (int i = static_cast<int>(threadIdx.x); i < padded(n.width); i += kThreads)
      shared[i] = i < n.width ? load_global(at + i) : 0.f;
    __syncthreads();
    return {shared, nullptr, n.width};
  }

  const Problem& p_;
  const Plan& plan_;
  SharedMemory shared_;
  int networks_per_row_;
  int held_ = -1;
};

}  // namespace ffrl::cuda

// The two kernels on rows. One launch takes its tiles through any number of moments: rows are independent, so that a
// tile needs nothing of another between its steps.
#pragma once

#include "block.cuh"
#include "network_cotangents.cuh"

namespace ffrl::cuda {

/// Outputs at the moments begin … end − 1 of the rows of plan.tiles tiles of each group, from the first on.
template <class P, bool kResident>
__global__ void __launch_bounds__(kThreads, 1)
    forward_kernel(const Problem p, const Plan plan, const Outputs out, int begin, int end, std::int64_t first_tile) {
  FFRL_SHARED(float, memory);
  Block<P, kResident> block(p, plan, memory);
  const Tile& tile = block.tile;
  const Tiles tiles(p, plan.tile_rows, static_cast<int>(blockIdx.y));
  const int dim = p.potential.dim;
  const std::int64_t size = p.rows * dim;
  const std::int64_t last_tile = tiles.count < first_tile + plan.tiles ? tiles.count : first_tile + plan.tiles;
  for (std::int64_t number = first_tile + blockIdx.x; number < last_tile; number += gridDim.x) {
    block.begin_tile(tiles, number);
    const Matrix z = block.z(), grad = block.grad();
    if (begin == 0)
      load_rows(tile, z, p.z, p.z_stride, dim);
    else
      load_rows(tile, z, out.path + begin * size, dim, dim);
    const auto store = [&](float* to, const Matrix& from) {
      each(tile, dim, [&](int r, int n) {
        if (tile.row[r] >= 0) store_global(to + std::int64_t(tile.row[r]) * dim + n, from(r, n));
      });
    };
    if (out.path && begin == 0) store(out.path, z);

    for (int moment = begin; moment < end; ++moment) {
      const bool written = moment % p.substeps == 0;
      block.evaluate(moment, p.force.theta && written, [&](const auto& net, int visit) {
        if (!p.tangent) return;
        // Into the buffers of this visit, which are the tile's own only from its network on.
        load_rows(tile, tile.buffer(block.buffers().x()), p.tangent, p.tangent_shared ? 0 : dim, dim);
        const bool first = visit == block.networks_per_row() - 1;
        net.hessian_product([&](int r, int n, float x) {
          if (tile.row[r] < 0 || n >= dim) return;
          float* const to = out.hvp + std::int64_t(tile.row[r]) * dim + n;
          const float scaled = tile.value(kGate, r) * x;
          store_global(to, first ? scaled : load_global(to) + scaled);
        });
      });

      const std::int64_t first = moment / p.substeps * p.rows;
      if (written)
        each_row(tile, [&](int r) {
          if (tile.row[r] < 0) return;
          if (out.u) store_global(out.u + first + tile.row[r], tile.value(kTotalValue, r));
          if (out.dt) store_global(out.dt + first + tile.row[r], tile.value(kTotalDt, r));
        });
      if (p.residual && written)
        each_row_sum(
            tile, dim, [&](int r, int n) { return grad(r, n) * grad(r, n); },
            [&](int r, float sum) {
              if (tile.row[r] < 0) return;
              const float f = tile.value(kTotalForce, r);
              const float residual = tile.value(kTotalDt, r) + 0.5f * sum + f * f + row_value(tile, p.drive, r);
              store_global(out.residual + first + tile.row[r], residual);
            });
      if (out.grad) store(out.grad, grad);
      if (out.path) {
        each(tile, dim, [&](int r, int n) { z(r, n) += p.step * grad(r, n); });
        store(out.path + (moment + 1) * size, z);
      }
    }
  }
}

/// Where this block sums the gradient of the network of a visit.
__device__ __forceinline__ BlockSums block_sums(const Problem& p, const Plan& plan, const Network& n,
                                                const GradientSlots& slots, int network, int moment, float* tau,
                                                float* dtau) {
  BlockSums sums;
  const std::int64_t slot = std::int64_t(blockIdx.x) * plan.networks + network;
  const GradientSizes sizes(n);
  if (slots.matrices && plan.resident) sums.matrices = slots.matrices + slot * sizes.matrices;
  if (slots.vectors) sums.vectors = slots.vectors + slot * sizes.vectors;
  if (p.row_times) {
    const std::int64_t skipped = std::int64_t(n.conditioned == 1 ? 0
                                              : p.selected >= 0  ? p.selected
                                                                 : network) *
                                 p.rows * n.width;
    if (tau) sums.tau_by_row = tau + skipped;
    if (dtau) sums.dtau_by_row = dtau + skipped;
  } else if (slots.times) {
    float* const times = slots.times + (slot * 2 * p.moments + moment) * n.width;
    if (tau) sums.tau = times;
    if (dtau) sums.dtau = times + std::int64_t(p.moments) * n.width;
  }
  return sums;
}

/// Gradients at the moments end − 1 … begin of the same rows. to.z holds dL/dz of the moment that comes after them, or
/// is set where they are the last; the activations are computed again.
template <class P, bool kResident>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(const Problem p, const Plan plan, const Saved saved, const Cotangents bar, const Gradients to,
                    int begin, int end, std::int64_t first_tile) {
  FFRL_SHARED(float, memory);
  Block<P, kResident> block(p, plan, memory);
  const Tile& tile = block.tile;
  const Tiles tiles(p, plan.tile_rows, static_cast<int>(blockIdx.y));
  const int dim = p.potential.dim;
  const std::int64_t size = p.rows * dim;
  const std::int64_t last_tile = tiles.count < first_tile + plan.tiles ? tiles.count : first_tile + plan.tiles;
  for (std::int64_t number = first_tile + blockIdx.x; number < last_tile; number += gridDim.x) {
    block.begin_tile(tiles, number);
    const Matrix z = block.z(), grad = block.grad();
    const auto each_entry = [&](auto f) {
      each(tile, padded(dim),
           [&](int r, int n) { f(r, n, tile.row[r] >= 0 && n < dim ? std::int64_t(tile.row[r]) * dim + n : -1); });
    };
    if (to.z && end == p.moments)
      each_entry([&](int, int, std::int64_t i) {
        if (i >= 0) store_global(to.z + i, bar.path ? load_global(bar.path + p.moments * size + i) : 0.f);
      });

    for (int moment = end - 1; moment >= begin; --moment) {
      const bool written = moment % p.substeps == 0;
      const bool with_residual = bar.residual && written;
      const std::int64_t first = moment / p.substeps * p.rows;
      if (saved.path)
        load_rows(tile, z, saved.path + moment * size, dim, dim);
      else
        load_rows(tile, z, p.z, p.z_stride, dim);

      if (with_residual && saved.grad)
        load_rows(tile, grad, saved.grad, dim, dim);
      else if (with_residual)
        block.evaluate(moment, p.force.theta, [](const auto&, int) {});
      const bool evaluated = with_residual && !saved.grad;
      each_row(tile, [&](int r) {
        const auto value = [&](const float* from) { return from && written ? row_value(tile, from + first, r) : 0.f; };
        const float of_residual = value(bar.residual);
        tile.value(kResidualBar, r) = of_residual;
        tile.value(kValueBar, r) = value(bar.u);
        tile.value(kDtBar, r) = value(bar.dt) + of_residual;
        tile.value(kForceBar, r) = with_residual ? 2 * of_residual * tile.value(kTotalForce, r) : 0.f;
      });
      each_entry([&](int r, int n, std::int64_t i) {
        float sum = with_residual ? tile.value(kResidualBar, r) * grad(r, n) : 0.f;
        if (i >= 0 && bar.grad) sum += load_global(bar.grad + i);
        if (i >= 0 && saved.path) {
          const float after = load_global(to.z + i);
          sum += p.step * after;
          if (bar.path) store_global(to.z + i, after + load_global(bar.path + moment * size + i));
        }
        grad(r, n) = sum;
      });

      for (int visit = 0; visit < plan.visits; ++visit) {
        const bool of_force = block.of_force(visit);
        const Network& network = of_force ? p.force : p.potential;
        const bool value_only = of_force || p.value_only;
        const auto net = block.network(visit, moment);
        if (visit > 0 || !evaluated) {
          net.values();
          if (!value_only) net.reverse();
        }
        const auto d_gate = [&](int r, float x) {
          if (!to.gates || tile.row[r] < 0) return;
          float* const at = to.gates + block.gate_at(tile.row[r], visit, moment);
          store_global(at, load_global(at) + x);
        };
        BlockSums sums = block_sums(p, plan, network, of_force ? plan.force : plan.potential, block.number(visit),
                                    moment, of_force ? to.force_tau : to.tau, of_force ? nullptr : to.dtau);
        sums.fresh_time = number == blockIdx.x;
        sums.fresh = sums.fresh_time && moment == p.moments - 1;
        const NetworkCotangents<P, kResident> sweep{net, sums, dim, network.width};
        if (value_only)
          sweep.backward_value(of_force ? kForceBar : kValueBar, to.z, d_gate);
        else
          sweep.backward(to.z, d_gate);
      }
    }
  }
}

}  // namespace ffrl::cuda

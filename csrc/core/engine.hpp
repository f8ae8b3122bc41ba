// One call: pack the weights, run every thread's tiles, sum the weight gradients in a fixed order.
#pragma once

#include <omp.h>

#include "memory.hpp"
#include "network_tile.hpp"
#include "problem.hpp"
#include "schedule.hpp"

namespace ffrl::FFRL_ISA {

/// All K networks of one side of the problem (the potentials, or the forces), packed.
template <class T>
class PackedBank {
 public:
  PackedBank(const Network<T>& net, std::int64_t potentials, std::int64_t selected, std::int64_t times, Carver& memory)
      : net_(net),
        count_(net ? (selected >= 0 ? 1 : potentials) : 0),
        first_(selected >= 0 ? selected : 0),
        times_(times) {
    const NetworkShape& s = net.shape;
    const std::int64_t h = s.width, l = s.depth, hp = padded<T>(h);
    networks_ = memory.take<PackedNetwork<T>>(count_);
    auto* panels = memory.take<Panels<T>>(count_ * 2 * l);
    in_ = memory.take<T>(count_ * panels_size<T>(s.dim, h));
    in_transposed_ = memory.take<T>(count_ * panels_size<T>(h, s.dim));
    hid_ = memory.take<T>(count_ * l * panels_size<T>(h, h));
    hid_transposed_ = memory.take<T>(count_ * l * panels_size<T>(h, h));
    vectors_ = memory.take<T>(count_ * hp * (4 + l));
    if (!networks_) return;
    for (std::int64_t i = 0; i < count_; ++i) {
      PackedNetwork<T>& w = networks_[i];
      w.hid = panels + i * 2 * l;
      w.hid_transposed = w.hid + l;
      w.b_in = vectors_ + i * hp * (4 + l);
      w.w_out = w.b_in + hp;
      w.tau = net.tau && times == 1 ? w.w_out + hp : nullptr;
      w.dtau = net.dtau && times == 1 ? w.w_out + 2 * hp : nullptr;
      w.b_hid = w.w_out + 3 * hp;
    }
  }

  const PackedNetwork<T>& operator[](std::int64_t potential) const { return networks_[potential - first_]; }

  /// Pieces of work that threads may share.
  std::int64_t pieces() const { return count_ * (2 + 2 * net_.shape.depth); }

  void pack_piece(std::int64_t piece) {
    const NetworkShape& s = net_.shape;
    const Layout at(s);
    const std::int64_t h = s.width, d = s.dim, each = 2 + 2 * s.depth, i = piece / each, part = piece % each;
    const T* theta = net_.theta + (first_ + i) * net_.stride;
    PackedNetwork<T>& w = networks_[i];
    if (part == 0) {
      w.in = pack<T>(theta + at.w_in, 1, d, d, h, in_ + i * panels_size<T>(d, h));
      pack_vectors(theta, at, i, w);
    } else if (part == 1) {
      w.in_transposed = pack<T>(theta + at.w_in, d, 1, h, d, in_transposed_ + i * panels_size<T>(h, d));
    } else {
      const std::int64_t l = (part - 2) / 2, block = (i * s.depth + l) * panels_size<T>(h, h);
      const T* source = theta + at.w_hid + l * h * h;
      if (part % 2 == 0)
        w.hid[l] = pack<T>(source, 1, h, h, h, hid_ + block);
      else
        w.hid_transposed[l] = pack<T>(source, h, 1, h, h, hid_transposed_ + block);
    }
  }

  /// τ and dτ/dt of potential k at time i, unpadded; null where there is none.
  const T* tau(std::int64_t k, std::int64_t i) const { return conditioning(net_.tau, k, i); }
  const T* dtau(std::int64_t k, std::int64_t i) const { return conditioning(net_.dtau, k, i); }

 private:
  const T* conditioning(const T* of, std::int64_t k, std::int64_t i) const {
    return of ? of + ((net_.conditioned > 1 ? k : 0) * times_ + i) * net_.shape.width : nullptr;
  }

  void pack_vectors(const T* theta, const Layout& at, std::int64_t i, PackedNetwork<T>& w) {
    const NetworkShape& s = net_.shape;
    const std::int64_t h = s.width, hp = padded<T>(h), k = first_ + i;
    copy_padded(theta + at.b_in, h, w.b_in);
    copy_padded(theta + at.w_out, h, w.w_out);
    for (std::int64_t l = 0; l < s.depth; ++l) copy_padded(theta + at.b_hid + l * h, h, w.b_hid + l * hp);
    w.b_out = theta[at.b_out];
    w.energy = s.separable ? theta[at.energy] : T(0);
    if (w.dtau) copy_padded(dtau(k, 0), h, w.dtau);
    if (w.tau) {
      // W_1 (a + τ) + b = W_1 a + (b + W_1 τ): a time that all rows share costs nothing in the tile.
      copy_padded(tau(k, 0), h, w.tau);
      for (std::int64_t n = 0; n < h; ++n) {
        const T* row = theta + at.w_hid + n * h;
        // In double: an error here would be the same in every row, and sums over rows would not average it out.
        double sum = w.b_hid[n];
        for (std::int64_t j = 0; j < h; ++j) sum += double(row[j]) * w.tau[j];
        w.b_hid[n] = static_cast<T>(sum);
      }
    }
  }

  static void copy_padded(const T* from, std::int64_t n, T* to) {
    __builtin_memcpy(to, from, n * sizeof(T));
    for (std::int64_t i = n; i < padded<T>(n); ++i) to[i] = T(0);
  }

  Network<T> net_;
  std::int64_t count_, first_, times_;
  PackedNetwork<T>* networks_;
  T *in_, *in_transposed_, *hid_, *hid_transposed_, *vectors_;
};

/// One thread's scratch for the rows of a tile.
template <class T>
struct RowScratch {
  RowScratch(const Problem<T>& p, Carver& memory) {
    const std::int64_t dp = padded<T>(p.potential.shape.dim), rows = kTileRows;
    const std::int64_t hp = padded<T>(max(p.potential.shape.width, p.force ? p.force.shape.width : 0));
    z = memory.take<T>(rows * dp);
    grad = memory.take<T>(rows * dp);
    d_z = memory.take<T>(rows * dp);
    tau = memory.take<T>(rows * hp);
    dtau = memory.take<T>(rows * hp);
    d_tau = memory.take<T>(rows * hp);
    d_dtau = memory.take<T>(rows * hp);
    for (T** v : {&dt, &u_bar, &dt_bar, &force_bar, &gate, &d_gate, &ones}) *v = memory.take<T>(rows);
  }

  static constexpr std::int64_t max(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

  T *z, *grad, *d_z, *tau, *dtau, *d_tau, *d_dtau;
  T *dt, *u_bar, *dt_bar, *force_bar, *gate, *d_gate, *ones;
};

/// Weight-gradient sums, one slot for each potential that a thread works on.
template <class T>
struct Slots {
  Slots(const NetworkShape& s, std::int64_t count, bool matrices, Carver& memory)
      : shape(s), matrices(matrices), size(count) {
    const std::int64_t hp = padded<T>(s.width), dp = padded<T>(s.dim);
    vectors = hp * (4 + s.depth) + padded<T>(3);
    stride = (matrices ? s.width * (dp + s.depth * hp) : 0) + 2 * vectors;
    memory_ = memory.take<T>(count * stride);
  }

  WeightSums<T> operator[](std::int64_t slot) const {
    const std::int64_t hp = padded<T>(shape.width), dp = padded<T>(shape.dim);
    T* p = memory_ + slot * stride;
    WeightSums<T> s{};
    if (matrices) {
      s.w_in = p;
      s.w_hid = p + shape.width * dp;
      p = s.w_hid + shape.depth * shape.width * hp;
    }
    s.b_in = p;
    s.w_out = p + hp;
    s.tau = p + 2 * hp;
    s.dtau = p + 3 * hp;
    s.b_hid = p + 4 * hp;
    s.b_out = s.b_hid + shape.depth * hp;
    s.energy = s.b_out + 1;
    s.time = s.b_out + 2;
    s.compensation = vectors;
    return s;
  }

  void clear(std::int64_t slot) const { __builtin_memset(memory_ + slot * stride, 0, stride * sizeof(T)); }

  NetworkShape shape;
  bool matrices;
  std::int64_t size, vectors, stride;

 private:
  T* memory_;
};

template <class T>
class Engine {
 public:
  Engine(const Problem<T>& p, const Schedule& schedule) : p_(p), s_(schedule) {}

  void forward(const Outputs<T>& out) {
    run(false, false, false, [&](Team& team, const Job& job, Thread& t, int) { forward_job(team, job, t, out); });
  }

  void backward(const Saved<T>& saved, const Cotangents<T>& bar, const Gradients<T>& grads) {
    const bool force = p_.force && bar.residual;
    run(
        true, grads.theta != nullptr, grads.force_theta != nullptr,
        [&](Team& team, const Job& job, Thread& t, int) { backward_job(team, job, t, saved, bar, grads, force); },
        [&](Team& team, std::int64_t piece) { reduce_piece(team, grads, piece); });
  }

 private:
  struct Thread {
    Thread(const Problem<T>& p, Carver& memory)
        : rows(p, memory), tile(p.potential.shape, true, memory), force(p.force.shape, false, memory) {}
    RowScratch<T> rows;
    NetworkTile<T> tile, force;
  };

  /// Everything that the threads of one call share.
  struct Team {
    Team(const Problem<T>& p, const Schedule& s, bool backward, bool matrices, bool force_matrices, Carver& memory)
        : bank(p.potential, p.potentials, p.selected, p.times, memory),
          force(p.force, p.potentials, p.selected, p.times, memory),
          slots(p.potential.shape, backward ? static_cast<std::int64_t>(s.slot_potential.size()) : 0, matrices, memory),
          force_slots(p.force.shape, backward && p.force ? slots.size : 0, force_matrices, memory) {}
    PackedBank<T> bank, force;
    Slots<T> slots, force_slots;
  };

  struct Nothing {
    void operator()(Team&, std::int64_t) const {}
  };

  template <class Work, class Reduce = Nothing>
  void run(bool backward, bool matrices, bool force_matrices, Work work, Reduce reduce = {}) {
    // Two passes of the same carving: the first adds up the size, the second places everything in one block.
    const int threads = s_.threads;
    Carver sizes;
    {
      Team team(p_, s_, backward, matrices, force_matrices, sizes);
    }
    const std::size_t shared = sizes.used();
    {
      Thread thread(p_, sizes);
    }
    const std::size_t each = sizes.used() - shared;
    char* block = static_cast<char*>(thread_scratch(shared + each * threads));
    Carver carver(block);
    Team team(p_, s_, backward, matrices, force_matrices, carver);
    const std::int64_t pieces = team.bank.pieces(), force_pieces = team.force.pieces();
    const std::int64_t reductions = backward ? p_.potentials : 0;

#pragma omp parallel num_threads(threads)
    {
      const int me = omp_get_thread_num();
#pragma omp for schedule(static) nowait
      for (std::int64_t i = 0; i < pieces + force_pieces; ++i)
        i < pieces ? team.bank.pack_piece(i) : team.force.pack_piece(i - pieces);
      Carver mine(block + shared + each * me);
      Thread thread(p_, mine);
      __builtin_memset(block + shared + each * me, 0, each);
      for (std::int64_t r = 0; r < kTileRows; ++r) thread.rows.ones[r] = T(1);
#pragma omp barrier
      for (std::int64_t j = s_.begin[me]; j < s_.begin[me + 1]; ++j) {
        if (backward && (j == s_.begin[me] || s_.jobs[j].slot != s_.jobs[j - 1].slot)) {
          team.slots.clear(s_.jobs[j].slot);
          if (p_.force) team.force_slots.clear(s_.jobs[j].slot);
        }
        work(team, s_.jobs[j], thread, me);
      }
#pragma omp barrier
#pragma omp for schedule(static)
      for (std::int64_t i = 0; i < reductions; ++i) reduce(team, i);
    }
  }

  std::int64_t dim() const { return p_.potential.shape.dim; }
  std::int64_t dim_padded() const { return padded<T>(dim()); }

  /// Copies rows (·, n) of the job, `stride` apart, into a tile (·, padded n).
  void gather(const Job& job, const T* from, std::int64_t stride, std::int64_t n, T* tile) const {
    for (std::int64_t r = 0; r < job.count; ++r)
      __builtin_memcpy(tile + r * padded<T>(n), from + s_.row(job.first + r) * stride, n * sizeof(T));
  }

  /// Gathers each row's own τ and dτ/dt; points at the shared ones where all rows have the same.
  TileConditioning<T> conditioning(const PackedBank<T>& bank, const NetworkShape& shape, const Job& job,
                                   RowScratch<T>& rows) const {
    TileConditioning<T> at;
    const std::int64_t h = shape.width, hp = padded<T>(h);
    if (p_.times == 1) {
      at.dtau = bank[job.potential].dtau;
      return at;
    }
    // The scratch may have held rows of another width.
    if (const T* tau = bank.tau(job.potential, 0)) {
      __builtin_memset(rows.tau, 0, job.count * hp * sizeof(T));
      gather(job, tau, h, h, rows.tau);
      at.tau = rows.tau;
    }
    if (const T* dtau = bank.dtau(job.potential, 0)) {
      __builtin_memset(rows.dtau, 0, job.count * hp * sizeof(T));
      gather(job, dtau, h, h, rows.dtau);
      at.dtau = rows.dtau;
      at.dtau_stride = hp;
    }
    return at;
  }

  T time(std::int64_t row) const { return p_.t[p_.times == 1 ? 0 : row]; }
  T gate(const Job& job, std::int64_t row) const {
    return p_.gates ? p_.gates[row * p_.potentials + job.potential] : T(1);
  }

  /// Where a job keeps its activations: on the tape, else in the tile's own memory. The tape holds the potentials'
  /// activations, the forces', the potentials' outputs, the forces'; its rows are in the order of the jobs.
  Activations<T> activations(T* tape, const Job& job, const NetworkTile<T>& tile, bool of_force) const {
    if (!tape) return tile.activations(job.count);
    const std::int64_t rows = tape_rows(p_), potential = tape_row<T>(p_.potential.shape, true);
    const std::int64_t force = p_.force ? tape_row<T>(p_.force.shape, false) : 0;
    T* values = tape + rows * (potential + force);
    return of_force ? tile.activations(tape + rows * potential + job.tape * force, values + rows + job.tape, job.count)
                    : tile.activations(tape + job.tape * potential, values + job.tape, job.count);
  }

  void forward_job(Team& team, const Job& job, Thread& t, const Outputs<T>& out) {
    RowScratch<T>& rows = t.rows;
    const PackedNetwork<T>& w = team.bank[job.potential];
    gather(job, p_.z, p_.z_stride, dim(), rows.z);
    const auto keep = activations(out.tape, job, t.tile, false);
    t.tile.template forward<true>(w, conditioning(team.bank, p_.potential.shape, job, rows), rows.z, job.count, keep,
                                  rows.dt, rows.grad);
    for (std::int64_t r = 0; r < job.count; ++r) {
      const std::int64_t row = s_.row(job.first + r);
      const T g = gate(job, row), u = keep.value[r] - w.energy * time(row), dt = rows.dt[r] - w.energy;
      const T* grad = rows.grad + r * dim_padded();
      T* to = out.grad + row * dim();
      if (job.opens) {
        out.u[row] = g * u;
        out.dt[row] = g * dt;
        for (std::int64_t d = 0; d < dim(); ++d) to[d] = g * grad[d];
      } else {
        out.u[row] += g * u;
        out.dt[row] += g * dt;
        for (std::int64_t d = 0; d < dim(); ++d) to[d] += g * grad[d];
      }
    }
    if (!p_.residual) return;
    if (p_.force) forward_force(team, job, t, out);
    if (job.closes) residual(job, out);
  }

  void forward_force(Team& team, const Job& job, Thread& t, const Outputs<T>& out) {
    const PackedNetwork<T>& w = team.force[job.potential];
    const auto keep = activations(out.tape, job, t.force, true);
    t.force.template forward<false>(w, conditioning(team.force, p_.force.shape, job, t.rows), t.rows.z, job.count, keep,
                                    nullptr, nullptr);
    for (std::int64_t r = 0; r < job.count; ++r) {
      const std::int64_t row = s_.row(job.first + r);
      const T value = gate(job, row) * (keep.value[r] - w.energy * time(row));
      out.force[row] = job.opens ? value : out.force[row] + value;
    }
  }

  // r = ∂_t u + ½‖∇u‖² + F²
  void residual(const Job& job, const Outputs<T>& out) const {
    for (std::int64_t r = 0; r < job.count; ++r) {
      const std::int64_t row = s_.row(job.first + r);
      const T* grad = out.grad + row * dim();
      T square = T(0);
      for (std::int64_t d = 0; d < dim(); ++d) square += grad[d] * grad[d];
      const T force = p_.force ? out.force[row] : T(0);
      out.residual[row] = out.dt[row] + T(0.5) * square + force * force;
    }
  }

  // The residual's cotangent r̄ is folded into the others: t̄ += r̄, ḡ += r̄ ∇u, F̄ = 2 r̄ F.
  void gather_cotangents(const Job& job, RowScratch<T>& rows, const Saved<T>& saved, const Cotangents<T>& bar) const {
    for (std::int64_t r = 0; r < job.count; ++r) {
      const std::int64_t row = s_.row(job.first + r);
      const T residual = bar.residual ? bar.residual[row] : T(0);
      rows.u_bar[r] = bar.u ? bar.u[row] : T(0);
      rows.dt_bar[r] = (bar.dt ? bar.dt[row] : T(0)) + residual;
      rows.force_bar[r] = saved.force ? 2 * residual * saved.force[row] : T(0);
      rows.gate[r] = gate(job, row);
      T* to = rows.grad + r * dim_padded();
      for (std::int64_t d = 0; d < dim(); ++d) to[d] = bar.grad ? bar.grad[row * dim() + d] : T(0);
      if (bar.residual)
        for (std::int64_t d = 0; d < dim(); ++d) to[d] += residual * saved.grad[row * dim() + d];
    }
  }

  void backward_job(Team& team, const Job& job, Thread& t, const Saved<T>& saved, const Cotangents<T>& bar,
                    const Gradients<T>& grads, bool force) {
    RowScratch<T>& rows = t.rows;
    const PackedNetwork<T>& w = team.bank[job.potential];
    const bool derivatives = bar.dt || bar.grad || bar.residual;
    gather(job, p_.z, p_.z_stride, dim(), rows.z);
    const auto at = conditioning(team.bank, p_.potential.shape, job, rows);
    const auto kept = activations(saved.tape, job, t.tile, false);
    if (!saved.tape) {
      if (derivatives)
        t.tile.template forward<true>(w, at, rows.z, job.count, kept, rows.dt, rows.grad);
      else
        t.tile.template forward<false>(w, at, rows.z, job.count, kept, nullptr, nullptr);
    }
    gather_cotangents(job, rows, saved, bar);
    WeightSums<T> sums = team.slots[job.slot];
    backward_network(job, t.tile, w, at, rows, kept, rows.u_bar, derivatives, sums, grads.tau, grads.dtau, p_.potential,
                     grads);
    scatter_rows(job, rows.d_z, grads.z, job.opens);
    if (force) backward_force(team, job, t, saved, grads);
  }

  void backward_force(Team& team, const Job& job, Thread& t, const Saved<T>& saved, const Gradients<T>& grads) {
    RowScratch<T>& rows = t.rows;
    const PackedNetwork<T>& w = team.force[job.potential];
    const auto at = conditioning(team.force, p_.force.shape, job, rows);
    const auto kept = activations(saved.tape, job, t.force, true);
    if (!saved.tape) t.force.template forward<false>(w, at, rows.z, job.count, kept, nullptr, nullptr);
    WeightSums<T> sums = team.force_slots[job.slot];
    for (std::int64_t r = 0; r < job.count; ++r) rows.dt_bar[r] = T(0);
    backward_network(job, t.force, w, at, rows, kept, rows.force_bar, false, sums, grads.force_tau, nullptr, p_.force,
                     grads);
    scatter_rows(job, rows.d_z, grads.z, false);
  }

  /// The backward sweep of one network over one tile, and what belongs to its rows alone.
  void backward_network(const Job& job, NetworkTile<T>& tile, const PackedNetwork<T>& w, const TileConditioning<T>& at,
                        RowScratch<T>& rows, Activations<T> kept, const T* u_bar, bool derivatives, WeightSums<T>& sums,
                        T* tau_out, T* dtau_out, const Network<T>& net, const Gradients<T>& grads) const {
    const TileCotangents<T> bar{u_bar, rows.dt_bar, rows.grad, rows.gate};
    T* d_tau = at.tau && tau_out ? rows.d_tau : nullptr;
    T* d_dtau = at.tau && dtau_out && derivatives ? rows.d_dtau : nullptr;
    T* d_gate = grads.gates ? rows.d_gate : nullptr;
    if (derivatives)
      tile.template backward<true>(w, at, rows.z, job.count, kept, bar, sums, rows.d_z, d_tau, d_dtau, d_gate);
    else
      tile.template backward<false>(w, at, rows.z, job.count, kept, bar, sums, rows.d_z, d_tau, nullptr, d_gate);
    const std::int64_t h = net.shape.width, hp = padded<T>(h);
    const std::int64_t conditioned = net.conditioned > 1 ? job.potential : 0;
    T energy = T(0), shared_time = T(0);
    for (std::int64_t r = 0; r < job.count; ++r) {
      const std::int64_t row = s_.row(job.first + r), to = (conditioned * p_.times + row) * h;
      if (d_tau) __builtin_memcpy(tau_out + to, d_tau + r * hp, h * sizeof(T));
      if (d_dtau) __builtin_memcpy(dtau_out + to, d_dtau + r * hp, h * sizeof(T));
      // u = φ(o) − E t and ∂_t u = ∂_t φ(o) − E
      const T u_t = u_bar[r] * time(row) + (derivatives ? rows.dt_bar[r] : T(0));
      energy -= rows.gate[r] * u_t;
      if (grads.gates) {
        T& d = grads.gates[row * p_.potentials + job.potential];
        d = (&net == &p_.force ? d : T(0)) + d_gate[r] - w.energy * u_t;
      }
      if (grads.t) {
        const T d_time = -rows.gate[r] * u_bar[r] * w.energy;
        if (p_.times == 1)
          shared_time += d_time;
        else
          grads.t[row] = (job.opens && &net == &p_.potential ? T(0) : grads.t[row]) + d_time;
      }
    }
    sums.add(sums.energy, energy);
    sums.add(sums.time, shared_time);
  }

  void scatter_rows(const Job& job, const T* tile, T* to, bool write) const {
    if (!to) return;
    for (std::int64_t r = 0; r < job.count; ++r) {
      T* at = to + s_.row(job.first + r) * dim();
      const T* from = tile + r * dim_padded();
      for (std::int64_t d = 0; d < dim(); ++d) at[d] = write ? from[d] : at[d] + from[d];
    }
  }

  /// Sums the slots of one potential, in the order of the slots, into its rows of the gradients.
  void reduce_piece(Team& team, const Gradients<T>& grads, std::int64_t k) const {
    reduce_network(team.bank, team.slots, p_.potential, k, grads.theta, grads.tau, grads.dtau);
    if (p_.force)
      reduce_network(team.force, team.force_slots, p_.force, k, grads.force_theta, grads.force_tau, nullptr);
    if (k == 0 && grads.t && p_.times == 1) {
      T sum = T(0);
      for (std::int64_t i = 0; i < team.slots.size; ++i) sum += *team.slots[i].time;
      for (std::int64_t i = 0; i < team.force_slots.size; ++i) sum += *team.force_slots[i].time;
      grads.t[0] = sum;
    }
  }

  void reduce_network(const PackedBank<T>& bank, const Slots<T>& slots, const Network<T>& net, std::int64_t k,
                      T* theta_out, T* tau_out, T* dtau_out) const {
    const NetworkShape& s = net.shape;
    const std::int64_t h = s.width, hp = padded<T>(h), d = s.dim, dp = padded<T>(d), l = s.depth;
    T* theta = theta_out ? theta_out + k * net.stride : nullptr;
    const bool used = p_.selected < 0 || p_.selected == k, shared = used && p_.times == 1;
    T* tau = tau_out && shared ? tau_out + (net.conditioned > 1 ? k : 0) * h : nullptr;
    T* dtau = dtau_out && shared ? dtau_out + (net.conditioned > 1 ? k : 0) * h : nullptr;
    if (theta) __builtin_memset(theta, 0, net.stride * sizeof(T));
    if (tau) __builtin_memset(tau, 0, h * sizeof(T));
    if (dtau) __builtin_memset(dtau, 0, h * sizeof(T));
    const Layout at(s);
    for (std::int64_t slot = 0; slot < slots.size; ++slot) {
      if (s_.slot_potential[slot] != k) continue;
      const WeightSums<T> sums = slots[slot];
      if (tau) add(h, sums.tau, tau);
      if (dtau && bank[k].dtau) add(h, sums.dtau, dtau);
      if (!theta) continue;
      for (std::int64_t n = 0; n < h; ++n) add(d, sums.w_in + n * dp, theta + at.w_in + n * d);
      for (std::int64_t n = 0; n < l * h; ++n) add(h, sums.w_hid + n * hp, theta + at.w_hid + n * h);
      add(h, sums.b_in, theta + at.b_in);
      for (std::int64_t i = 0; i < l; ++i) add(h, sums.b_hid + i * hp, theta + at.b_hid + i * h);
      add(h, sums.w_out, theta + at.w_out);
      theta[at.b_out] += *sums.b_out;
      if (s.separable) theta[at.energy] += *sums.energy;
    }
    // The tile read a where the formula reads a + τ: dW_1 += db_1 τᵀ.
    if (theta && used && bank[k].tau)
      for (std::int64_t n = 0; n < h; ++n)
        for (std::int64_t j = 0; j < h; ++j) theta[at.w_hid + n * h + j] += theta[at.b_hid + n] * bank[k].tau[j];
  }

  static void add(std::int64_t n, const T* from, T* to) {
    for (std::int64_t i = 0; i < n; ++i) to[i] += from[i];
  }

  const Problem<T>& p_;
  const Schedule& s_;
};

}  // namespace ffrl::FFRL_ISA

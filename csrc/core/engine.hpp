// One call: pack the weights, run every thread's tiles, sum the weight gradients in a fixed order.
#pragma once

#include <omp.h>

#include "bank_gradients.hpp"
#include "conditioning.hpp"
#include "determinant.hpp"
#include "helpers.hpp"
#include "hessian_tile.hpp"
#include "log_product.hpp"
#include "memory.hpp"
#include "network_tile.hpp"
#include "packed_bank.hpp"
#include "problem.hpp"
#include "schedule.hpp"
#include "tangent_tile.hpp"
#include "weight_sums.hpp"

namespace ffrl::FFRL_ISA {

/// One thread's scratch for the rows of a tile.
template <class T>
struct RowScratch {
  RowScratch(const Problem<T>& p, Carver& memory) {
    const std::int64_t dp = padded<T>(p.potential.shape.dim), rows = kTileRows;
    const std::int64_t potential = p.potential.shape.width, force = p.force ? p.force.shape.width : 0;
    const std::int64_t hp = padded<T>(potential > force ? potential : force);
    for (T** tile : {&own_z, &own_grad, &one_grad, &own_grad_bar, &lambda, &own_d_z, &one_d_z})
      *tile = memory.take<T>(rows * dp);
    for (T** tile : {&tau, &dtau, &d_tau, &d_dtau}) *tile = memory.take<T>(p.row_times ? rows * hp : 0);
    for (T** row : {&u, &dt, &residual, &force_value, &one_dt, &u_bar, &dt_bar, &residual_bar, &force_bar, &no_bar,
                    &gate, &d_gate})
      *row = memory.take<T>(rows);
    tape = memory.take<T>(rows * (tape_row(p) + tape_values_row(p)));
    const std::int64_t second = p.second_order() ? rows * dp : 0;
    for (T** tile : {&tangent, &hvp, &one_hvp, &hvp_bar, &d_x, &one_d_x}) *tile = memory.take<T>(second);
    row_sum = memory.take<T>(p.row_sum ? rows : 0);
    q_dot = memory.take<T>(p.second_order() ? hp : 0);
    z = own_z;
    grad = own_grad;
    grad_bar = own_grad_bar;
    d_z = own_d_z;
  }

  /// The padding of what is gathered, which meets zero weights and must be finite; the rest is written before it is
  /// read.
  void clear(const Problem<T>& p) {
    const std::int64_t dim = p.potential.shape.dim, dp = padded<T>(dim);
    for (T* tile :
         {own_z, own_grad_bar, lambda, own_d_z, p.second_order() ? tangent : own_z, p.second_order() ? hvp_bar : own_z})
      for (std::int64_t r = 0; r < kTileRows; ++r)
        for (std::int64_t d = dim; d < dp; ++d) tile[r * dp + d] = T(0);
    // One direction for all rows lies in the tile's first.
    if (p.second_order() && p.shares_tangent())
      for (std::int64_t d = 0; d < dim; ++d) tangent[d] = p.row_sum ? T(1) : p.tangent[d];
    for (std::int64_t r = 0; r < kTileRows; ++r) no_bar[r] = T(0);
  }

  // (rows, Dp): the rows; ∇u of the mixture and of one potential; cotangents; dL/dz of a path, of a moment, of a
  // network
  T *own_z, *own_grad, *one_grad, *own_grad_bar, *lambda, *own_d_z, *one_d_z;
  // where the rows of this job and the cotangent of ∇u are read, ∇u without a residual and dL/dz written: in the
  // caller's memory where it is laid out as a tile
  const T *z, *grad_bar;
  T *grad, *d_z;
  // (rows, Hp), used where every row has its own time
  T *tau, *dtau, *d_tau, *d_dtau;
  // (rows,)
  T *u, *dt, *residual, *force_value, *one_dt, *u_bar, *dt_bar, *residual_bar, *force_bar, *no_bar, *gate, *d_gate;
  // what a tape would hold for one moment, where none is kept
  T* tape;
  // with a tangent, (rows, Dp): it; the Hessian product of the mixture and of one potential; its cotangent; dL/dtangent
  // of the mixture and of one potential
  T *tangent, *hvp, *one_hvp, *hvp_bar, *d_x, *one_d_x;
  T *row_sum, *q_dot;  // (rows,); (Hp,) of a tangent that the rows share
};

/// One thread's scratch for the curvature of a tile's rows.
template <class T>
struct CurvatureScratch {
  CurvatureScratch(const Problem<T>& p, const Curvature<T>& out, Carver& memory) : tile(p.potential.shape, memory) {
    const std::int64_t d = p.potential.shape.dim, dp = padded<T>(d);
    grad = memory.take<T>(potentials_per_row(p) * kTileRows * dp);
    traces = memory.take<T>(kLanes<T>);
    matrices = interleaved = nullptr;
    if (out.log_det || out.hessian) matrices = memory.take<T>((out.log_det ? kLanes<T> : 1) * d * dp);
    if (out.log_det) interleaved = memory.take<T>(kLanes<T> * d * dp);
  }

  HessianTile<T> tile;
  T* grad;         // (potentials, rows, Dp): ∇o
  T* traces;       // (lanes,)
  T* matrices;     // (lanes, D, Dp), or one; null: not wanted
  T* interleaved;  // (D, Dp, lanes); null: not wanted
};

template <class T>
class Engine {
 public:
  Engine(const Problem<T>& p, const Schedule& schedule) : p_(p), s_(schedule) {}

  void forward(const Outputs<T>& out) {
    Curvature<T> of_path;
    of_path.log_det = out.log_det;
    run(Call{.packed = out.packed, .curvature = out.log_det ? &of_path : nullptr},
        [&](Team& team, const Job& job, Thread& t) { forward_job(team, job, t, out); });
  }

  void backward(const Saved<T>& saved, const Cotangents<T>& bar, const Gradients<T>& grads) {
    run(Call{.packed = saved.packed, .reuse = saved.packed != nullptr, .grads = &grads},
        [&](Team& team, const Job& job, Thread& t) { backward_job(team, job, t, saved, bar, grads); });
  }

  /// Value and gradients of a loss in one sweep: each tile goes forward and at once backward.
  void loss(const Loss<T>& loss, const Gradients<T>& grads) {
    *loss.value = run(Call{.grads = &grads},
                      [&](Team& team, const Job& job, Thread& t) { loss_job(team, job, t, loss, grads); }) /
                  static_cast<double>(p_.rows);
  }

  /// The curvature at one moment.
  void curvature(const Curvature<T>& out) {
    run(Call{.curvature = &out}, [&](Team& team, const Job& job, Thread& t) { curvature_job(team, job, t, out); });
  }

 private:
  struct Call {
    T* packed = nullptr;  // where the packed weights lie; null: in scratch
    bool reuse = false;   // they are there already
    const Gradients<T>* grads = nullptr;
    const Curvature<T>* curvature = nullptr;
  };

  struct Thread {
    Thread(const Problem<T>& p, const Call& call, Helpers& helpers, PhaseRecord* record, Carver& memory)
        : rows(p, memory),
          tile(p.potential.shape, p.second_order(), helpers, record, memory),
          force(p.force.shape, false, helpers, record, memory),
          curvature(call.curvature ? p : Problem<T>{}, call.curvature ? *call.curvature : Curvature<T>{}, memory) {}
    RowScratch<T> rows;
    NetworkTile<T> tile, force;
    CurvatureScratch<T> curvature;
    double loss = 0;
  };

  /// Everything that the threads of one call share.
  struct Team {
    Team(const Problem<T>& p, const Schedule& s, const Gradients<T>* grads, Carver& memory, Carver& packed)
        : Team(p, s, grads ? *grads : Gradients<T>{}, grads ? static_cast<std::int64_t>(s.slot_potential.size()) : 0,
               p.row_times ? 1 : p.moments, memory, packed) {}

    Team(const Problem<T>& p, const Schedule& s, const Gradients<T>& grads, std::int64_t slot_count,
         std::int64_t sum_moments, Carver& memory, Carver& packed)
        : embedding(p.row_times ? 0 : p.moments, p.potential.shape.dim, memory),
          bank(p.potential, p, true, memory, packed),
          force(p.force, p, false, memory, packed),
          slots(p.potential.shape, slot_count, sum_moments, grads.theta, grads.tangent && p.tangent_shared, memory),
          force_slots(p.force.shape, p.force ? slot_count : 0, sum_moments, grads.force_theta, false, memory),
          gradients(p.potential, p, s, {grads.theta, grads.tau, grads.dtau, grads.t}, memory),
          force_gradients(p.force, p, s, {grads.force_theta, grads.force_tau, nullptr, grads.t}, memory),
          losses(memory.take<double>(s.shares.rows)) {}

    Embedding<T> embedding;
    PackedBank<T> bank, force;
    Slots<T> slots, force_slots;
    BankGradients<T> gradients, force_gradients;
    double* losses;
  };

  /// One thread of those at work on a call.
  struct Crew {
    int me = 0, size = 1;

    void wait() const {
      if (size == 1) return;  // a barrier of one thread is a system call nevertheless
#pragma omp barrier
    }

    /// Runs f(piece) of two lists of pieces, shared out among all; they wait for the last.
    template <class First, class Second>
    void share(std::int64_t count, std::int64_t second_count, First first, Second second) const {
      const std::int64_t all = count + second_count;
      for (std::int64_t i = all * me / size; i < all * (me + 1) / size; ++i) i < count ? first(i) : second(i - count);
      wait();
    }
  };

  /// Packs, runs `work` on every job and, with gradients, sums the slots; returns the sum of the shares' losses.
  template <class Work>
  double run(const Call& call, Work work) {
    const double start = p_.phases ? omp_get_wtime() : 0;
    // The carving is done twice: once to add up the sizes, once to place everything in one block.
    const int shares = s_.shares.rows, parts = shares * s_.shares.units;
    const int threads = parts < p_.threads ? parts : p_.threads;
    Helpers helpers(s_.shares.units);
    Carver sizes, packed_sizes;
    {
      Team team(p_, s_, call.grads, sizes, packed_sizes);
    }
    const std::size_t shared = sizes.used(), packed_bytes = call.packed ? 0 : packed_sizes.used();
    {
      Thread thread(p_, call, helpers, nullptr, sizes);
    }
    const std::size_t each = sizes.used() - shared;
    char* block = static_cast<char*>(thread_scratch(shared + packed_bytes + each * shares));
    Carver carver(block), packed(call.packed ? reinterpret_cast<char*>(call.packed) : block + shared);
    Team team(p_, s_, call.grads, carver, packed);
    char* own = block + shared + packed_bytes;
    const bool computes_time =
        !p_.row_times && (p_.potential.computes_time() || (p_.force && p_.force.computes_time()));
    if (computes_time && (!call.reuse || call.grads)) team.embedding.compute(p_.t);

    const auto take_share = [&](int share, const Crew& crew) {
      Carver mine(own + each * share);
      Thread thread(p_, call, helpers, record(crew), mine);
      thread.rows.clear(p_);
      std::int64_t cleared = -1;
      for (std::int64_t j = s_.begin[share]; j < s_.begin[share + 1]; ++j) {
        const Job& job = s_.jobs[j];
        if (call.grads && job.slot != cleared) {
          for (std::int64_t k = 0; k < potentials_per_row(p_); ++k) {
            team.slots.clear(job.slot + k);
            if (p_.force) team.force_slots.clear(job.slot + k);
          }
          cleared = job.slot;
        }
        work(team, job, thread);
      }
      team.losses[share] = thread.loss;
    };
    const auto together = [&](Crew crew) {
      if (!call.reuse) pack(team, crew);
      if (s_.shares.units > 1) {
        if (crew.me == 0) {
          helpers.gather(crew.size);
          take_share(0, crew);
          helpers.dismiss();
        } else {
          helpers.help(crew.me, record(crew));
        }
      } else {
        // A backward sweep has the forward one's shares, maybe of more threads; and OpenMP may give fewer than asked
        // for.
        for (int share = crew.me; share < shares; share += crew.size) take_share(share, crew);
      }
      if (call.grads) {
        crew.wait();
        reduce(team, crew);
      }
    };
    if (threads <= 1) {
      together(Crew{});
    } else {
#pragma omp parallel num_threads(threads)
      together(Crew{omp_get_thread_num(), omp_get_num_threads()});
    }
    if (call.grads && call.grads->t && !p_.row_times) sum_time(team, call.grads->t);
    if (call.grads && call.grads->tangent && p_.tangent_shared) sum_tangent(team, call.grads->tangent);
    double loss = 0;
    for (int i = 0; i < shares; ++i) loss += team.losses[i];
    if (p_.phases) p_.phases->engine_seconds += omp_get_wtime() - start;
    return loss;
  }

  PhaseRecord* record(const Crew& crew) const { return p_.phases ? p_.phases + crew.me : nullptr; }

  void pack(const Team& team, const Crew& crew) const {
    {
      const PhaseTimer timer(record(crew), Phase::pack);
      crew.share(
          team.bank.pieces(), team.force.pieces(), [&](std::int64_t i) { team.bank.pack_piece(i); },
          [&](std::int64_t i) { team.force.pack_piece(i); });
    }
    const PhaseTimer timer(record(crew), Phase::time);
    const std::int64_t count = team.bank.time_pieces(), force_count = team.force.time_pieces();
    if (count + force_count == 0) return;
    crew.share(
        count, force_count, [&](std::int64_t i) { team.bank.time_hidden(i, team.embedding); },
        [&](std::int64_t i) { team.force.time_hidden(i, team.embedding); });
    crew.share(
        count, force_count, [&](std::int64_t i) { team.bank.time_output(i); },
        [&](std::int64_t i) { team.force.time_output(i); });
    crew.share(
        count, force_count, [&](std::int64_t i) { team.bank.time_fold(i); },
        [&](std::int64_t i) { team.force.time_fold(i); });
  }

  void reduce(const Team& team, const Crew& crew) const {
    const PhaseTimer timer(record(crew), Phase::combine);
    const std::int64_t count = team.gradients.pieces(), force_count = team.force_gradients.pieces();
    crew.share(
        count, force_count, [&](std::int64_t i) { team.gradients.sum_slots(i, team.bank, team.slots); },
        [&](std::int64_t i) { team.force_gradients.sum_slots(i, team.force, team.force_slots); });
    if (team.bank.time_pieces() + team.force.time_pieces() == 0) return;
    crew.share(
        count, force_count, [&](std::int64_t i) { team.gradients.through_hidden_bias(i, team.bank); },
        [&](std::int64_t i) { team.force_gradients.through_hidden_bias(i, team.force); });
    crew.share(
        count, force_count, [&](std::int64_t i) { team.gradients.through_embedding(i, team.bank, team.embedding); },
        [&](std::int64_t i) { team.force_gradients.through_embedding(i, team.force, team.embedding); });
  }

  /// dL/dt of the moments: through −E t from the slots, and through the engine's own conditioning.
  void sum_time(const Team& team, T* time) const {
    for (std::int64_t n = 0; n < p_.moments; ++n) {
      T sum = T(0);
      for (std::int64_t i = 0; i < team.slots.size(); ++i) sum += *team.slots.at(i, n).time;
      for (std::int64_t i = 0; i < team.force_slots.size(); ++i) sum += *team.force_slots.at(i, n).time;
      time[n] = sum;
    }
    if (team.bank.time_pieces()) team.gradients.add_time();
    if (team.force.time_pieces()) team.force_gradients.add_time();
  }

  void sum_tangent(const Team& team, T* tangent) const {
    for (std::int64_t d = 0; d < dim(); ++d) {
      tangent[d] = T(0);
      for (std::int64_t i = 0; i < team.slots.size(); ++i) tangent[d] += team.slots.at(i, 0).tangent[d];
    }
  }

  std::int64_t dim() const { return p_.potential.shape.dim; }
  std::int64_t dim_padded() const { return padded<T>(dim()); }

  // ------------------------------------------------------------------------------------------ rows in and out of a
  // tile

  /// Copies the job's rows (·, n), `stride` apart, into a tile (·, padded n).
  void gather(const Job& job, const T* from, std::int64_t stride, std::int64_t n, T* tile) const {
    for (std::int64_t r = 0; r < job.count; ++r)
      copy(n, from + s_.row(job.first + r) * stride, tile + r * padded<T>(n));
  }

  /// Whether the job's rows, `stride` apart, lie one after another as in a tile.
  bool lies_as_tile(const T* rows, std::int64_t stride) const {
    return dim() == dim_padded() && stride == dim() && s_.order.empty() &&
           reinterpret_cast<std::uintptr_t>(rows) % 64 == 0;
  }

  /// The rows of z: where they lie, or copied.
  void take_rows(const Job& job, RowScratch<T>& rows) const {
    if (lies_as_tile(p_.z, p_.z_stride)) {
      rows.z = p_.z + job.first * p_.z_stride;
      return;
    }
    rows.z = rows.own_z;
    gather(job, p_.z, p_.z_stride, dim(), rows.own_z);
  }

  /// Where the job's rows of `all` (B, D) lie, if they lie as in a tile; else the tile given.
  template <class Pointer>
  Pointer in_place(const Job& job, Pointer all, Pointer tile) const {
    return all && lies_as_tile(all, dim()) ? all + job.first * dim() : tile;
  }

  /// Nothing to do for a tile that lies where it belongs.
  void scatter(const Job& job, const T* tile, T* to) const {
    if (!to || tile == to + job.first * dim()) return;
    for (std::int64_t r = 0; r < job.count; ++r)
      copy(dim(), tile + r * dim_padded(), to + s_.row(job.first + r) * dim());
  }

  void scatter_rows(const Job& job, const T* rows, T* to) const {
    if (!to) return;
    for (std::int64_t r = 0; r < job.count; ++r) to[s_.row(job.first + r)] = rows[r];
  }

  /// Row scalars, zero where there are none.
  void gather_rows(const Job& job, const T* from, T* rows) const {
    for (std::int64_t r = 0; r < job.count; ++r) rows[r] = from ? from[s_.row(job.first + r)] : T(0);
  }

  /// A direction that all rows share lies there already.
  void gather_tangent(const Job& job, RowScratch<T>& rows) const {
    if (p_.tangent && !p_.tangent_shared) gather(job, p_.tangent, dim(), dim(), rows.tangent);
  }

  /// Through Σ_d log|1 + Δ h_d|: the cotangent of h is that of the sum times Δ / (1 + Δ h).
  void row_sum_cotangent(const Job& job, const T* bar, const T* h, RowScratch<T>& rows) const {
    for (std::int64_t r = 0; r < job.count; ++r) {
      const T scale = bar[s_.row(job.first + r)] * p_.step;
      for (std::int64_t d = 0; d < dim_padded(); d += kLanes<T>) {
        const std::int64_t i = r * dim_padded() + d;
        store(rows.hvp_bar + i, scale / (T(1) + p_.step * load(h + i)));
      }
      for (std::int64_t d = dim(); d < dim_padded(); ++d) rows.hvp_bar[r * dim_padded() + d] = T(0);
    }
  }

  /// y += factor · x over the tile's rows.
  void add_rows(const Job& job, T factor, const T* x, T* y) const {
    for (std::int64_t i = 0; i < job.count * dim_padded(); i += kLanes<T>)
      store(y + i, load(y + i) + factor * load(x + i));
  }

  T time(const Job& job, std::int64_t r, std::int64_t moment) const {
    return p_.t[p_.row_times ? s_.row(job.first + r) : moment];
  }

  std::int64_t gate_at(const Job& job, std::int64_t r, std::int64_t moment, std::int64_t k) const {
    const std::int64_t row = s_.row(job.first + r);
    return (p_.gates_by_step ? row * p_.steps() + moment / p_.substeps : row) * p_.potentials + k;
  }

  void gather_gates(const Job& job, std::int64_t moment, std::int64_t k, T* gate) const {
    for (std::int64_t r = 0; r < job.count; ++r) gate[r] = p_.gates ? p_.gates[gate_at(job, r, moment, k)] : T(1);
  }

  /// Gathers each row's own τ and dτ/dt; points at the shared ones where all rows have the same.
  TileConditioning<T> conditioning(const PackedBank<T>& bank, const NetworkShape& shape, const Job& job, std::int64_t k,
                                   std::int64_t moment, RowScratch<T>& rows) const {
    const PackedNetwork<T>& w = bank[k];
    const std::int64_t h = shape.width, hp = padded<T>(h);
    TileConditioning<T> at;
    if (!p_.row_times) {
      at.bias = w.time.bias + moment * hp;
      at.dtau = w.time.dtau ? w.time.dtau + moment * hp : nullptr;
      return at;
    }
    at.bias = w.b_hid;
    // The scratch may have held rows of another width.
    if (const T* tau = bank.given_tau(k, 0)) {
      __builtin_memset(rows.tau, 0, job.count * hp * sizeof(T));
      gather(job, tau, h, h, rows.tau);
      at.tau = rows.tau;
    }
    if (const T* dtau = bank.given_dtau(k, 0)) {
      __builtin_memset(rows.dtau, 0, job.count * hp * sizeof(T));
      gather(job, dtau, h, h, rows.dtau);
      at.dtau = rows.dtau;
      at.dtau_stride = hp;
    }
    return at;
  }

  // ------------------------------------------------------------------------------------------------------------- tape

  /// What is kept of a job at one moment, on the tape or in scratch.
  struct Kept {
    T *activations, *values;
    std::int64_t rows;
  };

  Kept kept(T* tape, std::int64_t taped, const Job& job, std::int64_t moment, RowScratch<T>& rows) const {
    const std::int64_t row = tape_row(p_), values = tape_values_row(p_);
    if (!on_tape(taped, moment)) return {rows.tape, rows.tape + job.count * row, job.count};
    const std::int64_t at = job.first * taped + (moment - (p_.moments - taped)) * job.count;
    return {tape + at * row, tape + p_.rows * taped * row + at * values, job.count};
  }

  bool on_tape(std::int64_t taped, std::int64_t moment) const { return moment >= p_.moments - taped; }

  /// Activations of the i-th potential that the rows pass, or of its force network.
  Activations<T> activations(const Kept& at, const NetworkTile<T>& tile, std::int64_t i, bool of_force) const {
    const std::int64_t potential = activations_row<T>(p_.potential.shape, true) + tangent_row(p_);
    const std::int64_t force = p_.force ? activations_row<T>(p_.force.shape, false) : 0;
    T* memory = at.activations + at.rows * (i * (potential + force) + (of_force ? potential : 0));
    const std::int64_t values = 1 + (p_.force ? 1 : 0) + (p_.second_order() ? 1 : 0);
    return tile.activations(memory, at.values + at.rows * (i * values + (of_force ? 1 : 0)), at.rows);
  }

  /// The tangent and its derivatives at the i-th potential that the rows pass, behind its activations.
  Tangent<T> tangent(const Kept& at, const Activations<T>& kept, RowScratch<T>& rows) const {
    const NetworkShape& s = p_.potential.shape;
    const std::int64_t layers = s.depth * at.rows * padded<T>(s.width);
    T* memory = kept.a + at.rows * activations_row<T>(s, true);
    const bool shared = p_.shares_tangent();
    return {rows.tangent, shared,          shared ? rows.q_dot : memory + 2 * layers,
            memory,       memory + layers, kept.value + at.rows * (p_.force ? 2 : 1)};
  }

  /// Where ∇u of a moment with a residual is kept, and ∇²u 1 of one with a row sum.
  T* kept_grad(const Kept& at) const {
    return at.activations + at.rows * (tape_row(p_) - dim_padded() * (p_.row_sum ? 2 : 1));
  }
  T* kept_hvp(const Kept& at) const { return at.activations + at.rows * (tape_row(p_) - dim_padded()); }

  // ---------------------------------------------------------------------------------------------------- one evaluation

  bool recorded(std::int64_t moment) const { return moment % p_.substeps == 0; }

  /// u, ∂_t u, ∇u and where asked for the residual and the Hessian product of the rows in t.rows.z; returns where ∇u
  /// lies.
  T* evaluate(Team& team, const Job& job, std::int64_t moment, Thread& t, const Kept& keep) const {
    RowScratch<T>& rows = t.rows;
    const bool residual = p_.residual && recorded(moment);
    T* grad = p_.residual ? kept_grad(keep) : rows.grad;
    T* hvp = p_.row_sum ? kept_hvp(keep) : rows.hvp;
    const std::int64_t many = potentials_per_row(p_);
    for (std::int64_t i = 0; i < many; ++i) {
      const std::int64_t k = job.potential + i;
      const PackedNetwork<T>& w = team.bank[k];
      const Activations<T> kept = activations(keep, t.tile, i, false);
      T* one_grad = p_.gates ? rows.one_grad : grad;
      t.tile.template forward<true>(w, conditioning(team.bank, p_.potential.shape, job, k, moment, rows), rows.z,
                                    job.count, kept, rows.one_dt, one_grad);
      T* one_hvp = p_.gates ? rows.one_hvp : hvp;
      if (p_.second_order()) t.tile.forward_tangent(w, job.count, kept, tangent(keep, kept, rows), one_hvp);
      gather_gates(job, moment, k, rows.gate);
      for (std::int64_t r = 0; r < job.count; ++r) {
        const T u = rows.gate[r] * (kept.value[r] - w.energy * time(job, r, moment));
        const T dt = rows.gate[r] * (rows.one_dt[r] - w.energy);
        rows.u[r] = i == 0 ? u : rows.u[r] + u;
        rows.dt[r] = i == 0 ? dt : rows.dt[r] + dt;
        if (!p_.gates) continue;
        mix(i == 0, rows.gate[r], one_grad + r * dim_padded(), grad + r * dim_padded());
        if (p_.second_order()) mix(i == 0, rows.gate[r], one_hvp + r * dim_padded(), hvp + r * dim_padded());
      }
      if (residual && p_.force) evaluate_force(team, job, i, moment, t, keep);
    }
    // r = ∂_t u + ½‖∇u‖² + F²
    if (residual)
      for (std::int64_t r = 0; r < job.count; ++r) {
        Vec<T> square{};
        for (std::int64_t d = 0; d < dim_padded(); d += kLanes<T>) {
          const Vec<T> g = load(grad + r * dim_padded() + d);
          square += g * g;
        }
        const T force = p_.force ? rows.force_value[r] : T(0);
        rows.residual[r] = rows.dt[r] + T(0.5) * horizontal_sum<T>(square) + force * force;
      }
    if (p_.row_sum)
      for (std::int64_t r = 0; r < job.count; ++r)
        rows.row_sum[r] = log_abs_sum<T>(dim(), p_.step, hvp + r * dim_padded());
    return grad;
  }

  /// y = gate · x of the first potential, += of the others.
  void mix(bool first, T gate, const T* x, T* y) const {
    for (std::int64_t d = 0; d < dim_padded(); d += kLanes<T>) {
      const Vec<T> part = gate * load(x + d);
      store(y + d, first ? part : load(y + d) + part);
    }
  }

  // F = Σ_k g_k F^k
  void evaluate_force(Team& team, const Job& job, std::int64_t i, std::int64_t moment, Thread& t,
                      const Kept& keep) const {
    RowScratch<T>& rows = t.rows;
    const std::int64_t k = job.potential + i;
    const Activations<T> kept = activations(keep, t.force, i, true);
    t.force.template forward<false>(team.force[k], conditioning(team.force, p_.force.shape, job, k, moment, rows),
                                    rows.z, job.count, kept, nullptr, nullptr);
    add_force(team, job, i, moment, t, keep);
  }

  void add_force(Team& team, const Job& job, std::int64_t i, std::int64_t moment, Thread& t, const Kept& keep) const {
    const T* value = activations(keep, t.force, i, true).value;
    const T energy = team.force[job.potential + i].energy;
    for (std::int64_t r = 0; r < job.count; ++r) {
      const T f = t.rows.gate[r] * (value[r] - energy * time(job, r, moment));
      t.rows.force_value[r] = i == 0 ? f : t.rows.force_value[r] + f;
    }
  }

  /// The backward sweep of one evaluation, whose activations are kept: from the cotangents in t.rows (of u, ∂_t u, the
  /// residual and ∇u, which it overwrites) to t.rows.d_z and the sums of the parameter gradients. Where there is no
  /// cotangent of ∇u nothing need be in its place, but with a residual it is written.
  void differentiate(Team& team, const Job& job, std::int64_t moment, Thread& t, const Kept& keep,
                     const Gradients<T>& grads, bool derivatives, bool residual, bool second, bool grad_bar) const {
    RowScratch<T>& rows = t.rows;
    const std::int64_t many = potentials_per_row(p_);
    const bool force = residual && p_.force;
    if (force)
      for (std::int64_t i = 0; i < many; ++i) {
        gather_gates(job, moment, job.potential + i, rows.gate);
        add_force(team, job, i, moment, t, keep);
      }
    // The residual's cotangent r̄ is folded into the others: t̄ += r̄, ḡ += r̄ ∇u, F̄ = 2 r̄ F.
    if (residual)
      for (std::int64_t r = 0; r < job.count; ++r) {
        const T bar = rows.residual_bar[r];
        rows.dt_bar[r] += bar;
        rows.force_bar[r] = force ? 2 * bar * rows.force_value[r] : T(0);
        const T* grad = kept_grad(keep) + r * dim_padded();
        T* to = rows.own_grad_bar + r * dim_padded();
        if (grad_bar)
          for (std::int64_t d = 0; d < dim_padded(); d += kLanes<T>) store(to + d, load(to + d) + bar * load(grad + d));
        else
          for (std::int64_t d = 0; d < dim_padded(); d += kLanes<T>) store(to + d, bar * load(grad + d));
      }
    for (std::int64_t i = 0; i < many; ++i) {
      const std::int64_t k = job.potential + i, slot = job.slot + i;
      gather_gates(job, moment, k, rows.gate);
      const Activations<T> kept = activations(keep, t.tile, i, false);
      const Tangent<T> along = second ? tangent(keep, kept, rows) : Tangent<T>{};
      differentiate_network(job, k, moment, t, t.tile, kept, second ? &along : nullptr, team.bank, p_.potential,
                            team.slots, slot, rows.u_bar, rows.dt_bar, derivatives, i == 0, grads, grads.tau,
                            grads.dtau);
      if (force)
        differentiate_network(job, k, moment, t, t.force, activations(keep, t.force, i, true), nullptr, team.force,
                              p_.force, team.force_slots, slot, rows.force_bar, rows.no_bar, false, false, grads,
                              grads.force_tau, nullptr);
    }
  }

  void differentiate_network(const Job& job, std::int64_t k, std::int64_t moment, Thread& t, NetworkTile<T>& tile,
                             Activations<T> kept, const Tangent<T>* along, const PackedBank<T>& bank,
                             const Network<T>& net, const Slots<T>& slots, std::int64_t slot, const T* u_bar,
                             const T* dt_bar, bool derivatives, bool opens, const Gradients<T>& grads, T* tau_out,
                             T* dtau_out) const {
    RowScratch<T>& rows = t.rows;
    const PackedNetwork<T>& w = bank[k];
    const TileConditioning<T> at = conditioning(bank, net.shape, job, k, moment, rows);
    const TileCotangents<T> bar{u_bar, dt_bar, rows.grad_bar, rows.gate, rows.hvp_bar};
    const WeightSums<T> sums = slots.at(slot, p_.row_times ? 0 : moment);
    T* d_z = opens ? rows.d_z : rows.one_d_z;
    T* d_tau = at.tau && tau_out ? rows.d_tau : nullptr;
    T* d_dtau = at.tau && dtau_out && derivatives ? rows.d_dtau : nullptr;
    T* d_gate = grads.gates ? rows.d_gate : nullptr;
    T* d_x = opens ? rows.d_x : rows.one_d_x;
    if (along)
      tile.backward_tangent(w, at, rows.z, job.count, kept, *along, bar, sums, d_z, grads.tangent ? d_x : nullptr,
                            d_tau, d_dtau, d_gate);
    else if (derivatives)
      tile.template backward<true>(w, at, rows.z, job.count, kept, bar, sums, d_z, d_tau, d_dtau, d_gate);
    else
      tile.template backward<false>(w, at, rows.z, job.count, kept, bar, sums, d_z, d_tau, nullptr, d_gate);
    slots.used(slot);
    if (!opens) {
      add_rows(job, T(1), d_z, rows.d_z);
      if (along && grads.tangent && !along->shared) add_rows(job, T(1), d_x, rows.d_x);
    }

    const std::int64_t h = net.shape.width, hp = padded<T>(h);
    T energy = T(0), shared_time = T(0);
    for (std::int64_t r = 0; r < job.count; ++r) {
      const std::int64_t row = s_.row(job.first + r);
      const std::int64_t to = ((net.conditioned > 1 ? k : 0) * p_.times() + row) * h;
      if (d_tau) copy(h, d_tau + r * hp, tau_out + to);
      if (d_dtau) copy(h, d_dtau + r * hp, dtau_out + to);
      // u = φ(o) − E t and ∂_t u = ∂_t φ(o) − E
      const T d_energy = u_bar[r] * time(job, r, moment) + dt_bar[r];
      energy -= rows.gate[r] * d_energy;
      if (grads.gates) grads.gates[gate_at(job, r, moment, k)] += d_gate[r] - w.energy * d_energy;
      if (!grads.t) continue;
      const T d_time = -rows.gate[r] * u_bar[r] * w.energy;
      if (p_.row_times)
        grads.t[row] = opens ? d_time : grads.t[row] + d_time;
      else
        shared_time += d_time;
    }
    sums.add(sums.energy, energy);
    sums.add(sums.time, shared_time);
  }

  // -------------------------------------------------------------------------------------------------------------- jobs

  void forward_job(Team& team, const Job& job, Thread& t, const Outputs<T>& out) const {
    RowScratch<T>& rows = t.rows;
    take_rows(job, rows);
    gather_tangent(job, rows);
    if (out.path) {
      scatter(job, rows.z, out.path);
      if (rows.z != rows.own_z) copy(job.count * dim(), rows.z, rows.own_z);
      rows.z = rows.own_z;
    }
    for (std::int64_t moment = 0; moment < p_.moments; ++moment) {
      const Kept keep = kept(out.tape, out.taped, job, moment, rows);
      rows.grad = in_place(job, out.grad, rows.own_grad);
      const T* grad = evaluate(team, job, moment, t, keep);
      if (recorded(moment)) {
        const std::int64_t at = moment / p_.substeps * p_.rows;
        if (out.u) scatter_rows(job, rows.u, out.u + at);
        if (out.dt) scatter_rows(job, rows.dt, out.dt + at);
        if (out.residual) scatter_rows(job, rows.residual, out.residual + at);
      }
      if (out.row_sum) {
        T* to = out.row_sum + moment / p_.substeps * p_.rows;
        for (std::int64_t r = 0; r < job.count; ++r) {
          T& sum = to[s_.row(job.first + r)];
          sum = recorded(moment) ? rows.row_sum[r] : sum + rows.row_sum[r];
        }
      }
      if (out.log_det) {
        Curvature<T> of_step;
        of_step.log_det = out.log_det + moment / p_.substeps * p_.rows;
        curvature_at(team, job, moment, t, keep, of_step);
      }
      scatter(job, grad, out.grad);
      scatter(job, rows.hvp, out.hvp);
      if (out.path) {
        add_rows(job, p_.step, grad, rows.own_z);
        scatter(job, rows.own_z, out.path + (moment + 1) * p_.rows * dim());
      }
    }
  }

  void backward_job(Team& team, const Job& job, Thread& t, const Saved<T>& saved, const Cotangents<T>& bar,
                    const Gradients<T>& grads) const {
    RowScratch<T>& rows = t.rows;
    const std::int64_t layer = p_.rows * dim();
    const auto gather_or_clear = [&](const T* from, T* tile) {
      if (from)
        gather(job, from, dim(), dim(), tile);
      else
        __builtin_memset(tile, 0, job.count * dim_padded() * sizeof(T));
    };
    gather_tangent(job, rows);
    if (!saved.path) rows.d_z = in_place(job, grads.z, rows.own_d_z);
    if (saved.path) gather_or_clear(bar.path ? bar.path + p_.moments * layer : nullptr, rows.lambda);
    for (std::int64_t moment = p_.moments - 1; moment >= 0; --moment) {
      if (saved.path)
        gather(job, saved.path + moment * layer, dim(), dim(), rows.own_z);
      else
        take_rows(job, rows);
      const Kept keep = kept(saved.tape, saved.taped, job, moment, rows);
      if (!on_tape(saved.taped, moment)) evaluate(team, job, moment, t, keep);

      const bool here = recorded(moment);
      const auto row_cotangent = [&](const T* all, T* to) {
        gather_rows(job, all && here ? all + moment / p_.substeps * p_.rows : nullptr, to);
      };
      row_cotangent(bar.u, rows.u_bar);
      row_cotangent(bar.dt, rows.dt_bar);
      row_cotangent(bar.residual, rows.residual_bar);
      const bool residual = bar.residual && here, second = bar.hvp || bar.row_sum, grad = bar.grad || saved.path;
      rows.grad_bar = residual || saved.path ? rows.own_grad_bar : in_place<const T*>(job, bar.grad, rows.own_grad_bar);
      if (rows.grad_bar == rows.own_grad_bar && (grad || !residual)) gather_or_clear(bar.grad, rows.own_grad_bar);
      if (saved.path) add_rows(job, p_.step, rows.lambda, rows.own_grad_bar);

      if (bar.hvp) gather(job, bar.hvp, dim(), dim(), rows.hvp_bar);
      if (bar.row_sum) row_sum_cotangent(job, bar.row_sum + moment / p_.substeps * p_.rows, kept_hvp(keep), rows);
      const bool derivatives = saved.path || bar.grad || residual || (bar.dt && here);
      differentiate(team, job, moment, t, keep, grads, derivatives, residual, second, grad);
      if (grads.tangent && !p_.tangent_shared) {
        if (!second) __builtin_memset(rows.d_x, 0, job.count * dim_padded() * sizeof(T));
        scatter(job, rows.d_x, grads.tangent);
      }
      if (!saved.path) continue;
      add_rows(job, T(1), rows.d_z, rows.lambda);
      if (bar.path) {
        gather(job, bar.path + moment * layer, dim(), dim(), rows.own_d_z);
        add_rows(job, T(1), rows.d_z, rows.lambda);
      }
    }
    scatter(job, saved.path ? rows.lambda : rows.d_z, grads.z);
  }

  void loss_job(Team& team, const Job& job, Thread& t, const Loss<T>& loss, const Gradients<T>& grads) const {
    RowScratch<T>& rows = t.rows;
    take_rows(job, rows);
    rows.d_z = in_place(job, grads.z, rows.own_d_z);
    const Kept keep = kept(nullptr, 0, job, 0, rows);
    evaluate(team, job, 0, t, keep);
    double sum = 0;
    const T share = T(1) / static_cast<T>(p_.rows);
    for (std::int64_t r = 0; r < job.count; ++r) {
      const std::int64_t row = s_.row(job.first + r);
      const T residual = rows.residual[r], weight = loss.weight ? loss.weight[row] : T(1);
      sum += static_cast<double>(weight) * residual * residual;
      rows.residual_bar[r] = 2 * share * weight * residual;
      rows.u_bar[r] = rows.dt_bar[r] = T(0);
      if (loss.d_weight) loss.d_weight[row] = share * residual * residual;
    }
    t.loss += sum;
    differentiate(team, job, 0, t, keep, grads, true, true, false, false);
    scatter(job, rows.d_z, grads.z);
  }

  void curvature_job(Team& team, const Job& job, Thread& t, const Curvature<T>& out) const {
    RowScratch<T>& rows = t.rows;
    take_rows(job, rows);
    const Kept keep = kept(nullptr, 0, job, 0, rows);
    for (std::int64_t i = 0; i < potentials_per_row(p_); ++i) {
      const std::int64_t k = job.potential + i;
      t.tile.template forward<true>(team.bank[k], conditioning(team.bank, p_.potential.shape, job, k, 0, rows), rows.z,
                                    job.count, activations(keep, t.tile, i, false), rows.one_dt, rows.one_grad);
    }
    curvature_at(team, job, 0, t, keep, out);
  }

  /// The curvature of rows whose activations at a moment are kept.
  void curvature_at(Team& team, const Job& job, std::int64_t moment, Thread& t, const Kept& keep,
                    const Curvature<T>& out) const {
    RowScratch<T>& rows = t.rows;
    CurvatureScratch<T>& c = t.curvature;
    const std::int64_t many = potentials_per_row(p_), block = kTileRows * dim_padded();
    for (std::int64_t i = 0; i < many; ++i)
      t.tile.output_gradient(team.bank[job.potential + i], job.count, activations(keep, t.tile, i, false),
                             c.grad + i * block);
    // A Hessian that goes out is copied at once; determinants take as many at a time as a vector has lanes.
    const std::int64_t matrix = dim() * dim_padded(), batch = out.log_det ? kLanes<T> : 1;
    for (std::int64_t first = 0; first < job.count; first += batch) {
      const std::int64_t count = job.count - first < batch ? job.count - first : batch;
      for (std::int64_t j = 0; j < count; ++j) c.traces[j] = T(0);
      for (std::int64_t i = 0; i < many; ++i) {
        const std::int64_t k = job.potential + i;
        c.tile.use(team.bank.theta(k));
        const Activations<T> of = activations(keep, t.tile, i, false);
        gather_gates(job, moment, k, rows.gate);
        for (std::int64_t j = 0; j < count; ++j)
          c.tile.add(of, job.count, first + j, c.grad + i * block + (first + j) * dim_padded(), rows.gate[first + j],
                     i == 0, c.matrices ? c.matrices + j * matrix : nullptr, c.traces[j]);
      }
      for (std::int64_t j = 0; j < count; ++j) {
        const std::int64_t row = s_.row(job.first + first + j);
        if (out.laplacian) out.laplacian[row] = c.traces[j];
        for (std::int64_t d = 0; out.hessian && d < dim(); ++d)
          copy(dim(), c.matrices + j * matrix + d * dim_padded(), out.hessian + (row * dim() + d) * dim());
      }
      if (out.log_det) determinants(job, moment, first, count, c, out);
    }
  }

  /// Of I + step · ∇²u for `count` rows of a job whose Hessians lie in c.matrices, which it overwrites.
  /// The logarithms of a step's moments are added up.
  void determinants(const Job& job, std::int64_t moment, std::int64_t first, std::int64_t count, CurvatureScratch<T>& c,
                    const Curvature<T>& out) const {
    const std::int64_t d = dim(), dp = dim_padded(), matrix = d * dp;
    // Lanes without a row get the identity.
    __builtin_memset(c.matrices + count * matrix, 0, (kLanes<T> - count) * matrix * sizeof(T));
    const auto interleave = [&] {
      for (std::int64_t i = 0; i < d; ++i) {
        for (std::int64_t j = 0; j < dp; j += kLanes<T>) {
          T* to = c.interleaved + (i * dp + j) * kLanes<T>;
          transpose_block(c.matrices + i * dp + j, matrix, to, kLanes<T>);
          for (int lane = 0; lane < kLanes<T>; ++lane)
            store(to + lane * kLanes<T>, p_.step * load(to + lane * kLanes<T>));
        }
        T* diagonal = c.interleaved + (i * dp + i) * kLanes<T>;
        store(diagonal, load(diagonal) + T(1));
      }
    };
    T log_abs[kLanes<T>], sign[kLanes<T>];
    Determinants<T> determinants(c.interleaved, d, dp);
    interleave();
    if (!determinants.by_symmetric_elimination(log_abs, sign)) {
      interleave();
      determinants.by_lu(log_abs, sign);
    }
    for (std::int64_t j = 0; j < count; ++j) {
      const std::int64_t row = s_.row(job.first + first + j);
      out.log_det[row] = recorded(moment) ? log_abs[j] : out.log_det[row] + log_abs[j];
      if (out.sign) out.sign[row] = sign[j];
    }
  }

  const Problem<T>& p_;
  const Schedule& s_;
};

}  // namespace ffrl::FFRL_ISA

// Where the time of a call goes, phase by phase, for `python -m ffrl_fast.profile`.
#pragma once

#include <omp.h>

namespace ffrl {

/// The products of a sweep with their epilogues, as in docs/engine.md, and what surrounds them.
enum class Phase : int {
  pack,         // the weights, both orientations
  time,         // τ and dτ/dt
  input,        // a = tanh(W_in z + b_in)
  hidden,       // c = tanh(W s + b), o = w_out · c, ĥ = w_out ⊙ (1 − c²)
  reverse,      // v = Wᵀ ĥ, g_a = φ' v ⊙ (1 − a²)
  gradient,     // ∇u = W_inᵀ g_a
  d_gradient,   // d_ga = W_in ḡ
  d_reverse,    // d_ĥ = W d_v
  d_hidden,     // d_s = Wᵀ d_p
  d_input,      // d_z = W_inᵀ d_q
  weight_sums,  // dW = d_pᵀ s + ĥᵀ d_v, dW_in = d_qᵀ z + g_aᵀ ḡ
  combine,      // the slots' sums, dL/dτ and the gradients of the time layers
  count,
};

inline constexpr int kPhases = static_cast<int>(Phase::count);

/// One thread's totals, added up over calls.
struct PhaseRecord {
  struct Entry {
    double seconds = 0;
    double operations = 0;  // of the products, two a multiply-add
  };
  Entry phases[kPhases];
  double engine_seconds = 0;  // of whole calls, on the calling thread
};

/// Adds the time between its construction and its end to a phase; does nothing where no record is kept.
class PhaseTimer {
 public:
  __attribute__((always_inline)) PhaseTimer(PhaseRecord* record, Phase phase, double multiply_adds = 0)
      : phase_(phase), entry_(record ? &record->phases[static_cast<int>(phase)] : nullptr) {
    if (!entry_) return;
    entry_->operations += 2 * multiply_adds;
    start_ = omp_get_wtime();
  }
  __attribute__((always_inline)) ~PhaseTimer() {
    if (entry_) entry_->seconds += omp_get_wtime() - start_;
  }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

  __attribute__((always_inline)) Phase phase() const { return phase_; }

 private:
  Phase phase_;
  PhaseRecord::Entry* entry_;
  double start_ = 0;
};

}  // namespace ffrl

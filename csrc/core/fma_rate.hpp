// The multiply-add rate of one core: what fractions of peak are fractions of.
#pragma once

#include <omp.h>

#include "simd.hpp"

#if defined(__aarch64__)
#define FFRL_IN_REGISTER(v) "+w"(v)
#elif defined(__AVX512F__)
#define FFRL_IN_REGISTER(v) "+v"(v)
#else
#define FFRL_IN_REGISTER(v) "+x"(v)
#endif

namespace ffrl::FFRL_ISA {

/// Operations a second, two a multiply-add, of independent chains that live in registers: the best of runs of about
/// 50 µs within `seconds`. As many chains as hide the latency of two units.
template <class T>
double fma_rate(double seconds) {
  constexpr int chains = FFRL_VECTOR_REGISTERS >= 32 ? 24 : 12, rounds = 400'000 / (chains * kLanes<T>);
  const Vec<T> x = broadcast(T(0.5));
  Vec<T> acc[chains];
  double best = 0;
  for (double end = omp_get_wtime() + seconds, start; (start = omp_get_wtime()) < end;) {
#pragma GCC unroll 24
    for (int i = 0; i < chains; ++i) acc[i] = broadcast(T(i));
#pragma GCC unroll 1
    for (int r = 0; r < rounds; ++r) {
#pragma GCC unroll 24
      for (int i = 0; i < chains; ++i) {
        acc[i] = acc[i] * x + x;
        asm volatile("" : FFRL_IN_REGISTER(acc[i]));  // keeps every multiply-add, and keeps it here
      }
    }
    const double rate = 2.0 * chains * kLanes<T> * rounds / (omp_get_wtime() - start);
    if (rate > best) best = rate;
  }
  return best;
}

}  // namespace ffrl::FFRL_ISA

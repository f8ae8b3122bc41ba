// The multiply-add peak of one core and the clock it ran at. Compiled by fma_peak.py, once per instruction set, with
// VECTOR_BYTES, ACCUMULATORS and REAL defined.
#include <chrono>
#include <cstdio>
#include <cstdlib>

typedef REAL Vector __attribute__((vector_size(VECTOR_BYTES)));

constexpr long lanes = VECTOR_BYTES / sizeof(REAL);

static double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// EACH(f) is f(0) f(1) … for every accumulator. They are named variables: an array of them may end up in memory.
#define UP_TO_12(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
#define UP_TO_24(f) UP_TO_12(f) f(12) f(13) f(14) f(15) f(16) f(17) f(18) f(19) f(20) f(21) f(22) f(23)
#if ACCUMULATORS == 12
#define EACH UP_TO_12
#elif ACCUMULATORS == 24
#define EACH UP_TO_24
#endif

#if defined(__aarch64__)
#define KEEP(x) asm volatile("" : "+w"(x))
#elif defined(__AVX512F__)
#define KEEP(x) asm volatile("" : "+v"(x))
#else
#define KEEP(x) asm volatile("" : "+x"(x))
#endif

// As many independent chains as hide the latency of two units, few enough to stay in registers. The empty asm keeps
// each multiply-add in place.
__attribute__((noinline)) static void chains(long rounds, REAL seed, REAL* sink) {
  Vector x, y, sum = {};
  for (long j = 0; j < lanes; ++j) x[j] = seed, y[j] = REAL(1) - seed;
#define START(i) Vector acc##i = x + REAL(i);
#define STEP(i)            \
  acc##i = acc##i * x + y; \
  KEEP(acc##i);
#define ADD(i) sum += acc##i;
  EACH(START)
  for (long r = 0; r < rounds; ++r) {
    EACH(STEP)
  }
  EACH(ADD)
  for (long j = 0; j < lanes; ++j) sink[j] = sum[j];
}

// Dependent additions of two registers take one cycle each on every processor at hand (an addition of a constant
// would not: some processors fold it away).
__attribute__((noinline)) static void additions(long rounds) {
  unsigned long a = 1, b = 3;
  for (long r = 0; r < rounds; ++r) {
#pragma GCC unroll 32
    for (int i = 0; i < 32; ++i) {
#if defined(__aarch64__)
      asm volatile("add %0, %0, %1" : "+r"(a) : "r"(b));
#else
      asm volatile("add %1, %0" : "+r"(a) : "r"(b));
#endif
    }
  }
}

int main(int argc, char** argv) {
  const int samples = argc > 1 ? std::atoi(argv[1]) : 100;
  const long rounds = 4'000'000 / (ACCUMULATORS * lanes);
  REAL sink[lanes];
  double best = 0, clock = 0;
  for (int s = 0; s < samples; ++s) {
    double start = now();
    chains(rounds, REAL(0.5), sink);
    const double rate = 2.0 * lanes * ACCUMULATORS * rounds / (now() - start);
    if (rate > best) best = rate;
    start = now();
    additions(10'000);
    const double cycles = 32.0 * 10'000 / (now() - start);
    if (cycles > clock) clock = cycles;
  }
  std::printf("%.6e %.6e %ld %g\n", best, clock, lanes, double(sink[0]));
}

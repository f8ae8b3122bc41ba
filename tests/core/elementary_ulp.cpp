// Measures the error and the speed of csrc/core/elementary.hpp, compiled for one instruction set.
//
//     elementary_ulp quick | exhaustive | bench
//
// The first two print one line per function and type, and exit with 1 if any bound is missed:
//
//     sin float max_ulp 1.23 at 0x1.8p-1 beyond 0.45 at 0x1.8p+20 wrong 0 decreasing 0 samples 44278013
//
// max_ulp is the distance to the exact value in units of its last place, and `beyond` the same in another range, where
// the bound is another: for normal_cdf below −1; for sine and cosine above 1e5, there in units of
// |argument|·2^(2 − mantissa). `wrong` counts special values, signs, parity and bounds that are not as they must be;
// `decreasing` counts neighbouring arguments whose values go the wrong way (reported only). References: for float, the
// C library in double; for double, the C library in long double (x87: 11 more digits; on AArch64: binary128). Either is
// exact here to a hundredth of an ulp.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "../../csrc/core/elementary.hpp"

namespace core = ffrl::FFRL_ISA;

namespace {

enum class Function { kTanh, kExp, kNormalCdf, kSin, kCos };

/// The largest errors allowed: that of max_ulp, and that beyond.
constexpr double bound(Function function, bool beyond) {
  if (function == Function::kNormalCdf) return beyond ? 16 : 4;
  return beyond ? 1 : 2;
}

constexpr bool periodic(Function function) { return function == Function::kSin || function == Function::kCos; }

constexpr double kFar = 1e5;

bool is_beyond(Function function, double x) {
  if (function == Function::kNormalCdf) return x < -1;
  return periodic(function) && std::abs(x) > kFar;
}

template <class T>
using Unsigned = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

template <class T>
Unsigned<T> bits(T x) {
  Unsigned<T> b;
  std::memcpy(&b, &x, sizeof b);
  return b;
}

template <class T>
T from_bits(Unsigned<T> b) {
  T x;
  std::memcpy(&x, &b, sizeof x);
  return x;
}

template <Function function, class T>
core::Vec<T> evaluate(core::Vec<T> x) {
  if constexpr (function == Function::kTanh) return core::tanh<T>(x);
  if constexpr (function == Function::kExp) return core::exp<T>(x);
  if constexpr (function == Function::kNormalCdf) return core::normal_cdf<T>(x);
  core::Vec<T> sin, cos;
  core::sincos<T>(x, sin, cos);
  return function == Function::kSin ? sin : cos;
}

double normal_cdf(double x) { return 0.5 * std::erfc(-0.70710678118654752440 * x); }

/// With x/√2 = y + rest: the rounding of y alone would be a relative error of x²/2 times its own.
long double normal_cdf(long double x) {
  const long double high = 0.70703125L * x;  // exact for a double
  const long double low = 7.553118654752440084436210484903928483594e-5L * x;
  const long double y = high + low, rest = (high - y) + low;
  const long double density = 1.128379167095512573896158903121545171688L * std::exp(-y * y);  // 2/√π
  return 0.5L * (std::erfc(-y) + density * rest);
}

template <class T, class Wide = std::conditional_t<sizeof(T) == 4, double, long double>>
Wide reference(Function function, T argument) {
  const Wide x = argument;
  switch (function) {
    case Function::kTanh:
      return std::tanh(x);
    case Function::kExp:
      return std::exp(x);
    case Function::kNormalCdf:
      return normal_cdf(x);
    case Function::kSin:
      return std::sin(x);
    default:
      return std::cos(x);
  }
}

/// The spacing of T at |exact|; that of the denormals below, and that of the largest binade where T overflows.
template <class T, class Wide>
Wide last_place(Wide exact) {
  using Limits = std::numeric_limits<T>;
  int exponent;
  std::frexp(exact, &exponent);
  exponent = std::min(std::max(exponent, Limits::min_exponent), Limits::max_exponent);
  return std::ldexp(Wide(1), exponent - Limits::digits);
}

/// |value − exact| in units in the last place. An infinite value counts as 2^max_exponent, the next after the largest.
template <class T, class Wide>
double error_in_ulp(T value, Wide exact) {
  const Wide top = std::ldexp(Wide(1), std::numeric_limits<T>::max_exponent);
  const Wide finite = std::isinf(value) ? top : static_cast<Wide>(value);
  return static_cast<double>(std::abs(finite - std::min(exact, top)) / last_place<T>(exact));
}

template <Function function, class T>
class Survey {
 public:
  void add(T x) {
    argument_[count_++] = x;
    if (count_ == kBatch) flush();
  }

  void flush() {
    for (int i = count_; i < kBatch; ++i) argument_[i] = T(0);
    T value[kBatch], mirrored[kBatch];
    for (int i = 0; i < kBatch; i += core::kLanes<T>) {
      const core::Vec<T> x = core::load<T>(argument_ + i);
      core::store<T>(value + i, evaluate<function, T>(x));
      core::store<T>(mirrored + i, evaluate<function, T>(-x));
    }
    for (int i = 0; i < count_; ++i) check(argument_[i], value[i], mirrored[i]);
    samples_ += count_;
    count_ = 0;
  }

  /// Prints, and returns whether all is well.
  bool report(const char* name) {
    flush();
    std::printf("%s %s max_ulp %.4f at %a beyond %.4f at %a wrong %lld decreasing %lld samples %lld\n", name,
                sizeof(T) == 4 ? "float" : "double", worst_[0], static_cast<double>(worst_at_[0]), worst_[1],
                static_cast<double>(worst_at_[1]), wrong_, decreasing_, samples_);
    return wrong_ == 0 && worst_[0] <= bound(function, false) && worst_[1] <= bound(function, true);
  }

 private:
  static constexpr int kBatch = 64;

  void check(T x, T value, T mirrored) {
    if (std::isnan(x)) {
      wrong_ += !std::isnan(value) || !std::isnan(mirrored);
      return;
    }
    if (!right(x, value, mirrored)) {
      if (wrong_++ < 5) std::printf("wrong: %a gives %a and %a\n", double(x), double(value), double(mirrored));
      return;
    }
    // Floats arrive in increasing order where every one of them is tried.
    if (!periodic(function) && bits(x) == bits(previous_) + 1)
      decreasing_ += value < previous_value_ || mirrored > previous_mirrored_;
    previous_ = x;
    previous_value_ = value;
    previous_mirrored_ = mirrored;
    note(x, value);
    if (function == Function::kExp || function == Function::kNormalCdf) note(-x, mirrored);
  }

  bool right(T x, T value, T mirrored) const {
    const T least = std::numeric_limits<T>::min();
    if (periodic(function) && std::isinf(x)) return std::isnan(value) && std::isnan(mirrored);
    if (function == Function::kTanh || function == Function::kSin) {
      if (bits(value) != (bits(mirrored) ^ bits(T(-0.0))) || !(std::abs(value) <= 1)) return false;
      if (function == Function::kTanh && std::signbit(value) != std::signbit(x)) return false;
      if (std::isinf(x)) return std::abs(value) == 1;
      return std::abs(x) >= least || bits(value) == bits(x);
    }
    if (function == Function::kCos)
      return bits(value) == bits(mirrored) && std::abs(value) <= 1 && (std::abs(x) >= least || value == 1);
    if (function == Function::kNormalCdf) {
      if (!(mirrored >= 0) || !(mirrored <= T(0.5)) || value != 1 - mirrored) return false;
      return std::isinf(x) ? mirrored == 0 : x != 0 || mirrored == T(0.5);
    }
    if (std::isinf(x)) return std::isinf(x > 0 ? value : mirrored) && (x > 0 ? mirrored : value) == 0;
    return value >= 0 && mirrored >= 0 && (x != 0 || value == 1);
  }

  void note(T x, T value) {
    if (std::isinf(x)) return;
    const bool beyond = is_beyond(function, x);
    const auto exact = reference(function, x);
    const double error = beyond && periodic(function) ? static_cast<double>(std::abs((value - exact) / x)) *
                                                            std::ldexp(1.0, std::numeric_limits<T>::digits - 3)
                                                      : error_in_ulp(value, exact);
    if (!(error <= worst_[beyond])) {
      worst_[beyond] = error;
      worst_at_[beyond] = x;
    }
  }

  T argument_[kBatch];
  int count_ = 0;
  T previous_ = 0, previous_value_ = 0, previous_mirrored_ = 0;
  double worst_[2] = {};
  T worst_at_[2] = {};
  long long wrong_ = 0, decreasing_ = 0, samples_ = 0;
};

/// Non-negative arguments around which an implementation may go wrong: the ends of the format, of saturation, over- and
/// underflow, the binades, and the points where the reduction's integer changes. (Each is tried with both signs. Those
/// of sine and cosine are too many for this list.)
template <class T>
std::vector<T> landmarks() {
  using Limits = std::numeric_limits<T>;
  std::vector<T> points = {T(0),          Limits::denorm_min(), Limits::min(),
                           Limits::max(), Limits::infinity(),   Limits::quiet_NaN()};
  for (double x : {9.0109,   9.1,     19.0615,  19.1,     22.0,    44.0,     87.3365,  88.7228, 89.0,  103.2789,
                   103.9721, 104.0,   708.3964, 709.7827, 710.0,   744.4401, 745.1332, 746.0,   5.4,   8.3,
                   12.98,    14.1702, 14.2,     37.519,   38.4854, 38.5,     1e5,      6.5e6,   3.5e15})
    points.push_back(T(x));
  for (int e = Limits::min_exponent - Limits::digits; e < Limits::max_exponent; ++e)
    points.push_back(std::ldexp(T(1), e));
  for (int k = 1; k < 4500; ++k) points.push_back(T(k * 0.17328679513998632735));             // ln 2 / 4
  for (int k = 1; k < 2200; ++k) points.push_back(T(std::sqrt(k * 0.69314718055994530942)));  // e^(−x²/2) = 2^(−k/2)
#if defined(__AVX512F__)
  for (int k = 1; k < core::tanh_table::kIntervals; ++k) {
    const double slope = core::tanh_table::kSlope, curvature = core::tanh_table::kCurvature;
    points.push_back(T((slope - std::sqrt(slope * slope - 4 * curvature * (k - 0.5))) / (2 * curvature)));
    points.push_back(T(core::tanh_table::kCentre[k]));
  }
#endif
  return points;
}

template <Function function, class T>
void around(Survey<function, T>& survey, T point, int reach) {
  for (int k = -reach; k <= reach; ++k) {
    const T x = from_bits<T>(bits(point) + static_cast<Unsigned<T>>(k));
    if (!std::signbit(x)) survey.add(x);
  }
}

template <Function function, class T>
void around_landmarks(Survey<function, T>& survey, int reach) {
  for (T point : landmarks<T>()) around(survey, point, reach);
  // Zeros, where the relative error of the reduction is greatest, and changes of the reduction's integer.
  if (periodic(function))
    for (int k = 1; k * 0.78539816339744830962 < 1.1 * kFar; ++k)
      around(survey, T(k * 0.78539816339744830961566L), sizeof(T) == 4 ? 1 : 2);
  // NaN of every kind: quiet, signalling, any payload.
  const Unsigned<T> infinity = bits(std::numeric_limits<T>::infinity());
  for (Unsigned<T> payload = 1; payload < infinity >> 4; payload *= 2) survey.add(from_bits<T>(infinity + payload));
}

template <Function function>
bool survey_float(const char* name, bool exhaustive) {
  Survey<function, float> survey;
  if (!exhaustive) around_landmarks(survey, 200);
  for (std::uint32_t b = 0; b < 0x80000000u; b += exhaustive ? 1 : 193) survey.add(from_bits<float>(b));
  return survey.report(name);
}

template <Function function>
bool survey_double(const char* name, bool exhaustive) {
  Survey<function, double> survey;
  around_landmarks(survey, exhaustive ? 200 : 5);
  const long long count = exhaustive ? 20'000'000 : 300'000;
  std::mt19937_64 random(20240229);
  const double end = function == Function::kTanh        ? 20
                     : function == Function::kExp       ? 750
                     : function == Function::kNormalCdf ? 39
                                                        : kFar;
  for (long long i = 0; i < count; ++i) {
    survey.add(end * (static_cast<double>(i) + 0.5) / static_cast<double>(count));  // dense
    survey.add(std::ldexp(static_cast<double>(random() >> 11), -53));               // [0, 1), where tanh is curved
    // Uniform in the logarithm, from 2^-40 to 2^10 (where periodic, to 2^24); now and then any bit pattern at all.
    const std::uint64_t b = random();
    if (i % 16 == 0)
      survey.add(from_bits<double>(b >> 1));
    else
      survey.add(std::ldexp(1 + std::ldexp(static_cast<double>(b >> 12), -52),
                            static_cast<int>(random() % (periodic(function) ? 64 : 50)) - 40));
  }
  return survey.report(name);
}

template <Function function>
bool survey(const char* name, bool exhaustive) {
  const bool good = survey_float<function>(name, exhaustive);
  return survey_double<function>(name, exhaustive) && good;
}

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Cycles per second, from a chain of dependent rotations: one a cycle (additions of a constant may take none).
double clock_rate() {
  double best = 0;
  for (int repeat = 0; repeat < 20; ++repeat) {
    const long long steps = 2'000'000;
    std::uint64_t x = 1;
    const double start = seconds();
    for (long long i = 0; i < steps; i += 8)
      for (int k = 0; k < 8; ++k) {
        x = x << 7 | x >> 57;
        asm volatile("" : "+r"(x));
      }
    best = std::max(best, static_cast<double>(steps) / (seconds() - start));
  }
  return best;
}

/// For kSin both sine and cosine, into y and z.
template <Function function, class T>
__attribute__((noinline)) void sweep(const T* x, T* y, [[maybe_unused]] T* z, int size) {
  for (int i = 0; i < size; i += core::kLanes<T>) {
    if constexpr (function == Function::kSin) {
      core::Vec<T> sin, cos;
      core::sincos<T>(core::load<T>(x + i), sin, cos);
      core::store<T>(y + i, sin);
      core::store<T>(z + i, cos);
    } else {
      core::store<T>(y + i, evaluate<function, T>(core::load<T>(x + i)));
    }
  }
}

template <Function function, class T>
void bench(const char* name, double rate) {
  constexpr int kSize = 1024;  // in the first-level cache
  alignas(64) static T x[kSize], y[kSize], z[kSize];
  for (int i = 0; i < kSize; ++i) x[i] = T(6 * std::sin(i * 1.7));
  double best = 1e9;
  for (int repeat = 0; repeat < 400; ++repeat) {
    const double start = seconds();
    for (int k = 0; k < 20; ++k) {
      sweep<function, T>(x, y, z, kSize);
      asm volatile("" ::: "memory");
    }
    best = std::min(best, (seconds() - start) / (20.0 * kSize / core::kLanes<T>));
  }
  std::printf("%s %s: %.2f ns, %.1f cycles per vector of %d; %.2f cycles per value\n", name,
              sizeof(T) == 4 ? "float" : "double", 1e9 * best, rate * best, core::kLanes<T>,
              rate * best / core::kLanes<T>);
}

}  // namespace

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "quick";
  if (std::strcmp(mode, "bench") == 0) {
    const double rate = clock_rate();
    bench<Function::kTanh, float>("tanh", rate);
    bench<Function::kTanh, double>("tanh", rate);
    bench<Function::kExp, float>("exp", rate);
    bench<Function::kExp, double>("exp", rate);
    bench<Function::kNormalCdf, float>("normal_cdf", rate);
    bench<Function::kNormalCdf, double>("normal_cdf", rate);
    bench<Function::kSin, float>("sincos", rate);
    bench<Function::kSin, double>("sincos", rate);
    return 0;
  }
  const bool exhaustive = std::strcmp(mode, "exhaustive") == 0;
  bool good = survey<Function::kTanh>("tanh", exhaustive);
  good &= survey<Function::kExp>("exp", exhaustive);
  good &= survey<Function::kNormalCdf>("normal_cdf", exhaustive);
  good &= survey<Function::kSin>("sin", exhaustive);
  good &= survey<Function::kCos>("cos", exhaustive);
  return good ? 0 : 1;
}

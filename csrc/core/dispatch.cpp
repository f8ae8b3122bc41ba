#include "dispatch.hpp"

#include <cstdlib>
#include <stdexcept>

namespace ffrl {

#if defined(__x86_64__)
namespace avx512 {
extern const Isa kIsa;
}
namespace avx2 {
extern const Isa kIsa;
}
namespace baseline {
extern const Isa kIsa;
}
#elif defined(__aarch64__)
namespace neon {
extern const Isa kIsa;
}
#endif

const std::vector<const Isa*>& compiled_isas() {
#if defined(__x86_64__)
  static const std::vector<const Isa*> all = {&avx512::kIsa, &avx2::kIsa, &baseline::kIsa};
#elif defined(__aarch64__)
  static const std::vector<const Isa*> all = {&neon::kIsa};
#endif
  return all;
}

namespace {

const Isa& choose() {
  const char* forced = std::getenv("FFRL_FAST_ISA");
  std::string names;
  for (const Isa* candidate : compiled_isas()) {
    names += names.empty() ? candidate->name : std::string(", ") + candidate->name;
    if (forced && *forced) {
      if (std::string(forced) != candidate->name) continue;
      if (!candidate->supported())
        throw std::runtime_error(std::string("FFRL_FAST_ISA=") + forced + ": this processor does not support it");
      return *candidate;
    }
    if (candidate->supported()) return *candidate;
  }
  if (forced && *forced)
    throw std::runtime_error(std::string("FFRL_FAST_ISA=") + forced + ": expected one of " + names);
  throw std::runtime_error("this processor supports none of the instruction sets compiled in: " + names);
}

template <class T>
Schedule& planned(const Problem<T>& p, double times_the_work = 1) {
  thread_local Schedule schedule;
  const double work = multiply_adds(p) * times_the_work;
  plan(schedule, p.rows, p.potentials, p.selected, p.index, p.gates != nullptr, work, p.threads);
  return schedule;
}

}  // namespace

const Isa& isa() {
  static const Isa& chosen = choose();
  return chosen;
}

template <class T>
void forward(const Problem<T>& p, const Outputs<T>& out) {
  isa().template entry<T>().forward(p, planned(p), out);
}

template <class T>
void backward(const Problem<T>& p, const Saved<T>& saved, const Cotangents<T>& bar, const Gradients<T>& grads) {
  isa().template entry<T>().backward(p, planned(p), saved, bar, grads);
}

template <class T>
void loss(const Problem<T>& p, const Loss<T>& loss, const Gradients<T>& grads) {
  isa().template entry<T>().loss(p, planned(p), loss, grads);
}

template <class T>
void curvature(const Problem<T>& p, const Curvature<T>& out) {
  // About D columns a row go through the network.
  isa().template entry<T>().curvature(p, planned(p, double(p.potential.shape.dim)), out);
}

template void curvature(const Problem<float>&, const Curvature<float>&);
template void curvature(const Problem<double>&, const Curvature<double>&);
template void loss(const Problem<float>&, const Loss<float>&, const Gradients<float>&);
template void loss(const Problem<double>&, const Loss<double>&, const Gradients<double>&);
template void forward(const Problem<float>&, const Outputs<float>&);
template void forward(const Problem<double>&, const Outputs<double>&);
template void backward(const Problem<float>&, const Saved<float>&, const Cotangents<float>&, const Gradients<float>&);
template void backward(const Problem<double>&, const Saved<double>&, const Cotangents<double>&,
                       const Gradients<double>&);

}  // namespace ffrl

#include "dispatch.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
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

/// Products of a sweep: W_in z, W_hid a, W_hidᵀ v and W_inᵀ q; their cotangents and those of the weights.
constexpr double kForward = 2, kBackward = 4;

/// `products`: how many a weight and row.
template <class T>
Effort effort(const Problem<T>& p, double products) {
  // A narrower network takes as long as one of two vectors.
  const double lanes = double(isa().vector_bytes) / sizeof(T), least = 2 * lanes;
  const double networks = double(p.selected >= 0 ? 1 : p.potentials);
  Effort all{0, 0, double(packed_size(p)) * sizeof(T), 0};
  const auto add = [&](const Network<T>& net, double of_products) {
    const double h = std::max(double(net.shape.width), least), d = std::max(double(net.shape.dim), least);
    all.products += of_products * h * (d + double(net.shape.depth) * h) / lanes * double(p.rows) * double(p.moments) *
                    double(potentials_per_row(p)) * (p.second_order() ? 2 : 1);
    all.largest = std::max(all.largest, double(net.shape.width * std::max(net.shape.dim, net.shape.width)) * sizeof(T));
    // W_t1, W_t2, and W_1, which τ is folded through.
    if (net.computes_time() && !p.row_times)
      all.time_weights += networks * double(net.shape.width * (net.shape.dim + 2 * net.shape.width)) * sizeof(T);
  };
  add(p.potential, products);
  if (p.force) add(p.force, products / 2);
  return all;
}

template <class T>
const Schedule& in_shares(const Problem<T>& p, Division shares) {
  thread_local Schedule schedule;
  plan(schedule, p.rows, p.potentials, p.selected, p.index, p.gates != nullptr, shares);
  return schedule;
}

template <class T>
Division divided_by_rows(const Problem<T>& p, double products) {
  return {threads_that_pay(effort(p, products), p.threads), 1};
}

/// By units where there are few rows.
template <class T>
Division divided(const Problem<T>& p, double products) {
  const Effort of_call = effort(p, products);
  const int threads = threads_that_pay(of_call, p.threads), by_units = threads_of_units(of_call, p.rows, threads);
  return by_units > 1 ? Division{1, by_units} : Division{threads, 1};
}

// A tape is laid out by the shares of the rows. So the backward sweep must have those of the forward one, also where it
// may use another number of threads: what is kept says how many, in a line ahead of the packed weights. As a number of
// the type of the weights: hooks of saved tensors may keep them in another one for a while.

template <class T>
T* keep_shares(T* packed, std::int64_t shares) {
  std::memset(packed, 0, padded<T>(1) * sizeof(T));  // all of it: equal calls keep equal bits
  packed[0] = static_cast<T>(shares);
  return packed + padded<T>(1);
}

template <class T>
int kept_shares(const Problem<T>& p, const T* packed) {
  const T shares = packed[0], most = static_cast<T>(p.threads > p.rows ? p.threads : p.rows);
  if (!(shares >= 1 && shares <= most && shares == std::floor(shares)))
    throw std::runtime_error(
        "hooks of saved tensors: expected what was saved, up to rounding, found something else in its place");
  return static_cast<int>(shares);
}

}  // namespace

const Isa& isa() {
  static const Isa& chosen = choose();
  return chosen;
}

template <class T>
void forward(const Problem<T>& p, const Outputs<T>& out) {
  const double products = out.packed ? (kForward + kBackward) / 2 : kForward;
  // A row's Hessian is one thread's work.
  const Division shares = out.log_det ? divided_by_rows(p, products) : divided(p, products);
  Outputs<T> to = out;
  if (out.packed) to.packed = keep_shares(out.packed, shares.rows);
  isa().template entry<T>().forward(p, in_shares(p, shares), to);
}

template <class T>
void backward(const Problem<T>& p, const Saved<T>& saved, const Cotangents<T>& bar, const Gradients<T>& grads) {
  Saved<T> from = saved;
  Division shares = divided(p, kBackward);
  if (saved.packed) {
    from.packed = saved.packed + padded<T>(1);
    const int rows = kept_shares(p, saved.packed);
    // A tape of one share has its rows as sharing by units has them.
    if (rows > 1 || shares.units == 1) shares = {rows, 1};
  }
  isa().template entry<T>().backward(p, in_shares(p, shares), from, bar, grads);
}

template <class T>
void loss(const Problem<T>& p, const Loss<T>& loss, const Gradients<T>& grads) {
  isa().template entry<T>().loss(p, in_shares(p, divided(p, kForward + kBackward)), loss, grads);
}

template <class T>
void curvature(const Problem<T>& p, const Curvature<T>& out) {
  // About D columns a row go through the network.
  const Division shares = divided_by_rows(p, kForward * double(p.potential.shape.dim));
  isa().template entry<T>().curvature(p, in_shares(p, shares), out);
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

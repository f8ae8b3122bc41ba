// The engine's entry points, chosen once for the processor at hand.
#pragma once

#include <string>
#include <vector>

#include "problem.hpp"
#include "schedule.hpp"

namespace ffrl {

template <class T>
struct EntryPoints {
  void (*forward)(const Problem<T>&, const Schedule&, const Outputs<T>&);
  void (*backward)(const Problem<T>&, const Schedule&, const Saved<T>&, const Cotangents<T>&, const Gradients<T>&);
  void (*loss)(const Problem<T>&, const Schedule&, const Loss<T>&, const Gradients<T>&);
  void (*curvature)(const Problem<T>&, const Schedule&, const Curvature<T>&);
  double (*fma_rate)(double seconds);
};

/// The engine compiled for one instruction set.
struct Isa {
  const char* name;
  int vector_bytes;
  bool (*supported)();  // by this processor
  EntryPoints<float> f32;
  EntryPoints<double> f64;

  template <class T>
  const EntryPoints<T>& entry() const {
    if constexpr (sizeof(T) == sizeof(float))
      return f32;
    else
      return f64;
  }
};

/// Compiled in, best first.
const std::vector<const Isa*>& compiled_isas();

/// The one in use: named by the environment variable FFRL_FAST_ISA, else the best that the processor supports. Chosen
/// at the first call. Throws std::runtime_error when the one named is unknown or not supported.
const Isa& isa();

/// Plans and runs. `forward` throws std::out_of_range for a bad index before anything is written.
template <class T>
void forward(const Problem<T>&, const Outputs<T>&);
template <class T>
void backward(const Problem<T>&, const Saved<T>&, const Cotangents<T>&, const Gradients<T>&);
template <class T>
void loss(const Problem<T>&, const Loss<T>&, const Gradients<T>&);
template <class T>
void curvature(const Problem<T>&, const Curvature<T>&);

}  // namespace ffrl

// What the module _core offers to the package's other modules, as the capsule ffrl_fast._core.engine: linked twice the
// engine would keep two sets of blocks and choose its instruction set twice.
#pragma once

#include <cstddef>

#include "../core/memory.hpp"
#include "../core/problem.hpp"

namespace ffrl::bindings {

template <class T>
struct Calls {
  void (*forward)(const Problem<T>&, const Outputs<T>&);
  void (*backward)(const Problem<T>&, const Saved<T>&, const Cotangents<T>&, const Gradients<T>&);
  void (*loss)(const Problem<T>&, const Loss<T>&, const Gradients<T>&);
};

struct Engine {
  Calls<float> f32;
  Calls<double> f64;
  Block* (*new_block)(std::size_t bytes);
  void (*delete_block)(Block*);

  template <class T>
  const Calls<T>& calls() const {
    if constexpr (sizeof(T) == sizeof(float))
      return f32;
    else
      return f64;
  }
};

/// The capsule's name.
inline constexpr char kEngine[] = "ffrl_fast._core.engine";

}  // namespace ffrl::bindings

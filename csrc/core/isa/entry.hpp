// Included by each instruction set's translation unit after it has defined FFRL_ISA, FFRL_VECTOR_BYTES,
// FFRL_VECTOR_REGISTERS and `supported`: defines FFRL_ISA::kIsa.
#pragma once

#include "../dispatch.hpp"
#include "../engine.hpp"
#include "../fma_rate.hpp"

#define FFRL_STRINGIFY_(x) #x
#define FFRL_STRINGIFY(x) FFRL_STRINGIFY_(x)

namespace ffrl::FFRL_ISA {

template <class T>
void forward(const Problem<T>& p, const Schedule& s, const Outputs<T>& out) {
  Engine<T>(p, s).forward(out);
}

template <class T>
void backward(const Problem<T>& p, const Schedule& s, const Saved<T>& saved, const Cotangents<T>& bar,
              const Gradients<T>& grads) {
  Engine<T>(p, s).backward(saved, bar, grads);
}

template <class T>
void loss(const Problem<T>& p, const Schedule& s, const Loss<T>& loss, const Gradients<T>& grads) {
  Engine<T>(p, s).loss(loss, grads);
}

template <class T>
void curvature(const Problem<T>& p, const Schedule& s, const Curvature<T>& out) {
  Engine<T>(p, s).curvature(out);
}

template <class T>
constexpr EntryPoints<T> kEntryPoints = {forward<T>, backward<T>, loss<T>, curvature<T>, fma_rate<T>};

extern const Isa kIsa;
const Isa kIsa = {FFRL_STRINGIFY(FFRL_ISA), FFRL_VECTOR_BYTES, supported, kEntryPoints<float>, kEntryPoints<double>};

}  // namespace ffrl::FFRL_ISA

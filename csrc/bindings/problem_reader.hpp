// A problem, from the tuples of numbers that ffrl_fast/native/plan.py makes.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "../core/problem.hpp"

namespace ffrl::bindings {

namespace py = pybind11;

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

/// The numbers of a tuple one after another: a call has fifty of them, and pybind11's own conversion, which takes any
/// object that has __index__, asks more of each than the engine does of a row.
class Reader {
 public:
  explicit Reader(const py::tuple& of) : of_(of.ptr()), size_(PyTuple_GET_SIZE(of.ptr())) {}

  std::int64_t integer() {
    const std::int64_t value = PyLong_AsLongLong(next());
    if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
    return value;
  }
  double real() {
    const double value = PyFloat_AsDouble(next());
    if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
    return value;
  }
  bool flag() { return integer() != 0; }
  template <class T>
  T* address() {
    return at<T>(static_cast<Address>(integer()));
  }

 private:
  PyObject* next() {
    if (at_ == size_) throw py::value_error("expected a longer tuple of numbers");
    return PyTuple_GET_ITEM(of_, at_++);
  }

  PyObject* of_;
  py::ssize_t size_;
  py::ssize_t at_ = 0;
};

/// One side of a problem: stride of theta; how many potentials τ holds; D, width, depth, out_tanh, time embedding.
template <class T>
Network<T> read_network(Reader& sizes) {
  Network<T> net;
  net.stride = sizes.integer();
  net.conditioned = sizes.integer();
  net.shape.dim = sizes.integer();
  net.shape.width = sizes.integer();
  net.shape.depth = sizes.integer();
  net.shape.out_tanh = sizes.flag();
  net.shape.time = static_cast<TimeEmbedding>(sizes.integer());
  return net;
}

/// A problem without addresses. sizes: rows, potentials, moments, substeps, step, row_times, stride of z, selected,
/// gates_by_step, residual, whether the rows share the tangent, row_sum; the potential; whether there is a force; the
/// force.
template <class T>
Problem<T> read_sizes(const py::tuple& sizes) {
  Reader s(sizes);
  Problem<T> p;
  p.rows = s.integer();
  p.potentials = s.integer();
  p.moments = s.integer();
  p.substeps = s.integer();
  p.step = static_cast<T>(s.real());
  p.row_times = s.flag();
  p.z_stride = s.integer();
  p.selected = s.integer();
  p.gates_by_step = s.flag();
  p.residual = s.flag();
  p.tangent_shared = s.flag();
  p.row_sum = s.flag();
  p.potential = read_network<T>(s);
  if (s.flag()) p.force = read_network<T>(s);
  return p;
}

/// Throws where the engine would have to compute what it cannot.
template <class T>
void check_times(const Problem<T>& p) {
  if (p.row_times && (p.potential.computes_time() || (p.force && p.force.computes_time())))
    throw py::value_error("tau: where every row has a time of its own, τ and dτ/dt must be given");
}

}  // namespace ffrl::bindings

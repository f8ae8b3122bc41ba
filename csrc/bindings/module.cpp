// The extension module ffrl_fast._core: addresses, sizes and strides in, nothing kept, the GIL released.
//
// Addresses come as integers (0 for null) from tensors that ffrl_fast/native has checked for dtype, shape, strides
// and device and keeps alive during the call.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <utility>

#include "../core/dispatch.hpp"
#include "../core/memory.hpp"
#include "engine.hpp"
#include "problem_reader.hpp"

namespace py = pybind11;

namespace {

using ffrl::bindings::Address;
using ffrl::bindings::at;
using ffrl::bindings::Reader;
using Int = std::int64_t;

/// A problem, as ffrl_fast/native/plan.py spells it. given, of this call: threads, phase records (one a thread), and
/// the addresses of z, t, theta, τ, dτ/dt, the force's theta and τ, index, gates, tangent.
template <class T>
ffrl::Problem<T> problem(const py::tuple& sizes, const py::tuple& given) {
  ffrl::Problem<T> p = ffrl::bindings::read_sizes<T>(sizes);
  Reader g(given);
  p.threads = static_cast<int>(g.integer());
  p.phases = g.address<ffrl::PhaseRecord>();
  p.z = g.address<const T>();
  p.t = g.address<const T>();
  p.potential.theta = g.address<const T>();
  p.potential.tau = g.address<const T>();
  p.potential.dtau = g.address<const T>();
  p.force.theta = g.address<const T>();
  p.force.tau = g.address<const T>();
  p.index = g.address<const Int>();
  p.gates = g.address<const T>();
  p.tangent = g.address<const T>();
  ffrl::bindings::check_times(p);
  return p;
}

/// Addresses of the gradients of z, t, theta, tau, dtau, force_theta, force_tau, gates, tangent.
template <class T>
ffrl::Gradients<T> gradients(const py::tuple& from) {
  Reader g(from);
  ffrl::Gradients<T> to;
  for (T** const x :
       {&to.z, &to.t, &to.theta, &to.tau, &to.dtau, &to.force_theta, &to.force_tau, &to.gates, &to.tangent})
    *x = g.address<T>();
  return to;
}

/// outputs: addresses of u, dt, residual, hvp, row_sum, log_det, grad, path, tape; moments on the tape; address of
/// packed
template <class T>
void forward(const py::tuple& sizes, const py::tuple& given, const py::tuple& outputs) {
  const auto p = problem<T>(sizes, given);
  ffrl::Outputs<T> out;
  Reader o(outputs);
  for (T** const x :
       {&out.u, &out.dt, &out.residual, &out.hvp, &out.row_sum, &out.log_det, &out.grad, &out.path, &out.tape})
    *x = o.address<T>();
  out.taped = o.integer();
  out.packed = o.address<T>();
  py::gil_scoped_release release;
  ffrl::forward(p, out);
}

/// saved: addresses of path, tape; moments on the tape; address of packed; cotangents: of u, dt,
/// residual, hvp, row_sum, grad, path
template <class T>
void backward(const py::tuple& sizes, const py::tuple& given, const py::tuple& saved, const py::tuple& cotangents,
              const py::tuple& grads) {
  const auto p = problem<T>(sizes, given);
  Reader s(saved), b(cotangents);
  const ffrl::Saved<T> kept{s.address<const T>(), s.address<T>(), s.integer(), s.address<T>()};
  ffrl::Cotangents<T> bar;
  for (const T** const x : {&bar.u, &bar.dt, &bar.residual, &bar.hvp, &bar.row_sum, &bar.grad, &bar.path})
    *x = b.address<const T>();
  const auto to = gradients<T>(grads);
  py::gil_scoped_release release;
  ffrl::backward(p, kept, bar, to);
}

/// value, weight and d_weight: addresses
template <class T>
void loss(const py::tuple& sizes, const py::tuple& given, Address value, Address weight, Address d_weight,
          const py::tuple& grads) {
  const auto p = problem<T>(sizes, given);
  const auto to = gradients<T>(grads);
  double sum = 0;
  const ffrl::Loss<T> loss{at<const T>(weight), &sum, at<T>(d_weight)};
  py::gil_scoped_release release;
  ffrl::loss(p, loss, to);
  *at<T>(value) = static_cast<T>(sum);
}

/// out: addresses of laplacian, hessian, log_det, sign
template <class T>
void curvature(const py::tuple& sizes, const py::tuple& given, const py::tuple& out) {
  const auto p = problem<T>(sizes, given);
  Reader o(out);
  const ffrl::Curvature<T> to{o.address<T>(), o.address<T>(), o.address<T>(), o.address<T>()};
  py::gil_scoped_release release;
  ffrl::curvature(p, to);
}

template <class T>
void define(py::module_& m, const std::string& suffix) {
  m.def(("forward_" + suffix).c_str(), forward<T>);
  m.def(("backward_" + suffix).c_str(), backward<T>);
  m.def(("loss_" + suffix).c_str(), loss<T>);
  m.def(("curvature_" + suffix).c_str(), curvature<T>);
  m.def(("kept_sizes_" + suffix).c_str(),
        [](const py::tuple& sizes, const py::tuple& given) {
          const auto p = problem<T>(sizes, given);
          return py::make_tuple(ffrl::tape_moment_size(p), ffrl::packed_size(p));
        },
        "Elements of the tape for one moment, and of the packed weights of a problem.");
  m.def(("fma_rate_" + suffix).c_str(),
        [](double seconds) {
          py::gil_scoped_release release;
          return ffrl::isa().template entry<T>().fma_rate(seconds);
        },
        "Multiply-adds a second of one core, counted as two operations each, measured for `seconds`.");
}

template <class T>
constexpr ffrl::bindings::Calls<T> calls() {
  return {ffrl::forward<T>, ffrl::backward<T>, ffrl::loss<T>};
}

/// Of the capsule; never ends.
const ffrl::bindings::Engine kOffered{
    calls<float>(),
    calls<double>(),
    [](std::size_t bytes) { return new ffrl::Block(bytes); },
    [](ffrl::Block* block) { delete block; },
};

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The native engine of ffrl_fast.";
  define<float>(m, "f32");
  define<double>(m, "f64");
  py::class_<ffrl::Block>(m, "Block", py::buffer_protocol(), "Bytes for a tensor, from the blocks kept between calls.")
      .def(py::init<std::size_t>())
      .def_buffer([](ffrl::Block& b) {
        return py::buffer_info(static_cast<std::uint8_t*>(b.data()), static_cast<py::ssize_t>(b.size()));
      });
  m.def("idle_bytes", &ffrl::idle_bytes, "Bytes of the blocks that no tensor uses.");
  m.def("most_idle_bytes", &ffrl::most_idle_bytes, "How many such bytes are kept.");
  m.def("release_idle", &ffrl::release_idle, "Gives those blocks back to the system.");
  m.def("isa", [] { return ffrl::isa().name; }, "The instruction set in use; chosen at the first call.");
  m.def(
      "isas",
      [] {
        py::list all;
        for (const ffrl::Isa* isa : ffrl::compiled_isas()) all.append(py::make_tuple(isa->name, isa->supported()));
        return all;
      },
      "(name, supported by this processor) of every instruction set compiled in, best first.");
  m.attr("phase_record_size") = sizeof(ffrl::PhaseRecord) / sizeof(double);
  m.def(
      "layout",
      [](Int dim, Int width, Int depth) {
        const ffrl::Layout at({dim, width, depth, true, ffrl::TimeEmbedding::none});
        return py::dict(py::arg("w_in") = at.w_in, py::arg("b_in") = at.b_in, py::arg("w_hid") = at.w_hid,
                        py::arg("b_hid") = at.b_hid, py::arg("w_out") = at.w_out, py::arg("b_out") = at.b_out,
                        py::arg("energy") = at.energy, py::arg("w_time1") = at.w_time1, py::arg("b_time1") = at.b_time1,
                        py::arg("w_time2") = at.w_time2, py::arg("b_time2") = at.b_time2);
      },
      "Offsets of a potential's weights in its row of theta; energy or w_time1 …, by the time embedding.");
  m.attr("engine") = py::capsule(static_cast<const void*>(&kOffered), ffrl::bindings::kEngine);
#ifdef FFRL_TORCH_VERSION
  m.attr("nodes_torch") = FFRL_TORCH_VERSION;  // the torch that the module _autograd was compiled for
#else
  m.attr("nodes_torch") = py::none();
#endif
  // The choice is made at import, so that a forced instruction set which cannot run is an error there and then.
  ffrl::isa();
}

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

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;
using Int = std::int64_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

/// One side of a problem, as ffrl_fast/native/problem.py spells it: addresses of theta, τ, dτ/dt; stride of theta; how
/// many potentials τ holds; D, width, depth, out_tanh, time embedding.
template <class T>
ffrl::Network<T> network(const py::tuple& n) {
  ffrl::Network<T> net;
  net.theta = at<const T>(n[0].cast<Address>());
  net.tau = at<const T>(n[1].cast<Address>());
  net.dtau = at<const T>(n[2].cast<Address>());
  net.stride = n[3].cast<Int>();
  net.conditioned = n[4].cast<Int>();
  net.shape = {n[5].cast<Int>(), n[6].cast<Int>(), n[7].cast<Int>(), n[8].cast<bool>(),
               static_cast<ffrl::TimeEmbedding>(n[9].cast<Int>())};
  return net;
}

/// threads, rows, potentials, moments, substeps, step, row_times, z, stride of z, t, selected, index, gates,
/// gates_by_step, residual, tangent, whether the rows share it, row_sum, phase records (one a thread)
template <class T>
ffrl::Problem<T> problem(const py::tuple& c, const py::tuple& potential, const py::object& force) {
  ffrl::Problem<T> p;
  p.threads = c[0].cast<int>();
  p.rows = c[1].cast<Int>();
  p.potentials = c[2].cast<Int>();
  p.moments = c[3].cast<Int>();
  p.substeps = c[4].cast<Int>();
  p.step = static_cast<T>(c[5].cast<double>());
  p.row_times = c[6].cast<bool>();
  p.z = at<const T>(c[7].cast<Address>());
  p.z_stride = c[8].cast<Int>();
  p.t = at<const T>(c[9].cast<Address>());
  p.selected = c[10].cast<Int>();
  p.index = at<const Int>(c[11].cast<Address>());
  p.gates = at<const T>(c[12].cast<Address>());
  p.gates_by_step = c[13].cast<bool>();
  p.residual = c[14].cast<bool>();
  p.tangent = at<const T>(c[15].cast<Address>());
  p.tangent_shared = c[16].cast<bool>();
  p.row_sum = c[17].cast<bool>();
  p.phases = at<ffrl::PhaseRecord>(c[18].cast<Address>());
  p.potential = network<T>(potential);
  if (!force.is_none()) p.force = network<T>(force.cast<py::tuple>());
  if (p.row_times && (p.potential.computes_time() || (p.force && p.force.computes_time())))
    throw py::value_error("tau: where every row has a time of its own, τ and dτ/dt must be given");
  return p;
}

Address address(const py::tuple& of, int i) { return of[i].cast<Address>(); }

/// Addresses of the gradients of z, t, theta, tau, dtau, force_theta, force_tau, gates, tangent.
template <class T>
ffrl::Gradients<T> gradients(const py::tuple& g) {
  return {at<T>(address(g, 0)), at<T>(address(g, 1)), at<T>(address(g, 2)), at<T>(address(g, 3)), at<T>(address(g, 4)),
          at<T>(address(g, 5)), at<T>(address(g, 6)), at<T>(address(g, 7)), at<T>(address(g, 8))};
}

/// outputs: addresses of u, dt, residual, hvp, row_sum, log_det, grad, path, tape; moments on the tape; address of
/// packed
template <class T>
void forward(const py::tuple& call, const py::tuple& potential, const py::object& force, const py::tuple& outputs) {
  const auto p = problem<T>(call, potential, force);
  ffrl::Outputs<T> out;
  T** const to[] = {&out.u,       &out.dt,   &out.residual, &out.hvp, &out.row_sum,
                    &out.log_det, &out.grad, &out.path,     &out.tape};
  for (int i = 0; i < 9; ++i) *to[i] = at<T>(address(outputs, i));
  out.taped = outputs[9].cast<Int>();
  out.packed = at<T>(address(outputs, 10));
  py::gil_scoped_release release;
  ffrl::forward(p, out);
}

/// saved: addresses of path, tape; moments on the tape; address of packed; cotangents: of u, dt,
/// residual, hvp, row_sum, grad, path
template <class T>
void backward(const py::tuple& call, const py::tuple& potential, const py::object& force, const py::tuple& saved,
              const py::tuple& cotangents, const py::tuple& grads) {
  const auto p = problem<T>(call, potential, force);
  const ffrl::Saved<T> kept{at<const T>(address(saved, 0)), at<T>(address(saved, 1)), saved[2].cast<Int>(),
                            at<T>(address(saved, 3))};
  ffrl::Cotangents<T> bar;
  const T** const of[] = {&bar.u, &bar.dt, &bar.residual, &bar.hvp, &bar.row_sum, &bar.grad, &bar.path};
  for (int i = 0; i < 7; ++i) *of[i] = at<const T>(address(cotangents, i));
  const auto to = gradients<T>(grads);
  py::gil_scoped_release release;
  ffrl::backward(p, kept, bar, to);
}

/// value, weight and d_weight: addresses
template <class T>
void loss(const py::tuple& call, const py::tuple& potential, const py::object& force, Address value, Address weight,
          Address d_weight, const py::tuple& grads) {
  const auto p = problem<T>(call, potential, force);
  const auto to = gradients<T>(grads);
  double sum = 0;
  const ffrl::Loss<T> loss{at<const T>(weight), &sum, at<T>(d_weight)};
  py::gil_scoped_release release;
  ffrl::loss(p, loss, to);
  *at<T>(value) = static_cast<T>(sum);
}

/// out: addresses of laplacian, hessian, log_det, sign
template <class T>
void curvature(const py::tuple& call, const py::tuple& potential, const py::tuple& out) {
  const auto p = problem<T>(call, potential, py::none());
  const ffrl::Curvature<T> to{at<T>(address(out, 0)), at<T>(address(out, 1)), at<T>(address(out, 2)),
                              at<T>(address(out, 3))};
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
        [](const py::tuple& call, const py::tuple& potential, const py::object& force) {
          const auto p = problem<T>(call, potential, force);
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
  // The choice is made at import, so that a forced instruction set which cannot run is an error there and then.
  ffrl::isa();
}

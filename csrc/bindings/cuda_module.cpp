// The extension module ffrl_fast._cuda: addresses, sizes and strides in, nothing kept, the GIL released.
//
// Addresses come as integers (0 for null) from tensors that ffrl_fast/gpu/cuda_engine.py has checked and keeps alive
// until the stream has passed the call.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "../../kernels/cuda/launch.hpp"

namespace py = pybind11;

namespace {

using namespace ffrl::cuda;
using Address = std::uintptr_t;
using Int = std::int64_t;

template <class T>
T* at(const py::handle& address) {
  return reinterpret_cast<T*>(address.cast<Address>());
}

/// D, width, depth, out_tanh; addresses of theta, τ, dτ/dt; stride of theta; how many networks τ holds.
Network network(const py::tuple& n) {
  Network net;
  net.dim = n[0].cast<int>();
  net.width = n[1].cast<int>();
  net.depth = n[2].cast<int>();
  net.out_tanh = n[3].cast<bool>();
  net.theta = at<const float>(n[4]);
  net.tau = at<const float>(n[5]);
  net.dtau = at<const float>(n[6]);
  net.stride = n[7].cast<Int>();
  net.conditioned = n[8].cast<int>();
  return net;
}

/// rows, networks, moments, substeps, step, row_times, z, stride of z, value_only, selected, order, first, gates,
/// gates_by_step, residual, drive, tangent, whether the rows share it, precision
Problem problem(const py::tuple& c, const py::tuple& potential, const py::object& force) {
  Problem p;
  p.rows = c[0].cast<Int>();
  p.potentials = c[1].cast<int>();
  p.moments = c[2].cast<int>();
  p.substeps = c[3].cast<int>();
  p.step = static_cast<float>(c[4].cast<double>());
  p.row_times = c[5].cast<bool>();
  p.z = at<const float>(c[6]);
  p.z_stride = c[7].cast<Int>();
  p.value_only = c[8].cast<bool>();
  p.selected = c[9].cast<int>();
  p.order = at<const int>(c[10]);
  p.first = at<const int>(c[11]);
  p.gates = at<const float>(c[12]);
  p.gates_by_step = c[13].cast<bool>();
  p.residual = c[14].cast<bool>();
  p.drive = at<const float>(c[15]);
  p.tangent = at<const float>(c[16]);
  p.tangent_shared = c[17].cast<bool>();
  p.precision = static_cast<Precision>(c[18].cast<int>());
  p.potential = network(potential);
  if (!force.is_none()) p.force = network(force.cast<py::tuple>());
  return p;
}

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

/// The device of the call's tensors, for as long as this lives.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "the current device");
    if (device != before_) check(cudaSetDevice(device), "the tensors' device");
  }
  ~OnDevice() { cudaSetDevice(before_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
};

Int workspace(const py::tuple& call, const py::tuple& potential, const py::object& force, bool backward, int device) {
  const Problem p = problem(call, potential, force);
  const OnDevice on(device);
  return workspace_floats(p, backward);
}

/// outputs: addresses of u, dt, residual, grad, path, hvp
void run_forward(const py::tuple& call, const py::tuple& potential, const py::object& force, const py::tuple& outputs,
                 Address workspace, int device, Address stream) {
  const Problem p = problem(call, potential, force);
  const Outputs out{at<float>(outputs[0]), at<float>(outputs[1]), at<float>(outputs[2]),
                    at<float>(outputs[3]), at<float>(outputs[4]), at<float>(outputs[5])};
  const py::gil_scoped_release release;
  const OnDevice on(device);
  check(forward(p, out, reinterpret_cast<float*>(workspace), reinterpret_cast<cudaStream_t>(stream)), "forward");
}

/// saved: addresses of path, grad; cotangents: of u, dt, residual, grad, path; gradients: of z, theta, tau, dtau,
/// force_theta, force_tau, gates
void run_backward(const py::tuple& call, const py::tuple& potential, const py::object& force, const py::tuple& saved,
                  const py::tuple& cotangents, const py::tuple& gradients, Address workspace, int device,
                  Address stream) {
  const Problem p = problem(call, potential, force);
  const Saved kept{at<const float>(saved[0]), at<const float>(saved[1])};
  const Cotangents bar{at<const float>(cotangents[0]), at<const float>(cotangents[1]), at<const float>(cotangents[2]),
                       at<const float>(cotangents[3]), at<const float>(cotangents[4])};
  const Gradients to{at<float>(gradients[0]), at<float>(gradients[1]), at<float>(gradients[2]), at<float>(gradients[3]),
                     at<float>(gradients[4]), at<float>(gradients[5]), at<float>(gradients[6])};
  const py::gil_scoped_release release;
  const OnDevice on(device);
  check(backward(p, kept, bar, to, reinterpret_cast<float*>(workspace), reinterpret_cast<cudaStream_t>(stream)),
        "backward");
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "The CUDA kernels of ffrl_fast.";
  m.def("workspace_floats", workspace, "Floats of workspace that a call with these sizes needs.");
  m.def("forward", run_forward);
  m.def("backward", run_backward);
}

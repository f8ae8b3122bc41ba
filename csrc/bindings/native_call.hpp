// A call of the cpu operators with torch's tensors: what autograd's nodes (autograd_module.cpp) and the operators'
// kernels (operator_kernels.cpp) have in common.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <variant>

#include "engine.hpp"
#include "problem_reader.hpp"

namespace ffrl::bindings {

using at::Tensor;
using Int = std::int64_t;

// The tensors of a call, and which of them are differentiable, as ffrl_fast/native/problem.py orders them.
enum Place { kZ, kT, kTheta, kTau, kDtau, kForceTheta, kForceTau, kIndex, kGates, kTangent, kPlaces };
constexpr std::array kDifferentiable{kZ, kT, kTheta, kTau, kDtau, kForceTheta, kForceTau, kGates, kTangent};
constexpr std::size_t kGradients = kDifferentiable.size();
using Given = std::array<Tensor, kPlaces>;
using Wanted = std::array<bool, kGradients>;

// Those of the outputs that have cotangents, in the order of ffrl_fast/native/field.py; log_det comes before kMotion.
enum Output { kU, kDt, kResidual, kHvp, kRowSum, kMotion, kOutputs };
using Cotangent = std::array<Tensor, kOutputs>;

extern const Engine* engine;

/// Where calls add their phases' times to, and how many threads that has records for; null: nothing is timed.
extern PhaseRecord* phase_records;
extern int recorded_threads;

struct DropWithGil {
  void operator()(PyObject* object) const {
    if (!Py_IsInitialized()) return;
    const py::gil_scoped_acquire gil;
    Py_DECREF(object);
  }
};

inline bool is_contiguous(const Tensor& x) { return !x.defined() || x.is_contiguous(); }

/// All of a call but its tensors, as ffrl_fast/native/plan.py has it. Of at least one row and one moment.
class Plan {
 public:
  Plan(bool is_double, const py::tuple& sizes, bool moves, bool tangent, bool log_det, Int tape, Int taped, Int packed,
       const py::tuple& plain)
      : dtype(is_double ? at::kDouble : at::kFloat),
        moves(moves),
        tangent(tangent),
        log_det(log_det),
        tape(tape),
        taped(taped),
        packed(packed),
        plain_(plain.inc_ref().ptr()) {
    if (is_double)
      problem_ = read_sizes<double>(sizes);
    else
      problem_ = read_sizes<float>(sizes);
  }

  /// Calls f with the problem of these tensors.
  template <class F>
  auto with(const Given& given, F&& f) const {
    return std::visit(
        [&]<class T>(Problem<T> p) {
          const auto address = [&](Place place) {
            return given[place].defined() ? static_cast<const T*>(given[place].const_data_ptr()) : nullptr;
          };
          p.threads = at::get_num_threads();
          if (phase_records) p.threads = std::min(p.threads, recorded_threads);
          p.phases = phase_records;
          p.z = address(kZ);
          p.t = address(kT);
          p.potential.theta = address(kTheta);
          p.potential.tau = address(kTau);
          p.potential.dtau = address(kDtau);
          p.force.theta = address(kForceTheta);
          p.force.tau = address(kForceTau);
          p.index = given[kIndex].defined() ? given[kIndex].const_data_ptr<Int>() : nullptr;
          p.gates = address(kGates);
          p.tangent = address(kTangent);
          check_times(p);
          return f(std::as_const(p));
        },
        problem_);
  }

  /// Calls f with the problem's sizes; its addresses are null.
  template <class F>
  auto sizes(F&& f) const {
    return std::visit(f, problem_);
  }

  /// Whether tensors that went through hooks of autograd lie as the sizes say.
  bool fits(const Given& given) const {
    const Tensor& z = given[kZ];
    const Int stride = sizes([](const auto& p) { return p.z_stride; });
    if (z.stride(0) != stride || (z.size(1) != 1 && z.stride(1) != 1)) return false;
    return std::all_of(given.begin() + 1, given.end(), is_contiguous);
  }

  py::handle plain() const { return plain_.get(); }

  const at::ScalarType dtype;
  const bool moves, tangent, log_det;
  const Int tape;    // elements for one moment
  const Int taped;   // moments on a tape
  const Int packed;  // elements

 private:
  std::variant<Problem<float>, Problem<double>> problem_;
  std::unique_ptr<PyObject, DropWithGil> plain_;
};

/// Of given sizes, not filled; a large one from the blocks that the engine keeps between calls.
Tensor room_of(at::IntArrayRef sizes, at::ScalarType dtype);
inline Tensor room_like(const Tensor& x) { return room_of(x.sizes(), x.scalar_type()); }

template <class T>
T* data(const Tensor& x) {
  return x.defined() ? static_cast<T*>(x.mutable_data_ptr()) : nullptr;
}

/// Room for the gradients that are wanted, others undefined. Cleared where the engine writes only a part of it.
std::array<Tensor, kGradients> room_for_gradients(const Plan& plan, const Given& given, const Wanted& wanted);

/// Whether the engine may read a tensor's memory, and nobody wants to see that: a strided tensor of the CPU, of no
/// subclass, in no function transform, not negated.
bool is_plain(const Tensor& x);

/// What a plan depends on, as numbers.
class Signature {
 public:
  /// Size and dtype, of z its strides too; false: the engine cannot read it where it lies.
  bool add(Place place, const Tensor& x);
  /// False: there is no room for more.
  bool put(at::IntArrayRef numbers);
  std::string_view bytes() const { return {reinterpret_cast<const char*>(numbers_.data()), count_ * sizeof(Int)}; }

 private:
  std::array<Int, 96> numbers_;
  std::size_t count_ = 0;
};

/// What a forward sweep writes; undefined where not asked for, or not to be saved.
struct Fields {
  Cotangent of;
  Tensor log_det, tape, packed;
};

Fields run_field(const Plan& plan, const Given& given, bool keep);

/// What a forward sweep left; the tape and the packed weights empty where it kept none.
struct SavedFields {
  Tensor path, tape, packed;
};

/// The gradients that are wanted, given the cotangents.
std::array<Tensor, kGradients> run_backward(const Plan& plan, const Given& given, const SavedFields& saved,
                                            const Cotangent& bar, const Wanted& wanted);

/// The value of the loss; its gradients go to `gradients` and `d_weight`, where they are defined.
Tensor run_loss(const Plan& plan, const Given& given, const Tensor& weight,
                const std::array<Tensor, kGradients>& gradients, const Tensor& d_weight);

/// Calls f with the interpreter. Python's errors go on as torch's own kernels throw them: kept with the exception,
/// which may end in a thread without it.
template <class F>
void with_python(F f) {
  const py::gil_scoped_acquire gil;
  try {
    f();
  } catch (py::error_already_set& error) {
    error.restore();
    python_error kept;
    kept.persist();
    throw std::move(kept);
  }
}

/// None where undefined.
py::object wrap(const Tensor& x);
/// The tensor, or an undefined one of None.
Tensor unwrap(py::handle object);

}  // namespace ffrl::bindings

#include "native_call.hpp"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/DispatchKeySet.h>
#include <torch/csrc/autograd/python_variable.h>

#include <optional>
#include <stdexcept>

namespace ffrl::bindings {
namespace {

/// As _LARGE of ffrl_fast/native/problem.py.
constexpr Int kLarge = 128 << 10;

template <class T>
Gradients<T> addresses(const std::array<Tensor, kGradients>& of) {
  return {data<T>(of[0]), data<T>(of[1]), data<T>(of[2]), data<T>(of[3]), data<T>(of[4]),
          data<T>(of[5]), data<T>(of[6]), data<T>(of[7]), data<T>(of[8])};
}

/// While the engine works, other threads may have the interpreter; callers have it or not.
class WithoutGil {
 public:
  WithoutGil() {
    if (PyGILState_Check()) release_.emplace();
  }

 private:
  std::optional<py::gil_scoped_release> release_;
};

}  // namespace

const Engine* engine = nullptr;
PhaseRecord* phase_records = nullptr;
int recorded_threads = 0;

Tensor room_of(at::IntArrayRef sizes, at::ScalarType dtype) {
  const Int bytes = c10::multiply_integers(sizes) * static_cast<Int>(c10::elementSize(dtype));
  if (bytes < kLarge) return Tensor(at::detail::empty_cpu(sizes, dtype));
  Block* const block = engine->new_block(static_cast<std::size_t>(bytes));
  return at::from_blob(
      block->data(), sizes, [block](void*) { engine->delete_block(block); }, at::TensorOptions().dtype(dtype));
}

std::array<Tensor, kGradients> room_for_gradients(const Plan& plan, const Given& given, const Wanted& wanted) {
  const bool row_times = plan.sizes([](const auto& p) { return p.row_times; });
  std::array<Tensor, kGradients> found;
  for (std::size_t i = 0; i < kGradients; ++i) {
    const Place place = kDifferentiable[i];
    if (!wanted[i] || !given[place].defined()) continue;
    const bool conditioning = place == kTau || place == kDtau || place == kForceTau;
    // Each row reaches its own gates and the conditioning of its own potential only.
    found[i] = room_like(given[place]);
    if (place == kGates || (row_times && conditioning)) found[i].zero_();
  }
  return found;
}

bool is_plain(const Tensor& x) {
  constexpr c10::DispatchKeySet usual({c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU,
                                       c10::DispatchKey::AutocastCPU, c10::DispatchKey::ADInplaceOrView});
  return !x.defined() || (x.key_set().raw_repr() & ~usual.raw_repr()) == 0;
}

bool Signature::put(at::IntArrayRef of) {
  if (count_ + of.size() > numbers_.size()) return false;
  count_ = static_cast<std::size_t>(std::copy(of.begin(), of.end(), numbers_.begin() + count_) - numbers_.begin());
  return true;
}

bool Signature::add(Place place, const Tensor& x) {
  if (!x.defined()) return put({Int{-1}});
  if (!is_plain(x) || !x.is_cpu() || !(place == kZ || x.is_contiguous())) return false;
  if (!put({static_cast<Int>(x.scalar_type()), x.dim()}) || !put(x.sizes())) return false;
  return place != kZ || put(x.strides());
}

Fields run_field(const Plan& plan, const Given& given, bool keep) {
  Fields found;
  Cotangent& out = found.of;
  plan.with(given, [&]<class T>(const Problem<T>& p) {
    const auto make = [&](at::IntArrayRef sizes) { return room_of(sizes, plan.dtype); };
    const Int rows = p.rows, dim = p.potential.shape.dim, of_steps[] = {p.steps(), rows};
    const at::IntArrayRef by_row = plan.moves ? at::IntArrayRef(of_steps) : at::IntArrayRef(&rows, 1);
    out[kU] = make(by_row);
    out[kDt] = make(by_row);
    if (p.residual) out[kResidual] = make(by_row);
    if (plan.tangent) out[kHvp] = make({rows, dim});
    if (p.row_sum) out[kRowSum] = make(by_row);
    if (plan.log_det) found.log_det = make(by_row);
    out[kMotion] = plan.moves ? make({p.moments + 1, rows, dim}) : make({rows, dim});
    if (keep) {
      found.tape = make({plan.tape * plan.taped});
      found.packed = make({plan.packed});
    }
    Outputs<T> to;
    to.u = data<T>(out[kU]);
    to.dt = data<T>(out[kDt]);
    to.residual = data<T>(out[kResidual]);
    to.hvp = data<T>(out[kHvp]);
    to.row_sum = data<T>(out[kRowSum]);
    to.log_det = data<T>(found.log_det);
    (plan.moves ? to.path : to.grad) = data<T>(out[kMotion]);
    to.tape = data<T>(found.tape);
    to.taped = keep ? plan.taped : 0;
    to.packed = data<T>(found.packed);
    const WithoutGil release;
    engine->calls<T>().forward(p, to);
  });
  return found;
}

std::array<Tensor, kGradients> run_backward(const Plan& plan, const Given& given, const SavedFields& saved,
                                            const Cotangent& bar, const Wanted& wanted) {
  Cotangent from;
  std::transform(bar.begin(), bar.end(), from.begin(),
                 [](const Tensor& x) { return x.defined() ? x.contiguous() : x; });
  const auto gradients = room_for_gradients(plan, given, wanted);
  plan.with(given, [&]<class T>(const Problem<T>& p) {
    const bool taped = saved.tape.numel() != 0;
    const Saved<T> from_forward{data<T>(saved.path), taped ? data<T>(saved.tape) : nullptr, taped ? plan.taped : 0,
                                saved.packed.numel() != 0 ? data<T>(saved.packed) : nullptr};
    const T* const motion = data<T>(from[kMotion]);
    const Cotangents<T> cotangents{data<T>(from[kU]),
                                   data<T>(from[kDt]),
                                   data<T>(from[kResidual]),
                                   data<T>(from[kHvp]),
                                   data<T>(from[kRowSum]),
                                   plan.moves ? nullptr : motion,
                                   plan.moves ? motion : nullptr};
    try {
      const WithoutGil release;
      engine->calls<T>().backward(p, from_forward, cotangents, addresses<T>(gradients));
    } catch (const std::out_of_range& error) {  // an index changed since
      TORCH_CHECK_INDEX(false, error.what());
    }
  });
  return gradients;
}

Tensor run_loss(const Plan& plan, const Given& given, const Tensor& weight,
                const std::array<Tensor, kGradients>& gradients, const Tensor& d_weight) {
  const Tensor value = room_of({}, plan.dtype);
  plan.with(given, [&]<class T>(const Problem<T>& p) {
    double sum = 0;
    const Loss<T> loss{data<T>(weight), &sum, data<T>(d_weight)};
    const auto to = addresses<T>(gradients);
    {
      const WithoutGil release;
      engine->calls<T>().loss(p, loss, to);
    }
    *data<T>(value) = static_cast<T>(sum);
  });
  return value;
}

py::object wrap(const Tensor& x) {
  if (!x.defined()) return py::none();
  PyObject* const object = THPVariable_Wrap(x);
  if (!object) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(object);
}

Tensor unwrap(py::handle object) {
  if (object.is_none()) return {};
  if (!THPVariable_Check(object.ptr())) throw py::type_error("expected a tensor or None");
  return THPVariable_Unpack(object.ptr());
}

}  // namespace ffrl::bindings

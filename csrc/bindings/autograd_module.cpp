// The extension module ffrl_fast._autograd: the cpu operators as nodes of autograd's graph and as kernels of torch's
// dispatcher (operator_kernels.cpp), compiled for one version of torch.
//
// The nodes do what the torch.autograd.Functions of ffrl_fast/native/field.py and loss.py do where nothing watches a
// call, in half the time that Python takes for it at a few rows, and leave to them what is not plain: a backward that
// is to be differentiated or traced, cotangents that are more than memory, saved tensors that hooks have moved.
#include <ATen/ops/mul.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "native_call.hpp"
#include "operator_kernels.hpp"

namespace ffrl::bindings {
namespace {

using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

/// What Python's side does for a backward that is not plain. Kept for as long as the process lives.
PyObject *watched_backward = nullptr, *watched_scaled = nullptr;

/// Whether the engine may read a backward's tensors; a tangent of forward mode would be dropped.
template <class Tensors>
bool are_plain(const Tensors& of) {
  return std::all_of(of.begin(), of.end(),
                     [](const Tensor& x) { return is_plain(x) && !(x.defined() && x._fw_grad(0).defined()); });
}

/// Whether a backward must be seen by something: it is to be differentiated, or a mode or a transform is active.
bool is_watched() {
  constexpr c10::DispatchKeySet transforms(
      {c10::DispatchKey::FuncTorchDynamicLayerFrontMode, c10::DispatchKey::FuncTorchDynamicLayerBackMode});
  return at::GradMode::is_enabled() || c10::impl::dispatch_mode_enabled() ||
         c10::impl::tls_local_dispatch_key_set().included_.has_any(transforms);
}

template <class Tensors>
py::tuple wrap_all(const Tensors& of) {
  py::tuple all(of.size());
  std::size_t i = 0;
  for (const Tensor& x : of) all[i++] = wrap(x);
  return all;
}

Given unwrap_given(const py::tuple& from) {
  if (from.size() != kPlaces) throw py::value_error("expected ten tensors");
  Given given;
  for (std::size_t i = 0; i < kPlaces; ++i) given[i] = unwrap(PyTuple_GET_ITEM(from.ptr(), i));
  return given;
}

/// Python's answer, from a thread of autograd's.
template <class... Args>
std::vector<Tensor> ask(PyObject* function, const Args&... args) {
  std::vector<Tensor> tensors;
  with_python([&] {
    const py::tuple found = py::handle(function)(args...);
    for (const py::handle x : found) tensors.push_back(unwrap(x));
  });
  return tensors;
}

/// The sizes and dtypes of a call's tensors, and the strides of z, as bytes; None where one is not a tensor that the
/// engine reads where it lies.
py::object describe(const py::tuple& from) {
  Signature signature;
  for (std::size_t i = 0; i < from.size(); ++i) {
    PyObject* const object = PyTuple_GET_ITEM(from.ptr(), i);
    if (object != Py_None && !THPVariable_CheckExact(object)) return py::none();
    if (!signature.add(static_cast<Place>(i), unwrap(object))) return py::none();
  }
  return py::bytes(signature.bytes());
}

bool requires_grad(const Tensor& x) { return x.defined() && x.requires_grad(); }

/// A tensor kept for the backward.
class Kept {
 public:
  Kept() = default;
  Kept(const Tensor& x, bool is_output) : variable_(x, is_output), hooked_(variable_.has_hooks()) {
    if (!hooked_) return;
    sizes_ = x.sizes().vec();
    dtype_ = x.scalar_type();
  }

  /// Throws where a hook of saved tensors returned one that the engine could not read as the one that was saved.
  Tensor unpack(c10::intrusive_ptr<Node> saved_for = {}) const {
    const Tensor x = variable_.unpack(std::move(saved_for));
    TORCH_CHECK(
        !hooked_ ||
            (x.layout() == at::kStrided && x.sizes() == sizes_ && x.scalar_type() == dtype_ && x.device().is_cpu()),
        "hooks of saved tensors: expected a tensor as it was saved, ", dtype_, " of shape ", at::IntArrayRef(sizes_),
        " on cpu, found ", x.scalar_type(), " of shape ", x.sizes(), " on ", x.device());
    return x;
  }

  bool hooked() const { return hooked_; }
  void release() { variable_.reset_data(); }
  const SavedVariable& variable() const { return variable_; }
  SavedVariable& variable() { return variable_; }

 private:
  SavedVariable variable_;
  bool hooked_ = false;
  std::vector<Int> sizes_;  // where it has hooks
  at::ScalarType dtype_ = at::kFloat;
};

/// Compiled autograd traces with tensors of unknown sizes in place of what hooks return.
void check_traceable(const Kept& x) {
  TORCH_CHECK_NOT_IMPLEMENTED(!x.hooked(),
                              "compiled autograd through saved tensors with hooks: FFRL_FAST_NODES=python does it");
}

using torch::dynamo::autograd::CompiledNodeArgs;
using torch::dynamo::autograd::SwapSavedVariables;

/// The field at one moment or the path along it; given its cotangents, the gradients of what was given to it.
class FieldNode final : public Node {
 public:
  FieldNode(std::shared_ptr<const Plan> plan, const Given& given) : plan_(std::move(plan)) {
    for (std::size_t i = 0; i < kPlaces; ++i) given_[i] = Kept(given[i], false);
  }

  /// What the forward sweep leaves; once its outputs have this node for their history.
  void save(const Tensor& motion, const Tensor& tape, const Tensor& packed) {
    if (plan_->moves) path_ = Kept(motion, true);
    tape_ = Kept(tape, false);
    packed_ = Kept(packed, false);
  }

  std::string name() const override { return "FFRLFieldBackward"; }

  void release_variables() override {
    const std::lock_guard lock(mutex_);
    for (Kept& x : given_) x.release();
    for (Kept* const x : {&path_, &tape_, &packed_}) x->release();
  }

  void compiled_args(CompiledNodeArgs& args) const override {
    for (const Kept& x : given_) {
      check_traceable(x);
      args.collect(x.variable(), false);
    }
    args.collect(path_.variable(), true);
    args.collect(tape_.variable(), false);
    args.collect(packed_.variable(), false);
    for (std::size_t i = 0; i < kGradients; ++i) args.collect(task_should_compute_output(i));
    const py::gil_scoped_acquire gil;
    args.collect(py::repr(plan_->plain()).cast<std::string>());
  }

  /// With tensors that are traced in place of the saved ones.
  variable_list apply_with_saved(const variable_list& bars, SwapSavedVariables& saved) override {
    std::vector<Kept*> all;
    for (Kept& x : given_) all.push_back(&x);
    all.insert(all.end(), {&path_, &tape_, &packed_});
    for (Kept* const x : all) saved.before(x->variable());
    variable_list result = apply(variable_list(bars));
    for (Kept* const x : all) saved.after(x->variable());
    return result;
  }

  variable_list apply(variable_list&& bars) override {
    const std::lock_guard lock(mutex_);
    variable_list result(kGradients);
    Given given;
    for (std::size_t i = 0; i < kPlaces; ++i) given[i] = given_[i].unpack();
    const Tensor path = path_.unpack(getptr()), tape = tape_.unpack(), packed = packed_.unpack();
    Cotangent bar;
    std::move(bars.begin(), bars.end(), bar.begin());
    if (std::none_of(bar.begin(), bar.end(), [](const Tensor& x) { return x.defined(); })) return result;
    Wanted wanted;
    for (std::size_t i = 0; i < kGradients; ++i) wanted[i] = task_should_compute_output(i);

    const std::array kept{path, tape, packed};
    const bool direct = !is_watched() && are_plain(given) && are_plain(bar) && are_plain(kept) && plan_->fits(given) &&
                        std::all_of(kept.begin(), kept.end(), is_contiguous);
    if (!direct) return leave_to_python(given, bar, kept, wanted);
    const auto gradients = run_backward(*plan_, given, {path, tape, packed}, bar, wanted);
    std::copy(gradients.begin(), gradients.end(), result.begin());
    return result;
  }

 private:
  variable_list leave_to_python(const Given& given, const Cotangent& bar, const std::array<Tensor, 3>& kept,
                                const Wanted& wanted) const {
    const py::gil_scoped_acquire gil;
    py::list flags;
    for (const bool x : wanted) flags.append(x);
    const auto found = ask(watched_backward, plan_->plain(), wrap_all(given), wrap_all(bar), wrap_all(kept), flags);
    variable_list result(kGradients);
    auto next = found.begin();
    for (std::size_t i = 0; i < kGradients; ++i)
      if (wanted[i]) result[i] = *next++;
    return result;
  }

  std::shared_ptr<const Plan> plan_;
  std::array<Kept, kPlaces> given_;
  Kept path_, tape_, packed_;
};

/// A loss whose gradients came with its value: they times its cotangent.
class LossNode final : public Node {
 public:
  /// places: for each edge the gradient that belongs to it, or −1. leaves: what is differentiated; only to be nodes of
  /// the graph of a second derivative, whose error must be raised.
  LossNode(const std::vector<Tensor>& gradients, std::array<int, kGradients + 1> places, std::vector<Tensor> leaves)
      : places_(places), leaves_(std::move(leaves)) {
    for (const Tensor& x : gradients) gradients_.emplace_back(x, false);
    // What hooks return may lie in memory that is theirs.
    hooked_ = std::any_of(gradients_.begin(), gradients_.end(), [](const Kept& x) { return x.hooked(); });
  }

  /// Called before the backward of a graph that is not kept.
  void will_release_variables() override {
    const std::lock_guard lock(mutex_);
    last_ = true;
  }

  std::string name() const override { return "FFRLHJLossBackward"; }

  void release_variables() override {
    const std::lock_guard lock(mutex_);
    for (Kept& x : gradients_) x.release();
    leaves_.clear();
  }

  void compiled_args(CompiledNodeArgs& args) const override {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(),
                                "compiled autograd of hj_loss with create_graph=True: a second derivative would be "
                                "lost; FFRL_FAST_NODES=python says so where one is asked for");
    for (const Kept& x : gradients_) {
      check_traceable(x);
      args.collect(x.variable(), false);
    }
    for (std::size_t i = 0; i < places_.size(); ++i) {
      args.collect(places_[i]);
      args.collect(task_should_compute_output(i));
    }
  }

  /// With tensors that are traced in place of the saved ones.
  variable_list apply_with_saved(const variable_list& bars, SwapSavedVariables& saved) override {
    for (Kept& x : gradients_) saved.before(x.variable());
    // A cotangent that is traced does not know that it has one element.
    const Tensor bar = bars.at(0).defined() ? bars[0].sum() : Tensor();
    variable_list result = apply({bar});
    for (Kept& x : gradients_) saved.after(x.variable());
    return result;
  }

  variable_list apply(variable_list&& bars) override {
    const std::lock_guard lock(mutex_);
    std::vector<Tensor> gradients;
    for (const Kept& x : gradients_) gradients.push_back(x.unpack());
    variable_list result(places_.size());
    const Tensor& bar = bars.at(0);
    if (!bar.defined()) return result;
    // The gradients themselves are handed out by the last backward: a graph that is kept gives each its own.
    const bool last = last_ && !hooked_;
    if (is_watched() || !are_plain(std::array{bar}) || !are_plain(gradients))
      gradients = leave_to_python(bar, gradients, last);
    else if (!last || bar.item<double>() != 1)
      for (Tensor& x : gradients) {
        Tensor to = room_like(x);
        x = at::mul_out(to, x, bar);
      }
    for (std::size_t i = 0; i < places_.size(); ++i)
      if (places_[i] >= 0 && task_should_compute_output(i)) result[i] = gradients[static_cast<std::size_t>(places_[i])];
    return result;
  }

 private:
  std::vector<Tensor> leave_to_python(const Tensor& bar, const std::vector<Tensor>& gradients, bool last) const {
    const py::gil_scoped_acquire gil;
    std::vector<Tensor> saved = gradients;
    saved.insert(saved.end(), leaves_.begin(), leaves_.end());
    return ask(watched_scaled, wrap(bar), wrap_all(saved), gradients.size(), last);
  }

  std::array<int, kGradients + 1> places_;
  std::vector<Kept> gradients_;
  std::vector<Tensor> leaves_;
  bool hooked_, last_ = false;
};

torch::autograd::edge_list edges(const Given& given) {
  torch::autograd::edge_list all;
  for (const Place place : kDifferentiable)
    all.push_back(requires_grad(given[place]) ? torch::autograd::impl::gradient_edge(given[place])
                                              : torch::autograd::Edge());
  return all;
}

bool any_requires_grad(const Given& given) {
  return at::GradMode::is_enabled() && std::any_of(kDifferentiable.begin(), kDifferentiable.end(),
                                                   [&](Place place) { return requires_grad(given[place]); });
}

/// u, dt, residual, hvp, row_sum, log_det, motion; None where not asked for.
py::tuple field(const std::shared_ptr<const Plan>& plan, const py::tuple& from) {
  const Given given = unwrap_given(from);
  const bool keep = any_requires_grad(given);
  const Fields found = run_field(*plan, given, keep);
  const Cotangent& out = found.of;
  if (keep) {
    const auto node = c10::make_intrusive<FieldNode>(plan, given);
    node->set_next_edges(edges(given));
    for (const Tensor& x : out) torch::autograd::set_history(x, node);
    node->save(out[kMotion], found.tape, found.packed);
  }
  return py::make_tuple(wrap(out[kU]), wrap(out[kDt]), wrap(out[kResidual]), wrap(out[kHvp]), wrap(out[kRowSum]),
                        wrap(found.log_det), wrap(out[kMotion]));
}

/// weight as the engine reads it.
Tensor read_weight(py::handle from) {
  const Tensor weight = unwrap(from);
  return weight.defined() ? weight.resolve_neg().contiguous() : weight;
}

/// The loss, or None where nothing requires a gradient.
py::object hj_loss(const std::shared_ptr<const Plan>& plan, const py::tuple& from, py::handle of_weight) {
  const Given given = unwrap_given(from);
  const Tensor weight = read_weight(of_weight);
  const bool of_weights = at::GradMode::is_enabled() && requires_grad(weight);
  if (!of_weights && !any_requires_grad(given)) return py::none();

  Wanted wanted;
  for (std::size_t i = 0; i < kGradients; ++i) wanted[i] = requires_grad(given[kDifferentiable[i]]);
  const auto found = room_for_gradients(*plan, given, wanted);
  const Tensor d_weight = of_weights ? room_like(weight) : Tensor();
  const Tensor value = run_loss(*plan, given, weight, found, d_weight);

  std::array<int, kGradients + 1> places;
  std::vector<Tensor> gradients, leaves;
  const auto add = [&](std::size_t edge, const Tensor& gradient, const Tensor& leaf) {
    places[edge] = gradient.defined() ? static_cast<int>(gradients.size()) : -1;
    if (!gradient.defined()) return;
    gradients.push_back(gradient);
    leaves.push_back(leaf);
  };
  for (std::size_t i = 0; i < kGradients; ++i) add(i, found[i], given[kDifferentiable[i]]);
  add(kGradients, d_weight, weight);
  auto to = edges(given);
  to.push_back(of_weights ? torch::autograd::impl::gradient_edge(weight) : torch::autograd::Edge());
  const auto node = c10::make_intrusive<LossNode>(gradients, places, std::move(leaves));
  node->set_next_edges(std::move(to));
  torch::autograd::set_history(value, node);
  return wrap(value);
}

/// The value of the loss and its gradients of z, theta, the force's theta and gates, None where these are not given.
py::tuple value_and_grad(const std::shared_ptr<const Plan>& plan, const py::tuple& from, py::handle of_weight) {
  const Given given = unwrap_given(from);
  constexpr Wanted wanted{true, false, true, false, false, true, false, true, false};
  const auto gradients = room_for_gradients(*plan, given, wanted);
  const Tensor value = run_loss(*plan, given, read_weight(of_weight), gradients, Tensor());
  return py::make_tuple(wrap(value), wrap(gradients[0]), wrap(gradients[2]), wrap(gradients[5]), wrap(gradients[7]));
}

}  // namespace
}  // namespace ffrl::bindings

PYBIND11_MODULE(_autograd, m) {
  using namespace ffrl::bindings;
  m.doc() = "Autograd's nodes of ffrl_fast, compiled for one version of torch.";
  // Errors of torch, and Python's from hooks of saved tensors, as torch would hand them on; others are pybind11's to
  // know.
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    if (!thrown) return;
    try {
      std::rethrow_exception(thrown);
    } catch (const python_error&) {
      torch::translate_exception_to_python(thrown);
    } catch (const c10::Error&) {
      torch::translate_exception_to_python(thrown);
    }
  });
  engine = py::module_::import("ffrl_fast._core").attr("engine").cast<py::capsule>().get_pointer<const Engine>();
  py::class_<Plan, std::shared_ptr<Plan>>(m, "Plan").def(
      py::init<bool, const py::tuple&, bool, bool, bool, Int, Int, Int, const py::tuple&>());
  m.def("describe", describe);
  m.def("field", field);
  m.def("hj_loss", hj_loss);
  m.def("value_and_grad", value_and_grad);
  m.def("implement", implement);
  m.def("differentiate", differentiate);
  m.def("make_plans_by", make_plans_by);
  m.def(
      "leave_to",
      [](const py::function& backward, const py::function& scaled) {
        watched_backward = backward.inc_ref().ptr();
        watched_scaled = scaled.inc_ref().ptr();
      },
      "What does a backward that is not plain: of a field, and the scaling of a loss's gradients.");
  m.def(
      "record",
      [](Address records, int threads) {
        phase_records = reinterpret_cast<ffrl::PhaseRecord*>(records);
        recorded_threads = threads;
      },
      "Where calls add their phases' times to, one record a thread; 0: nothing is timed.");
}

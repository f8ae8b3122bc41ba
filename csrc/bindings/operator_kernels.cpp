#include "operator_kernels.hpp"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/stack.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "native_call.hpp"

namespace ffrl::bindings {
namespace {

using c10::IValue;
using c10::OperatorHandle;
using torch::jit::Stack;

enum Operator { kField, kFieldBackward, kHJLoss, kOperators };
constexpr std::array kNames{"field", "field_backward", "hj_loss"};

// What all operators are given first, as INPUTS of ffrl_fast/native/problem.py; then come their own.
enum Input { kPotential = kPlaces, kShape, kResidualWanted, kRowSumWanted, kLogDetWanted, kSubsteps, kStep, kInputs };
using Arguments = c10::ArrayRef<IValue>;

/// Python's side of an operator; kept for as long as the process lives.
struct PythonSide {
  PyObject *kernel = nullptr, *gradient = nullptr;
};
std::array<PythonSide, kOperators> python_side;
PyObject* make_plan = nullptr;

std::optional<Operator> named(const std::string& name) {
  for (int i = 0; i < kOperators; ++i)
    if (name == kNames[static_cast<std::size_t>(i)]) return static_cast<Operator>(i);
  return std::nullopt;
}

Arguments arguments(const OperatorHandle& op, const Stack& stack) {
  const std::size_t count = op.schema().arguments().size();
  return Arguments(stack).slice(stack.size() - count, count);
}

Tensor tensor(const IValue& x) { return x.isNone() ? Tensor() : x.toTensor(); }

/// Rows of unit stride are read where they lie, others are copied.
Given tensors(Arguments all) {
  Given given;
  for (std::size_t i = 0; i < kPlaces; ++i) given[i] = tensor(all[i]);
  if (const Tensor& z = given[kZ]; z.size(1) != 1 && z.stride(1) != 1) given[kZ] = z.contiguous();
  return given;
}

// -------------------------------------------------------------------------------------------------- to Python and back

template <class List>
py::list as_list(const List& of) {
  py::list all;
  for (const auto& x : of) all.append(x);
  return all;
}

py::object to_python(const IValue& x) {
  if (x.isNone()) return py::none();
  if (x.isTensor()) return wrap(x.toTensor());
  if (x.isInt()) return py::int_(x.toInt());
  if (x.isBool()) return py::bool_(x.toBool());
  if (x.isDouble()) return py::float_(x.toDouble());
  if (x.isIntList()) return as_list(x.toIntVector());
  TORCH_INTERNAL_ASSERT(x.isBoolList());
  py::list all;
  for (const bool flag : x.toBoolList()) all.append(py::bool_(flag));
  return all;
}

py::tuple to_python(Arguments of) {
  py::tuple all(of.size());
  for (std::size_t i = 0; i < of.size(); ++i) all[i] = to_python(of[i]);
  return all;
}

IValue from_python(py::handle x, bool is_list) {
  if (!is_list) return unwrap(x);
  c10::List<Tensor> list;
  for (const py::handle item : x) list.push_back(unwrap(item));
  return list;
}

/// Has Python do a call.
void call_python(PyObject* function, const OperatorHandle& op, Stack* stack) {
  const auto& returns = op.schema().returns();
  const auto is_list = [&](std::size_t i) { return returns[i].type()->kind() == c10::TypeKind::ListType; };
  with_python([&] {
    const Arguments all = arguments(op, *stack);
    const py::object found = py::handle(function)(*to_python(all));
    torch::jit::drop(*stack, all.size());
    if (returns.size() == 1) {
      stack->push_back(from_python(found, is_list(0)));
      return;
    }
    std::size_t i = 0;
    for (const py::handle x : found) {
      stack->push_back(from_python(x, is_list(i)));
      ++i;
    }
  });
}

// ------------------------------------------------------------------------------------------------------------ its plan

using Plans = std::unordered_map<std::string, std::shared_ptr<const Plan>>;
constexpr std::size_t kMostPlans = 1024;

/// The plan of a call, null where Python must run it.
std::shared_ptr<const Plan> plan_of(const Given& given, Arguments all) {
  Signature signature;
  for (int i = 0; i < kPlaces; ++i)
    if (!signature.add(static_cast<Place>(i), given[static_cast<std::size_t>(i)])) return nullptr;
  const auto shape = all[kShape].toIntVector();
  if (!signature.put({all[kPotential].toInt(), static_cast<Int>(shape.size())}) || !signature.put(shape) ||
      !signature.put({all[kResidualWanted].toBool(), all[kRowSumWanted].toBool(), all[kLogDetWanted].toBool(),
                      all[kSubsteps].toInt(), std::bit_cast<Int>(all[kStep].toDouble())}))
    return nullptr;

  // Never destroyed: threads may outlive static destructors.
  static std::mutex& mutex = *new std::mutex;
  static Plans& plans = *new Plans;
  std::string key(signature.bytes());
  {
    const std::lock_guard lock(mutex);
    if (const auto found = plans.find(key); found != plans.end()) return found->second;
  }
  std::shared_ptr<const Plan> plan;
  with_python([&] { plan = py::handle(make_plan)(*to_python(all.slice(0, kInputs))).cast<std::shared_ptr<Plan>>(); });
  const std::lock_guard lock(mutex);
  if (plans.size() >= kMostPlans) plans.clear();
  plans.emplace(std::move(key), plan);
  return plan;
}

// --------------------------------------------------------------------------------------------------------- the kernels

/// What a call of the engine throws, as torch's operators do.
template <class F>
void in_terms_of_torch(F f) {
  try {
    f();
  } catch (const std::out_of_range& error) {
    TORCH_CHECK_INDEX(false, error.what());
  } catch (const py::value_error& error) {
    TORCH_CHECK_VALUE(false, error.what());
  }
}

/// An operator cannot return nothing; no two outputs may share memory.
Tensor or_empty(const Tensor& x, const Plan& plan) { return x.defined() ? x : room_of({0}, plan.dtype); }

bool may_read(const Tensor& x, const Plan& plan) {
  return !x.defined() || (is_plain(x) && x.scalar_type() == plan.dtype);
}

void field(const OperatorHandle& op, Stack* stack) {
  const Arguments all = arguments(op, *stack);
  const Given given = tensors(all);
  const auto plan = plan_of(given, all);
  if (!plan) return call_python(python_side[kField].kernel, op, stack);
  in_terms_of_torch([&] {
    const Fields found = run_field(*plan, given, all[kInputs].toInt() != 0);
    const Cotangent& of = found.of;
    torch::jit::drop(*stack, all.size());
    for (const Tensor* const x : {&of[kU], &of[kDt], &of[kResidual], &of[kHvp], &of[kRowSum], &found.log_det,
                                  &of[kMotion], &found.tape, &found.packed})
      stack->push_back(or_empty(*x, *plan));
  });
}

void field_backward(const OperatorHandle& op, Stack* stack) {
  const Arguments all = arguments(op, *stack);
  const Given given = tensors(all);
  const auto plan = plan_of(given, all);
  Arguments own = all.slice(kInputs);
  Cotangent bar;
  for (std::size_t i = 0; i < kOutputs; ++i) bar[i] = tensor(own[i]);
  own = own.slice(kOutputs);
  const SavedFields saved{tensor(own[0]), tensor(own[1]), tensor(own[2])};
  const auto is_readable = [&](const Tensor& x) { return may_read(x, *plan) && is_contiguous(x); };
  const auto has = [](const Tensor& x, Int elements) { return x.numel() == 0 || x.numel() == elements; };
  const bool direct = plan &&
                      std::all_of(bar.begin(), bar.end(), [&](const Tensor& x) { return may_read(x, *plan); }) &&
                      is_readable(saved.path) && is_readable(saved.tape) && is_readable(saved.packed) &&
                      has(saved.tape, plan->tape * plan->taped) && has(saved.packed, plan->packed);
  if (!direct) return call_python(python_side[kFieldBackward].kernel, op, stack);
  Wanted wanted;
  const auto flags = own[3].toBoolList();
  for (std::size_t i = 0; i < kGradients; ++i) wanted[i] = flags[i];
  in_terms_of_torch([&] {
    c10::List<Tensor> gradients;
    for (const Tensor& x : run_backward(*plan, given, saved, bar, wanted))
      if (x.defined()) gradients.push_back(x);
    torch::jit::drop(*stack, all.size());
    stack->push_back(std::move(gradients));
  });
}

void hj_loss(const OperatorHandle& op, Stack* stack) {
  const Arguments all = arguments(op, *stack);
  const Given given = tensors(all);
  const auto plan = plan_of(given, all);
  Tensor weight = tensor(all[kInputs]);
  if (!plan || !may_read(weight, *plan)) return call_python(python_side[kHJLoss].kernel, op, stack);
  const auto flags = all[kInputs + 1].toBoolList();
  Wanted wanted;
  for (std::size_t i = 0; i < kGradients; ++i) wanted[i] = flags[i];
  if (weight.defined()) weight = weight.contiguous();
  const Tensor d_weight = weight.defined() && flags[kGradients] ? room_like(weight) : Tensor();
  in_terms_of_torch([&] {
    const auto found = room_for_gradients(*plan, given, wanted);
    const Tensor value = run_loss(*plan, given, weight, found, d_weight);
    c10::List<Tensor> gradients;
    for (const Tensor& x : found)
      if (x.defined()) gradients.push_back(x);
    if (d_weight.defined()) gradients.push_back(d_weight);
    torch::jit::drop(*stack, all.size());
    stack->push_back(value);
    stack->push_back(std::move(gradients));
  });
}

/// Autograd's part of an operator: nothing where no gradient is needed.
template <Operator kOperator>
void autograd(const OperatorHandle& op, c10::DispatchKeySet keys, Stack* stack) {
  const Arguments all = arguments(op, *stack);
  const bool needed = c10::GradMode::is_enabled() && std::any_of(all.begin(), all.end(), [](const IValue& x) {
                        return x.isTensor() && x.toTensor().requires_grad();
                      });
  if (needed) return call_python(python_side[kOperator].gradient, op, stack);
  const at::AutoDispatchBelowAutograd below;
  op.redispatchBoxed(keys & c10::after_autograd_keyset, stack);
}

c10::KernelFunction kernel_of(Operator which) {
  using c10::KernelFunction;
  switch (which) {
    case kField:
      return KernelFunction::makeFromBoxedFunction<&field>();
    case kFieldBackward:
      return KernelFunction::makeFromBoxedFunction<&field_backward>();
    default:
      return KernelFunction::makeFromBoxedFunction<&hj_loss>();
  }
}

void register_kernel(Operator which, c10::DispatchKey key, c10::KernelFunction kernel) {
  // What it returns would take the kernel back.
  static auto& handles = *new std::vector<c10::RegistrationHandleRAII>;
  const c10::OperatorName name(std::string("ffrl_fast::") + kNames[which], "");
  handles.push_back(c10::Dispatcher::singleton().registerImpl(name, key, std::move(kernel), std::nullopt, nullptr,
                                                              "ffrl_fast._autograd"));
}

}  // namespace

bool implement(const std::string& name, const py::function& python) {
  const auto which = named(name);
  if (!which) return false;
  python_side[*which].kernel = python.inc_ref().ptr();
  register_kernel(*which, c10::DispatchKey::CPU, kernel_of(*which));
  return true;
}

void differentiate(const std::string& name, const py::function& python) {
  const auto which = named(name);
  if (!which) return;
  python_side[*which].gradient = python.inc_ref().ptr();
  using c10::KernelFunction;
  register_kernel(*which, c10::DispatchKey::AutogradCPU,
                  *which == kField ? KernelFunction::makeFromBoxedFunction<&autograd<kField>>()
                                   : KernelFunction::makeFromBoxedFunction<&autograd<kFieldBackward>>());
}

void make_plans_by(const py::function& python) { make_plan = python.inc_ref().ptr(); }

}  // namespace ffrl::bindings

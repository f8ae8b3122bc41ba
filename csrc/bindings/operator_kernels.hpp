// The torch operators of ffrl_fast/native for the CPU, as the dispatcher calls them: a compiled graph does, which
// cannot hold autograd's nodes. In Python such a call takes 150 µs and its backward as much, whatever there is to
// compute.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace ffrl::bindings {

namespace py = pybind11;

/// Makes a kernel of this module that of the operator `ffrl_fast::name` on the CPU, false where it has none. `python`
/// takes over where the engine cannot read the tensors where they lie.
bool implement(const std::string& name, const py::function& python);

/// Likewise of its gradient: `python` is called where one is needed, and nothing where not.
void differentiate(const std::string& name, const py::function& python);

/// What makes the Plan of an operator's inputs, or None where Python must run it.
void make_plans_by(const py::function& python);

}  // namespace ffrl::bindings

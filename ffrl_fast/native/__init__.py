"""The native operators as torch operators: registration, autograd, vmap.

``ffrl_fast::field`` (field.py) evaluates the field of the potentials, and with ``substeps`` ≥ 1 moves the rows along it
from moment to moment; ``ffrl_fast::hj_loss`` (loss.py) is a loss and its gradients in one sweep;
``ffrl_fast::curvature`` (second_order.py) has the second derivatives. Each is registered with ``torch.library``, with a
fake implementation (for ``torch.compile``) and a vmap rule. Their autograd is a ``torch.autograd.Function`` around
each, at a third of the cost of ``torch.library.register_autograd``. Where nobody listens to the dispatcher
(dispatch.py) a call does without it, without what ``Function.apply`` does for function transforms, and with a node of
few inputs: at B = 1 these are half of a call's time. What the sizes of a call's tensors decide is its plan (plan.py),
which calls of the same signature share (ffrl_fast/calls.py).

The backward of the backward is not native. It raises an error that says so; a silent zero or a detached gradient would
be worse than none.
"""

from ffrl_fast.native.dispatch import is_direct
from ffrl_fast.native.field import Evaluated, evaluate, evaluate_directly
from ffrl_fast.native.loss import hj_loss, hj_loss_directly, hj_value_and_grad, hj_value_and_grad_directly
from ffrl_fast.native.plan import Plan, describe, kept_sizes, numbers, prepare, prepare_direct, record_phases
from ffrl_fast.native.problem import DIFFERENTIABLE, Given, Inputs, release_memory
from ffrl_fast.native.second_order import HESSIAN, LAPLACIAN, LOG_DET, curvature

__all__ = [
    "DIFFERENTIABLE",
    "HESSIAN",
    "LAPLACIAN",
    "LOG_DET",
    "Evaluated",
    "Given",
    "Inputs",
    "Plan",
    "curvature",
    "describe",
    "evaluate",
    "evaluate_directly",
    "hj_loss",
    "hj_loss_directly",
    "hj_value_and_grad",
    "hj_value_and_grad_directly",
    "is_direct",
    "kept_sizes",
    "numbers",
    "prepare",
    "prepare_direct",
    "record_phases",
    "release_memory",
]

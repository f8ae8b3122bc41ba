"""How the native operators are reached: through torch's dispatcher or past it; what their gradients have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ffrl_fast.native import nodes
from ffrl_fast.native.problem import DIFFERENTIABLE

_library = torch.library.Library("ffrl_fast", "DEF")

_CPU: dict[str, Callable[..., Any]] = {}


def register(name: str, schema: str, cpu: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """The operator ``ffrl_fast::name``: its CPU implementation, and the one that torch.compile traces."""
    _CPU[name] = cpu
    _library.define(f"{name}{schema}")
    # Of those in C++ this one takes over where tensors are not plain.
    if nodes.compiled is None or not nodes.compiled.implement(name, cpu):
        _library.impl(name, cpu, "CPU")
    torch.library.register_fake(f"ffrl_fast::{name}", fake, lib=_library)


def register_everywhere(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """The operator ``ffrl_fast::name`` of one implementation for every device."""
    _library.define(f"{name}{schema}")
    _library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"ffrl_fast::{name}", fake, lib=_library)


def register_vmap(name: str, rule: Callable[..., Any]) -> None:
    torch.library.register_vmap(f"ffrl_fast::{name}", rule, lib=_library)


_FROZEN = (
    "a function transform under torch.compile differentiates the native operators only where some tensor of the call "
    "requires a gradient, as parameters that are not frozen do; backend='reference' needs none"
)


def register_autograd(name: str, function: Any) -> None:
    """The gradient of ``function``, a torch.autograd.Function, for the operator itself.

    An operator reached without its Function, as under a compiled function transform where nothing else requires a
    gradient, must not have a silent gradient of zero.
    """
    torch.library.register_autograd(
        f"ffrl_fast::{name}", function.backward, setup_context=function.setup_context, lib=_library
    )
    if nodes.compiled is not None:

        def differentiate(*args: Any) -> Any:
            if _transforms_active():
                raise RuntimeError(_FROZEN)
            return function.apply(*args)

        nodes.compiled.differentiate(name, differentiate)


_PLAIN = (Tensor, torch.nn.Parameter)
# Looked up once: a call asks all of them.
_transforms_active = torch._C._are_functorch_transforms_active
_dispatch_modes = torch._C._len_torch_dispatch_stack
_is_tracing = torch._C._is_tracing
_is_profiled = torch._C._autograd._profiler_enabled
_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


def is_plain(x: Tensor) -> bool:
    """Whether it is a tensor of no other class than torch's own, not a function transform's, and in memory."""
    return type(x) in _PLAIN and not _is_wrapped(x) and not x._is_zerotensor()


def is_direct(*tensors: Tensor | None) -> bool:
    """Whether nothing needs to see the operators go through the dispatcher.

    No tracer, dispatch mode, function transform, forward-mode level or profiler is active, and the tensors are plain.
    """
    if (
        torch.compiler.is_compiling()
        or _transforms_active()
        or _dispatch_modes() != 0
        or _is_tracing()
        or _is_profiled()
        or forward_ad._current_level >= 0
    ):
        return False
    for x in tensors:  # noqa: SIM110 - a comprehension is one call more
        if x is not None and not is_plain(x):
            return False
    return True


#: A batch of cotangents of ``torch.autograd.grad(…, is_grads_batched=True)``.
is_batched = torch._C._functorch.is_legacy_batchedtensor


def check_cotangents(cotangents: Sequence[Tensor | None]) -> None:
    """No operator of ours can take batches of them: they have no memory to point at."""
    if not torch.compiler.is_compiling() and any([x is not None and is_batched(x) for x in cotangents]):
        raise NotImplementedError(
            "the native backends take no batches of cotangents (is_grads_batched=True, jacobian(vectorize=True)); use "
            "torch.func.jacrev or vmap, or run the forward with backend='reference'"
        )


def _may_go_directly(args: Sequence[Any]) -> bool:
    return is_direct(*[x for x in args if isinstance(x, Tensor)])


def run_operator(name: str, args: tuple[Any, ...]) -> Any:
    """The operator, through the dispatcher or past it."""
    return _CPU[name](*args) if _may_go_directly(args) else getattr(torch.ops.ffrl_fast, name)(*args)


_SECOND_ORDER = (
    "the native backends have gradients of first order only, and a gradient of second order was asked for "
    "(backward through a backward); run the forward with backend='reference' for any order"
)


def direct_apply(function: Any) -> Callable[..., Any]:
    """``function.apply`` for direct calls: without the step before, which no function transform then needs.

    That one binds default arguments by ``inspect.signature``, at 10 µs a call.
    """
    return super(torch.autograd.Function, function).apply


def in_transform() -> bool:
    """Whether a function transform, maybe a compiled one, may differentiate what is computed."""
    return torch.compiler.is_compiling() or _transforms_active()


def in_forward_mode() -> bool:
    """Whether tensors may carry tangents of forward-mode derivatives."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def _no_forward_mode(*_: Any) -> Any:
    raise NotImplementedError(
        "the native backends have no forward-mode derivatives; run the forward with backend='reference', "
        "or ask potential_field for ∇²u times a direction by tangent="
    )


@cache
def _refusing_forward_mode(function: Any) -> Any:
    """The function itself cannot say so: torch.compile does not trace one that has a jvp."""
    return type(function.__name__, (function,), {"jvp": staticmethod(_no_forward_mode)})


def apply_function(function: Any, args: tuple[Any, ...]) -> Any:
    """``function.apply(*args)``, directly where it can be."""
    if _may_go_directly(args):
        return direct_apply(function)(*args)
    return (_refusing_forward_mode(function) if in_forward_mode() else function).apply(*args)


def place_gradients(gradients: Sequence[Tensor], wanted: Sequence[bool], length: int) -> list[Tensor | None]:
    """Gradients, only those wanted, at the places of the inputs that they belong to."""
    result: list[Tensor | None] = [None] * length
    left = iter(gradients)
    for place, want in zip(DIFFERENTIABLE, wanted, strict=False):
        if want:
            result[place] = next(left)
    return result


def wanted_gradients(ctx: Any, inputs: Sequence[Any]) -> list[bool]:
    """Which gradients a backward is asked for."""
    if torch.compiler.is_compiling():
        # A function transform that is compiled does not mark what it differentiates.
        return [inputs[i] is not None for i in DIFFERENTIABLE]
    return [ctx.needs_input_grad[i] for i in DIFFERENTIABLE]


def requires_grad(x: Tensor) -> bool:
    """Also where ``x`` is mapped: a tensor of ``vmap`` does not say what the ones in it require."""
    if torch.compiler.is_compiling() or not _transforms_active():
        return x.requires_grad
    while not x.requires_grad:
        if not _is_wrapped(x):
            return False
        x = torch._C._functorch.get_unwrapped(x)
    return True


def which_require_grad(given: Sequence[Any]) -> list[bool]:
    """Of the tensors of a call."""
    if not torch.is_grad_enabled():
        return [False] * len(DIFFERENTIABLE)
    found = [(x := given[i]) is not None and requires_grad(x) for i in DIFFERENTIABLE]
    if torch.compiler.is_compiling() and any(found):
        # A function transform that is compiled does not mark what it differentiates.
        return [given[i] is not None for i in DIFFERENTIABLE]
    return found


def needs_function(given: Sequence[Any]) -> bool:
    """Whether a call must go through its torch.autograd.Function: something requires a gradient, or may carry the
    tangent of a forward-mode derivative, which is an error there and would be zero without a word elsewhere."""
    return in_forward_mode() or any(which_require_grad(given))


class FirstOrderOnly(torch.autograd.Function):
    """An operator whose own gradient may be asked for but does not exist: that is an error, not silence.

    ``once_differentiable`` would not do: it was seen to drop gradients without a word.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        raise RuntimeError(_SECOND_ORDER)

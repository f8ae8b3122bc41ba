"""How the native operators are reached: through torch's dispatcher or past it; what their gradients have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ffrl_fast.native.problem import DIFFERENTIABLE, Inputs

_library = torch.library.Library("ffrl_fast", "DEF")

_CPU: dict[str, Callable[..., Any]] = {}


def register(name: str, schema: str, cpu: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """The operator ``ffrl_fast::name``: its CPU implementation, and the one that torch.compile traces."""
    _CPU[name] = cpu
    _library.define(f"{name}{schema}")
    _library.impl(name, cpu, "CPU")
    torch.library.register_fake(f"ffrl_fast::{name}", fake, lib=_library)


def register_everywhere(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """The operator ``ffrl_fast::name`` of one implementation for every device."""
    _library.define(f"{name}{schema}")
    _library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"ffrl_fast::{name}", fake, lib=_library)


def register_vmap(name: str, rule: Callable[..., Any]) -> None:
    torch.library.register_vmap(f"ffrl_fast::{name}", rule, lib=_library)


def register_autograd(name: str, function: Any) -> None:
    """The gradient of ``function``, a torch.autograd.Function, for the operator itself.

    An operator reached without its Function, as under a compiled function transform where nothing else requires a
    gradient, must not have a silent gradient of zero.
    """
    torch.library.register_autograd(
        f"ffrl_fast::{name}", function.backward, setup_context=function.setup_context, lib=_library
    )


_PLAIN = (Tensor, torch.nn.Parameter)


def is_direct(z: Tensor, theta: Tensor) -> bool:
    """Whether nothing needs to see the operators go through the dispatcher.

    No tracer, dispatch mode, function transform or profiler is active, and the tensors are plain.
    """
    return (
        not torch.compiler.is_compiling()
        and type(z) in _PLAIN
        and type(theta) in _PLAIN
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._is_tracing()
        and not torch._C._autograd._profiler_enabled()
        and not torch._C._functorch.is_functorch_wrapped_tensor(z)
        and not torch._C._functorch.is_functorch_wrapped_tensor(theta)
    )


def run_operator(name: str, args: tuple[Any, ...]) -> Any:
    """The operator, through the dispatcher or past it."""
    return _CPU[name](*args) if is_direct(args[0], args[2]) else getattr(torch.ops.ffrl_fast, name)(*args)


_SECOND_ORDER = (
    "the native backends have gradients of first order only, and a gradient of second order was asked for "
    "(backward through a backward); run the forward with backend='reference' for any order"
)


def apply_function(function: Any, args: tuple[Any, ...]) -> Any:
    """``function.apply(*args)``.

    Where no function transform needs it, without the step before: that one binds default arguments by
    ``inspect.signature``, at 10 µs a call.
    """
    if is_direct(args[0], args[2]):
        return super(torch.autograd.Function, function).apply(*args)
    return function.apply(*args)


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


def which_require_grad(inputs: Inputs) -> list[bool]:
    if not torch.is_grad_enabled():
        return [False] * len(DIFFERENTIABLE)
    found = [isinstance(x := inputs[i], Tensor) and x.requires_grad for i in DIFFERENTIABLE]
    if torch.compiler.is_compiling() and any(found):
        # A function transform that is compiled does not mark what it differentiates.
        return [isinstance(inputs[i], Tensor) for i in DIFFERENTIABLE]
    return found


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
